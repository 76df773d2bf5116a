"""Computes one tensor, window by window: sums of differences, products of factors, and merges.

Numbers are float32, for float64 models float64, and rounded to the stored type once. Multiplied and
added in separate steps: a fused one rounds differently in a vector than after its end.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tvc.domain.plan import (
    Action,
    Combine,
    Copy,
    Delta,
    Difference,
    KeptDelta,
    LowRank,
    Merged,
    Scaled,
)
from tvc.domain.snapshot import TensorRef
from tvc.domain.vector import Factors
from tvc.evaluation.draws import Draws
from tvc.evaluation.leaves import Leaves, Source, Window, check_spec
from tvc.evaluation.numbers import compute_dtype, from_numbers, to_numbers
from tvc.merging import kernels
from tvc.merging.loops import Floats
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId
from tvc_store.scratch import Scratch

if TYPE_CHECKING:
    from tvc.merging.arrays import ArrayMerge, Found
    from tvc.merging.passes import Part, Pass

__all__ = ["WINDOW", "ComputedTensor", "merges_of"]

WINDOW: Final = 1 << 16
"""Elements computed at a time, where a method does not have to see more; part of what results are,
since sums over elements are taken window by window."""

_PIECES: Final = 4
"""Pieces from which the sample of a streamed tensor comes; of each tensor of a vector, one."""


def merges_of(terms: Sequence[Scaled]) -> Iterator[Merged]:
    """Yield the merges in a sum, those inside others first."""
    for term in terms:
        match term.delta:
            case Difference(parent=Combine(terms=below)):
                yield from merges_of(below)
            case Merged(members=members):
                for member in members:
                    yield from merges_of(member.terms)
                yield term.delta
            case _:
                pass


class ComputedTensor:
    """One tensor of a plan.

    Args:
        source: Where stored tensors come from.
        scratch: Where memory for them comes from.
        name: Its name, for random draws.
        merges: What runs each merge, by its key.
        found: Results of passes over vectors, by the merge's key.
    """

    def __init__(
        self,
        source: Source,
        scratch: Scratch,
        name: str,
        merges: "Mapping[str, ArrayMerge]",
        found: "Mapping[str, Found]",
    ) -> None:
        self._source = source
        self._scratch = scratch
        self._name = name
        self._merges = merges
        self._vector = found
        self._found: dict[int, Found] = {}
        self._draws: dict[int, Draws] = {}
        self._factors: dict[ObjectId, npt.NDArray[np.float64]] = {}

    def blocks(self, action: Combine) -> Generator[ByteArray]:
        """Yield the bytes of a combined tensor in order."""
        with self._prepared(action.terms, action.spec, action.base) as (leaves, step):
            for window in leaves.windows(step):
                yield self._combined(action, window)

    def difference(self, action: Combine) -> Floats:
        """Return the sum of the terms, in the shape of the result."""
        spec = action.spec
        whole = np.empty(spec.numel, compute_dtype(spec))
        with self._prepared(action.terms, spec, None) as (leaves, step):
            for window in leaves.windows(step):
                whole[window.start : window.stop] = self._sum(action.terms, window, spec)
        return whole.reshape(spec.shape)

    def observe(self, merged: Merged, kind: "type[Pass]", part: "Part") -> None:
        """Show a part of a pass over a vector this tensor of a merge."""
        inside = [term for member in merged.members for term in member.terms]
        base = merged.base if "base" in kind.wants else None
        merge = self._merges[merged.key]
        with self._prepared(inside, merged.spec, base, also=merged) as (leaves, step):
            for window in leaves.windows(step):
                merge.observe(kind, part, *self._inputs(merged, window, kind.wants))

    def observe_sample(self, merged: Merged, kind: "type[Pass]", part: "Part") -> bool:
        """Show a part of a pass over a vector a sample of this tensor; say whether there is one."""
        inside = [term for member in merged.members for term in member.terms]
        with self._prepared(inside, merged.spec, None, also=merged) as (leaves, _):
            return self._show_sample(merged, kind, part, leaves, pieces=1)

    @contextmanager
    def _prepared(
        self,
        terms: Sequence[Scaled],
        spec: TensorSpec,
        base: TensorRef | None,
        *,
        also: Merged | None = None,
    ) -> Generator[tuple[Leaves, int]]:
        """Take the passes over this tensor that its merges need.

        Yields:
            The stored tensors, and how many elements a window has.
        """
        merges = list(merges_of(terms))
        around = [*merges, *([also] if also else [])]
        step = self._step(around, spec)
        repeatedly = any(self._merges[each.key].passes("tensor") for each in merges)
        leaves = Leaves(
            self._source,
            self._scratch,
            self._refs(terms, base),
            numel=spec.numel,
            repeatedly=repeatedly,
            whole=step >= spec.numel > WINDOW,
        )
        try:
            for merged in merges:
                self._take(merged, leaves, step)
            yield leaves, step
        finally:
            leaves.close()

    def _take(self, merged: Merged, leaves: Leaves, step: int) -> None:
        """Take the passes over this tensor that a merge needs."""
        merge = self._merges[merged.key]
        found = self._found[id(merged)] = dict(self._vector[merged.key])
        for kind in merge.passes("tensor"):
            counting = merge.counting(kind, numel=merged.spec.numel, earlier=found)
            again = counting.begin(None)
            sample = counting.sample(merged.spec.numel)
            if sample and self._show_sample(merged, kind, sample, leaves, pieces=_PIECES):
                counting.add(sample)
            while again:
                part = counting.part()
                for window in leaves.windows(step):
                    within = window.until(merged.spec.numel)
                    if within.start < within.stop:
                        merge.observe(kind, part, *self._inputs(merged, within, kind.wants))
                counting.add(part)
                again = counting.more()
            found[kind.name] = counting.result()

    def _show_sample(
        self,
        merged: Merged,
        kind: "type[Pass]",
        part: "Part",
        leaves: Leaves,
        *,
        pieces: int,
    ) -> bool:
        """Show a part of a pass a sample of the tensor, where that is cheap; say whether it was."""
        merge = self._merges[merged.key]
        plain = merge.unit == "element" and not kind.wants and merged.spec.numel > 4 * WINDOW
        window = leaves.sample(pieces) if plain else None
        if window is None:
            return False
        merge.observe(kind, part, *self._inputs(merged, window, kind.wants))
        return True

    def _step(self, merges: Sequence[Merged], spec: TensorSpec) -> int:
        """Return how many elements a window must have for all the merges."""
        units = {self._merges[merged.key].unit for merged in merges}
        if units <= {"element"}:
            return WINDOW
        row = prod(spec.shape[1:]) if len(spec.shape) > 1 else spec.numel
        if "tensor" in units or not row:
            return max(spec.numel, 1)
        return row * max(1, WINDOW // row)

    def _refs(self, terms: Sequence[Scaled], base: TensorRef | None) -> Iterator[TensorRef]:
        """Yield the stored tensors that are read window by window."""
        if base is not None:
            yield base
        for term in terms:
            match term.delta:
                case Difference(tuned, parent):
                    yield tuned
                    yield from self._refs_of(parent)
                case KeptDelta(tensor):
                    yield tensor
                case Merged() as merged:
                    wants = self._merges[merged.key].wants
                    yield from [merged.base] if "base" in wants else []
                    for member in merged.members:
                        yield from self._refs(member.terms, None)
                case LowRank():
                    pass

    def _refs_of(self, action: Action) -> Iterator[TensorRef]:
        if isinstance(action, Combine):
            yield from self._refs(action.terms, action.base)
        else:
            yield action.tensor

    def _combined(self, action: Combine, window: Window) -> ByteArray:
        total = self._sum(action.terms, window, action.spec)
        kernels.add_scaled(total, self._stored(action.base, window, action.spec), 1)
        return from_numbers(total, action.spec.dtype)

    def _sum(self, terms: Sequence[Scaled], window: Window, spec: TensorSpec) -> Floats:
        """Return a sum of terms, one window of it, the caller's own."""
        if len(terms) == 1 and terms[0].coefficient == 1:
            return self._delta(terms[0].delta, window, spec)
        total = np.zeros(window.stop - window.start, compute_dtype(spec))
        for term in terms:
            delta = self._delta(term.delta, window, spec)
            kernels.add_scaled(total, delta, float(term.coefficient))
        return total

    def _delta(self, delta: Delta, window: Window, spec: TensorSpec) -> Floats:
        match delta:
            case Difference(tuned, parent):
                return self._difference(tuned, parent, window, spec)
            case KeptDelta(tensor):
                return self._stored(tensor, window, spec)
            case LowRank(factors):
                return self._product(factors, window, spec)
            case Merged():
                return self._merged(delta, window, spec)

    def _difference(
        self, tuned: TensorRef, parent: Action, window: Window, spec: TensorSpec
    ) -> Floats:
        total = self._stored(tuned, window, spec)
        before = (
            self._result(parent, window, spec)
            if isinstance(parent, Combine)
            else self._stored(parent.tensor, window, spec)
        )
        kernels.add_scaled(total, before, -1)
        return total

    def _result(self, action: Combine, window: Window, spec: TensorSpec) -> Floats:
        """Return what a sum is once it is rounded to its stored type."""
        within = window.until(action.spec.numel)
        if within.start == within.stop:
            return np.zeros(window.stop - window.start, compute_dtype(spec))
        data = self._combined(action, within)
        return _grown(to_numbers(data, action.spec.dtype, compute_dtype(spec)), window)

    def _stored(self, ref: TensorRef, window: Window, spec: TensorSpec) -> Floats:
        """Return a stored tensor's numbers; zeros where a vocabulary grew beyond it."""
        data = window.parts[ref.id][: (window.stop - window.start) * ref.spec.itemsize]
        return _grown(to_numbers(data, ref.spec.dtype, compute_dtype(spec)), window)

    def _merged(self, merged: Merged, window: Window, spec: TensorSpec) -> Floats:
        within = window.until(merged.spec.numel)
        if within.start == within.stop:
            return np.zeros(window.stop - window.start, compute_dtype(spec))
        merge = self._merges[merged.key]
        inputs = self._inputs(merged, within, merge.wants)
        total = merge.apply(inputs[0], self._found[id(merged)], inputs[1])
        return _grown(total.reshape(-1), window)

    def _inputs(
        self, merged: Merged, window: Window, wants: frozenset[str]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Return a merge's differences, (k, *block), and what else it is supplied with."""
        merge = self._merges[merged.key]
        shape = self._block_shape(merged, window)
        deltas = np.empty(
            (len(merged.members), window.stop - window.start), compute_dtype(merged.spec)
        )
        for row, member in zip(deltas, merged.members, strict=True):
            self._fill(row, member.terms, window, merged.spec)
            if not merge.takes_weights and member.weight != 1:
                row *= row.dtype.type(float(member.weight))
        supplies: dict[str, Floats] = {}
        if "base" in wants:
            supplies["base"] = self._stored(merged.base, window, merged.spec).reshape(shape)
        if "uniforms" in wants:
            drawn = self._drawn(merged).block(window.start, window.stop)
            supplies["uniforms"] = drawn.reshape(-1, *shape)
        return deltas.reshape(-1, *shape), supplies

    def _fill(self, row: Floats, terms: Sequence[Scaled], window: Window, spec: TensorSpec) -> None:
        """Fill a row with a sum of terms, one window of it."""
        match terms:
            case [Scaled(Fraction(numerator=1, denominator=1), Difference(tuned, Copy(before)))]:
                one, other = (window.parts[ref.id] for ref in (tuned, before))
                nbytes = row.size * spec.itemsize
                plain = tuned.spec.dtype == before.spec.dtype == spec.dtype
                if plain and spec.dtype in kernels.COMPILED and one.size == other.size == nbytes:
                    # What nearly all fine-tunes are: one pass instead of four.
                    kernels.subtract(one, other, spec.dtype, row)
                    return
            case _:
                pass
        row[:] = self._sum(terms, window, spec)

    def _block_shape(self, merged: Merged, window: Window) -> tuple[int, ...]:
        """Return the shape in which a merge's method sees a window."""
        size, shape = window.stop - window.start, merged.spec.shape
        if self._merges[merged.key].unit == "element":
            return (size,)
        return shape if size == merged.spec.numel else (size // prod(shape[1:]), *shape[1:])

    def _drawn(self, merged: Merged) -> Draws:
        if id(merged) not in self._draws:
            seed = self._merges[merged.key].options["seed"]
            assert isinstance(seed, int)
            members = [member.key for member in merged.members]
            self._draws[id(merged)] = Draws(seed=seed, tensor=self._name, members=members)
        return self._draws[id(merged)]

    def _product(self, factors: Factors, window: Window, spec: TensorSpec) -> Floats:
        """Return `scale * up @ down`, summed in float64 in the order of the rank, rounded once."""
        up, down = self._factor(factors.up), self._factor(factors.down)
        if factors.transposed:
            up, down = down.T.copy(), up.T.copy()
        width = down.shape[1]
        stop = min(window.stop, up.shape[0] * width)
        if stop <= window.start:
            return np.zeros(window.stop - window.start, compute_dtype(spec))
        first, last = window.start // width, -(-stop // width)
        rows = kernels.low_rank(up[first:last], down, float(factors.scale)).reshape(-1)
        part = rows[window.start - first * width : stop - first * width]
        with np.errstate(over="ignore"):
            return _grown(part.astype(compute_dtype(spec)), window)

    def _factor(self, ref: TensorRef) -> npt.NDArray[np.float64]:
        if ref.id not in self._factors:
            check_spec(self._source, ref)
            data = self._source.read_tensor(ref.id)[1]
            wide = to_numbers(data, ref.spec.dtype, np.float64)
            self._factors[ref.id] = wide.astype(np.float64, copy=False).reshape(ref.spec.shape)
        return self._factors[ref.id]


def _grown(numbers: Floats, window: Window) -> Floats:
    """Return numbers with zeros appended, up to the window's size."""
    size = window.stop - window.start
    if numbers.size == size:
        return numbers
    grown = np.zeros(size, numbers.dtype)
    grown[: numbers.size] = numbers
    return grown
