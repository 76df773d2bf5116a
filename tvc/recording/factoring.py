"""Writes the difference that terms make as a low-rank adapter, and says what that leaves of it.

The difference is read as a checkout reads it (what a training kept of it, if it did), one matrix at
a time and worker, and replaced by the nearest of a rank; the share of the energy (the squared
Frobenius norm) that is kept is measured on the factors as they are written. An adapter that was
taken in gives its own factors, where they fit the rank. What an adapter cannot hold is counted, not
passed over in silence. Absent on purpose: which modules fit (`tvc.models.adapter_targets`), and
putting the folder in its place.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.parts import natural_key
from tvc.domain.plan import Action, Combine, LowRank, Scaled
from tvc.domain.planning import plan_difference
from tvc.domain.recipe import Recipe, Sum, vector_names
from tvc.domain.vector import Factors
from tvc.evaluation.engine import Evaluator, run_each
from tvc.evaluation.numbers import from_numbers, to_numbers
from tvc.merging.kernels import dot
from tvc.merging.truncation import residual, spectrum, truncate
from tvc.models.adapter_config import lora_config
from tvc.models.adapter_targets import MAX_RANK, TargetModules, target_modules, why_not
from tvc.models.adapter_writer import AdapterWriter
from tvc.models.strict_json import parse_object
from tvc.recording.kept_energy import Exported, Kept, Left
from tvc.repository.objects import Objects
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec

__all__ = ["NothingToExport", "Wanted", "export_factors"]

_SLACK: Final = 1e-12
"""Relative error of sums of energies: all of them is enough where 1 is asked for."""


class NothingToExport(InputError):
    """A difference has nothing that an adapter could hold, or not as much of it as was asked."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What kind of adapter is wanted.

    Args:
        rank: Of the factors, at most; None for the smallest that keeps `energy`.
        energy: Share of the whole difference's energy, above 0 to 1.
        modules: Last words of the modules that may be changed; empty for all that vLLM can adapt.

    Raises:
        InputError: The rank is less than 1, or the energy no such share.
    """

    rank: int | None = None
    energy: float = 0.9
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise InputError(f"a rank is 1 or more, not {self.rank}")
        if not 0 < self.energy <= 1:
            raise InputError(f"a share of the energy is above 0 and at most 1, not {self.energy}")


def export_factors(
    objects: Objects,
    terms: Sum,
    folder: Path,
    *,
    base: str,
    wanted: Wanted,
    workers: int = 2,
    on_plan: Callable[[int], Callable[[int], None]],
) -> Exported:
    """Write the adapter nearest to a sum of terms.

    Args:
        objects: Where weights come from; its library knows the vectors.
        terms: In normal form.
        folder: An empty folder.
        base: Id of the base that the terms are laid over.
        wanted: What kind of adapter.
        workers: Matrices at a time; the files are the same for every number.
        on_plan: Called with the bytes to be looked at; returns the function told of progress.

    Raises:
        UnsupportedAdapter: It is not known what vLLM can adapt of this architecture.
        NothingToExport: No adapter can hold anything of the difference, or so much of it.
        InputError: The difference is not finite, or a module is none that can be adapted.
        IntegrityError: An object is damaged.
    """
    factoring = _Factoring(objects, Recipe(base, terms), wanted.modules, workers)
    on_bytes = on_plan(2 * sum(spec.nbytes for spec in factoring.specs.values()))
    factoring.measure(spectra=wanted.rank is None, on_bytes=on_bytes)
    rank = wanted.rank or factoring.smallest_rank(wanted.energy)
    return factoring.write(folder, rank, on_bytes=on_bytes)


class _Factoring:
    """One difference on its way into an adapter.

    Args:
        objects: Where weights come from.
        recipe: The terms, over the base.
        modules: Last words of the modules that may be changed; empty for all.
        workers: Matrices at a time.
    """

    def __init__(
        self, objects: Objects, recipe: Recipe, modules: tuple[str, ...], workers: int
    ) -> None:
        planned = plan_difference(recipe, objects.library)
        self.specs = planned.specs()
        self._objects = objects
        self._recipe = recipe
        self._workers = workers
        self._evaluator = Evaluator(objects, planned, workers=workers, cache=objects.cache)
        self._base = objects.library.snapshot(recipe.base)
        modules_of = self._modules(modules)
        self._reasons = {name: self._why_not(name, modules_of) for name in self.specs}
        self.targets = sorted(name for name, reason in self._reasons.items() if reason is None)
        self._own = {name: own for name in self.targets if (own := _own(planned.actions[name]))}
        self._squares: dict[str, float] = {}
        self._spectra: dict[str, npt.NDArray[np.float64]] = {}

    def _modules(self, chosen: tuple[str, ...]) -> TargetModules:
        identity = self._base.files.get("config.json")
        if identity is None:
            raise NothingToExport("the base has no config.json, which says what it is")
        config = parse_object(self._objects.read_blob(identity), what="config.json of the base")
        return target_modules(config, chosen)

    def _why_not(self, name: str, modules: TargetModules) -> str | None:
        spec, ref = self.specs[name], self._base.tensors[name]
        return why_not(name, ref, modules) if spec.shape == ref.spec.shape else "grown tensors"

    def measure(self, *, spectra: bool, on_bytes: Callable[[int], None]) -> None:
        """Take the energy of every tensor, and the spectrum of every target if wanted."""
        self._evaluator.prepare()

        def look(name: str) -> None:
            delta = self._evaluator.difference(name)
            flat = delta.reshape(-1)
            self._squares[name] = square = dot(flat, flat)
            if not math.isfinite(square):
                raise InputError(f"the difference of {printable(name)} is not finite throughout")
            if spectra and self._reasons[name] is None:
                self._spectra[name] = spectrum(delta)
            on_bytes(self.specs[name].nbytes)

        run_each(look, self.specs, workers=self._workers)
        if not any(self._squares[name] for name in self.targets):
            found = ", ".join(sorted({reason for reason in self._reasons.values() if reason}))
            raise NothingToExport(
                "there is nothing in it that an adapter could hold"
                + (f", only {found}" if found else ": no weight is changed"),
                hint="write the whole model with `tvc checkout`" if found else None,
            )

    def smallest_rank(self, energy: float) -> int:
        """Return the smallest rank that keeps a share of the whole energy."""
        total = math.fsum(self._squares.values())
        kept = np.zeros(max(map(len, self._spectra.values())))
        for name in self.targets:
            sums = np.cumsum(self._spectra[name])
            kept += np.pad(sums, (0, len(kept) - len(sums)), mode="edge")
        shares = kept / total
        enough = np.flatnonzero(shares >= energy * (1 - _SLACK))
        if not enough.size:
            raise NothingToExport(
                f"an adapter can hold {_percent(shares[-1])} of the energy at most, not "
                f"{energy:.4g}: the rest is in {', '.join(self._others())}",
                hint="ask for less with --energy",
            )
        rank = int(enough[0]) + 1
        if rank > MAX_RANK:
            raise NothingToExport(
                f"{energy:.4g} of the energy needs rank {rank}, vLLM takes at most {MAX_RANK}",
                hint=f"--rank {MAX_RANK} keeps {_percent(shares[MAX_RANK - 1])}",
            )
        return rank

    def _others(self) -> list[str]:
        return sorted({reason for reason in self._reasons.values() if reason}) or ["nothing else"]

    def write(self, folder: Path, rank: int, *, on_bytes: Callable[[int], None]) -> Exported:
        """Write the folder at a rank, or at the largest that a matrix has where that is less."""
        own = {name: each for name, each in self._own.items() if each.down.spec.shape[0] <= rank}
        ranks = {
            name: own[name].down.spec.shape[0] if name in own else min(rank, *spec.shape)
            for name in self.targets
            for spec in [self.specs[name]]
        }
        width, scale = max(ranks.values()), self._scale(own)
        pairs = {
            name: _pair_specs(self.specs[name], width, own.get(name), scale)
            for name in self.targets
        }
        config = lora_config(width, scale, self._module_names(), base=self._source())
        writer = AdapterWriter(folder, pairs, config)
        kept: dict[str, Kept] = {}

        def factor(name: str) -> None:
            missing, exact = 0.0, own.get(name)
            if exact:
                down, up = self._own_bytes(exact, scale)
            else:
                delta = self._evaluator.difference(name)
                factors = truncate(delta, ranks[name])
                missing = residual(delta, factors)
                down, up = (from_numbers(each.reshape(-1), "F32") for each in factors)
            writer.write(name, *_padded(down, up, ranks[name], pairs[name]))
            kept[name] = Kept(ranks[name], self._squares[name], missing, exact is not None)
            on_bytes(self.specs[name].nbytes)

        run_each(factor, self.targets, workers=self._workers)
        writer.finish()
        return Exported(
            width,
            scale,
            {name: kept[name] for name in sorted(kept, key=natural_key)},
            self._left(),
            self._changed_files(),
            sum(spec.nbytes for pair in pairs.values() for spec in pair),
        )

    def _scale(self, own: Mapping[str, Factors]) -> Fraction:
        """Return the one scale of the adapter: its own where it has one for all its factors."""
        scales = {each.scale for each in own.values()}
        return scales.pop() if len(scales) == 1 and len(own) == len(self.targets) else Fraction(1)

    def _own_bytes(self, own: Factors, scale: Fraction) -> tuple[ByteArray, ByteArray]:
        """Return the bytes of an adapter's own factors, B multiplied where the scale is not its."""
        down, up = (self._objects.read_tensor(ref.id)[1] for ref in (own.down, own.up))
        if own.scale != scale:
            numbers = to_numbers(up, own.up.spec.dtype, np.float64) * float(own.scale / scale)
            up = from_numbers(numbers, "F32")
        return down, up

    def _module_names(self) -> list[str]:
        """Return names of the modules: their last word where all that are called so are in it."""
        changed = set(self.targets)
        names: set[str] = set()
        for target in self.targets:
            module = target.removesuffix(".weight")
            last = module.rpartition(".")[2]
            alike = {name for name in self._base.tensors if name.endswith(f".{last}.weight")}
            names.add(last if alike <= changed else module)
        return sorted(names, key=natural_key)

    def _source(self) -> str:
        """Return where the base is had from, as the repository has it."""
        bases = self._objects.library.bases.values()
        return next(base.source for base in bases if base.snapshot == self._recipe.base)

    def _left(self) -> dict[str, Left]:
        library = self._objects.library
        found = {
            name: Left(reason, self._squares[name])
            for name, reason in self._reasons.items()
            if reason is not None
        }
        for vector in vector_names(self._recipe.terms):
            for name in library.changed(vector) - self.specs.keys():
                found[name] = Left("integers, or not in the base", None)
        return {name: found[name] for name in sorted(found, key=natural_key)}

    def _changed_files(self) -> tuple[str, ...]:
        library = self._objects.library
        changed: set[str] = set()
        for vector in set(vector_names(self._recipe.terms)):
            record = library.record(vector)
            if record.kind == "fine-tune":
                before = library.snapshot(record.parent_snapshot).files
                after = library.snapshot(record.content).files
                changed |= {path for path, blob in after.items() if before.get(path) != blob}
        return tuple(sorted(changed))


