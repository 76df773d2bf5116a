"""What a merge method is, to those who write one and to the engine that calls it.

A method is a function of the deltas of one tensor:

    @merge_method("mean", summary="The mean of the members.", paper="…")
    def mean(deltas: Float[Tensor, "k *shape"]) -> Float[Tensor, "*shape"]: …

**What it is given.** `deltas[i]` is member i's tensor minus the base's: contiguous, on the CPU, in
the compute type (float32, or float64 for float64 models). It must not be written to. Keyword-only
parameters are of two kinds. *Wants* are supplied by the engine, by name:

- `weights` (k,), the members' coefficients. A method that does not want them is given deltas that
  have already been multiplied by them, since `0.8 * a` is a task vector too.
- `base` (*shape), the base's tensor in the compute type.
- `uniforms` (k, *shape) float32 in [0, 1), drawn for a seed, the tensor's name and the member, so
  that they depend on neither order nor threads. Such a method has an option `seed`.
- `statistics`, the results of its passes, by name.

All others are options (`tvc.merging.options`).

**What it returns.** The merged delta, (*shape), in the compute type, also where `space` is "model"
(the method is stated over models, base + delta): the caller adds the base.

**Determinism.** The same inputs give the same bytes. The engine calls with one torch thread
(`torch.set_num_threads(1)` in each worker: tensors are merged in parallel, not parts of one) and
in canonical order of the members where `commutative`. The method multiplies and adds in separate
operations (`torch.add(…, alpha=)` fuses them in some lanes and not in others), and takes sums
over elements in float64 (`tvc.merging.reductions`).

**Blocks.** A tensor may be larger than the memory, so a method says by `unit` what it has to see at
once: an "element" (any block of elements, as a flat vector), a "row" (whole rows: indices of the
first axis), or the whole "tensor", which is what a method that says nothing gets.

**Passes.** A method that needs a statistic of a whole tensor, or of the whole vector, names `Pass`
classes. They are described in `tvc.merging.passes`.

Not here: files, names of tensors, recipes, and how deltas are made.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from tvc.domain.errors import InputError
from tvc.merging.options import (
    Option,
    OptionError,
    OptionValue,
    UnknownOption,
    Whole,
    nearest,
    options_of,
)
from tvc.merging.passes import Options, Pass, Scope, Statistics, over_tensor

__all__ = ["WANTS", "MemberError", "Method", "Space", "Unit", "merge_method"]

Space = Literal["difference", "model"]
Unit = Literal["element", "row", "tensor"]
WANTS = frozenset({"base", "statistics", "uniforms", "weights"})
"""Keyword-only parameters that the engine supplies."""

_SEED = Whole("number that the random draws follow from", minimum=0, maximum=2**63 - 1)


class MemberError(InputError):
    """A merge method cannot merge this number of members."""


@dataclass(frozen=True, slots=True)
class Method:
    """A merge method; call `merge`, or `function` itself.

    Args:
        name: As recipes write it.
        function: See the module's docstring.
        summary: One sentence.
        paper: `arXiv:…`, or where the method was published.
        commutative: Whether the order of members means nothing.
        space: What the method is stated over: differences from the base, or models.
        options: By name.
        wants: What `function` takes of `WANTS`.
        passes: In order; see `passes_for`.
        members: Least and greatest number of members; None for no greatest.
        unit: What it has to see at once, by its options.
    """

    name: str
    function: Callable[..., Tensor]
    summary: str
    paper: str
    commutative: bool
    space: Space
    options: Mapping[str, Option]
    wants: frozenset[str]
    passes: tuple[type[Pass], ...]
    members: tuple[int, int | None]
    unit: Callable[[Options], Unit]

    def check_options(self, given: Mapping[str, object]) -> dict[str, OptionValue]:
        """Return all options, checked, with defaults where none is given.

        Args:
            given: Values by name. Fractions become floats, lists tuples.

        Raises:
            UnknownOption: There is no option of that name.
            OptionError: A value is of the wrong kind, or outside of its range.
        """
        for name in given:
            if name not in self.options:
                raise self._unknown(name)
        try:
            return {
                name: option.check(given[name]) if name in given else option.default
                for name, option in self.options.items()
            }
        except OptionError as error:
            raise OptionError(f"{self.name}: {error.message}", hint=error.hint) from None

    def check_members(self, count: int, options: Options) -> None:
        """Refuse a number of members that the method, or an option given per member, cannot have.

        Args:
            count: k.
            options: As `check_options` returned them.

        Raises:
            MemberError: Too few or too many members.
            OptionError: A per-member option is not as long as there are members.
        """
        least, most = self.members
        if count < least or (most is not None and count > most):
            raise MemberError(
                f"{self.name} merges {_range(least, most)} vectors, and was given {count}",
                hint="other methods: linear, ties" if most is not None and count > most else None,
            )
        for name, value in options.items():
            if isinstance(value, tuple) and len(value) != count:
                raise OptionError(
                    f"{self.name}: {name} has {len(value)} values for {count} vectors",
                    hint="give one value, or one for each vector",
                )

    def passes_for(self, options: Options, scope: Scope) -> tuple[type[Pass], ...]:
        """Return the passes that these options need over a tensor, or over a vector, in order."""
        return tuple(each for each in self.passes if each.scope(options) == scope)

    def merge(
        self,
        deltas: Tensor,
        *,
        options: Options,
        **supplies: Tensor | Statistics,
    ) -> Tensor:
        """Merge a whole tensor, taking the passes over it that are missing.

        Args:
            deltas: (k, *shape), float32 or float64.
            options: As `check_options` returned them.
            **supplies: `weights`, `base`, `uniforms` and `statistics`, at least those wanted by
                the method and its passes; of `statistics` those over the whole vector.

        Returns:
            The merged delta, (*shape).
        """
        found = dict(cast("Statistics", supplies.get("statistics", {})))
        ones = torch.ones(len(deltas), dtype=torch.float64)
        given = cast("dict[str, Tensor]", supplies)
        for kind in self.passes_for(options, "tensor"):
            if kind.name in found:
                continue
            counting = kind(
                members=len(deltas),
                numel=deltas[0].numel(),
                options=options,
                weights=given.get("weights", ones),
                earlier=found,
            )
            wanted = {name: given[name] for name in kind.wants}
            over_tensor(counting, lambda part, wanted=wanted: part.observe(deltas, **wanted))
            found[kind.name] = counting.result()
        return self.apply(deltas, options=options, **{**supplies, "statistics": found})

    def apply(
        self,
        deltas: Tensor,
        *,
        options: Options,
        **supplies: Tensor | Statistics,
    ) -> Tensor:
        """Call the function on one block, with its options and those of the supplies it wants.

        Args:
            deltas: (k, *block), float32 or float64.
            options: As `check_options` returned them.
            **supplies: For the block; `statistics` with the results of all passes.

        Returns:
            The merged delta, (*block).
        """
        wanted = {name: value for name, value in supplies.items() if name in self.wants}
        # The seed is for whoever draws the uniforms.
        chosen = {name: value for name, value in options.items() if name != "seed"}
        return self.function(deltas, **chosen, **wanted)

    def _unknown(self, name: str) -> UnknownOption:
        near = nearest(name, self.options)
        known = ", ".join(sorted(self.options)) or "none"
        return UnknownOption(
            f"{self.name} has no option {name!r}",
            hint=f"did you mean {near!r}?" if near else f"its options: {known}",
        )


def _always(unit: Unit) -> Callable[[Options], Unit]:
    return lambda _: unit


def _range(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def merge_method(
    name: str,
    *,
    summary: str,
    paper: str,
    commutative: bool = True,
    space: Space = "difference",
    members: tuple[int, int | None] = (1, None),
    passes: Sequence[type[Pass]] = (),
    unit: Unit | Callable[[Options], Unit] = "tensor",
) -> Callable[[Callable[..., Tensor]], Method]:
    """Make a merge method of a function; see the module's docstring for what it must do.

    Args:
        name: As recipes write it.
        summary: One sentence.
        paper: `arXiv:…`, or where the method was published.
        commutative: Whether the order of members means nothing.
        space: "difference", or "model" for a method stated over base + delta.
        members: Least and greatest number of members; None for no greatest.
        passes: In order.
        unit: What the function has to see at once; of a method that has an option for it, a
            function of its options.

    Raises:
        TypeError: A parameter of the function is not described.
    """

    def decorate(function: Callable[..., Tensor]) -> Method:
        wants = WANTS & inspect.signature(function).parameters.keys()
        options: dict[str, Option] = dict(options_of(function, skip=WANTS))
        if "uniforms" in wants:
            options["seed"] = _SEED.option("seed", 0)
        return Method(
            name=name,
            function=function,
            summary=summary,
            paper=paper,
            commutative=commutative,
            space=space,
            options=options,
            wants=wants,
            passes=tuple(passes),
            members=members,
            unit=unit if callable(unit) else _always(unit),
        )

    return decorate