def _own(action: Action) -> Factors | None:
    """Return the factors that a difference consists of, where it is nothing else."""
    match action:
        case Combine(terms=(Scaled(Fraction(numerator=1, denominator=1), LowRank(factors)),)):
            return None if factors.transposed else factors
        case _:
            return None


def _pair_specs(
    spec: TensorSpec, rank: int, own: Factors | None, scale: Fraction
) -> tuple[TensorSpec, TensorSpec]:
    """Return types and shapes of the factors (A, B) as they are written."""
    rows, columns = spec.shape
    down = own.down.spec.dtype if own else "F32"
    up = own.up.spec.dtype if own and own.scale == scale else "F32"
    return TensorSpec(down, (rank, columns)), TensorSpec(up, (rows, rank))


def _padded(
    down: ByteArray, up: ByteArray, rank: int, pair: tuple[TensorSpec, TensorSpec]
) -> tuple[ByteArray, ByteArray]:
    """Return the bytes of factors of a rank, with zeros up to the rank of the file.

    Args:
        down: uint8, of A (rank, in).
        up: uint8, of B (out, rank).
        rank: Theirs.
        pair: What they are to be.
    """
    wide_down = np.zeros(pair[0].nbytes, np.uint8)
    wide_down[: down.size] = down
    rows, width = pair[1].shape
    wide_up = np.zeros((rows, width * pair[1].itemsize), np.uint8)
    wide_up[:, : rank * pair[1].itemsize] = up.reshape(rows, -1)
    return wide_down, wide_up.reshape(-1)


def _percent(share: float) -> str:
    return f"{share:.2%}"
