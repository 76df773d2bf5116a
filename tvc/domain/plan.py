"""The plan: what a checkout does for each tensor, known before any weight is read.

Made from a recipe in normal form and the lists of tensors alone; never imports torch. Per tensor
it says `Copy` (no vector of the recipe changes it: the base's bytes), `Restore` (the recipe is, for
this tensor, what one vector was trained from plus that vector: its bytes) or `Combine`
(arithmetic). A `Combine` is a tree of content ids and needs no names: what runs it knows neither
git nor vectors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tvc.domain.errors import InputError
from tvc.domain.library import Library
from tvc.domain.recipe import (
    Atom,
    Group,
    OptionValue,
    Recipe,
    Sum,
    VectorName,
    canonical_text,
    format_sum,
    vector_names,
)
from tvc.domain.snapshot import TensorRef
from tvc.domain.vector import Factors
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId

__all__ = [
    "FLOATING",
    "Action",
    "CannotCombine",
    "Combine",
    "Copy",
    "Costs",
    "Delta",
    "Difference",
    "LowRank",
    "Merged",
    "Plan",
    "PlannedMember",
    "Restore",
    "Scaled",
    "leaves",
    "plan",
    "plan_difference",
    "plan_tensor",
    "spec_of",
]

FLOATING: Final = frozenset(["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
"""Element types that arithmetic is defined on; all others can be copied and restored only."""


class CannotCombine(InputError):
    """A recipe asks for arithmetic on a tensor on which it is not defined."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The base's tensor as it is."""

    tensor: TensorRef


@dataclass(frozen=True, slots=True)
class Restore:
    """One tuned tensor as it is."""

    tensor: TensorRef


@dataclass(frozen=True, slots=True)
class Difference:
    """A tuned tensor minus what it was trained from."""

    tuned: TensorRef
    parent: "Action"


@dataclass(frozen=True, slots=True)
class LowRank:
    """The product of an adapter's factors."""

    factors: Factors


@dataclass(frozen=True, slots=True)
class PlannedMember:
    """One argument of a merge; no terms where it leaves this tensor alone.

    Args:
        weight: The member's weight.
        terms: Its difference for this tensor.
        key: Canonical text of the member, the same for every tensor; seeds its random draws.
    """

    weight: Fraction
    terms: "tuple[Scaled, ...]"
    key: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge method applied to members.

    Args:
        method: Name of the method.
        base: The base's tensor, for methods that are stated over whole models.
        spec: Type and shape of the result.
        members: In canonical order, or as written where the order matters.
        options: Name → value.
        key: Canonical text of the group, the same for every tensor; names its global statistics.
    """

    method: str
    base: TensorRef
    spec: TensorSpec
    members: tuple[PlannedMember, ...]
    options: tuple[tuple[str, OptionValue], ...]
    key: str


Delta = Difference | LowRank | Merged


@dataclass(frozen=True, slots=True)
class Scaled:
    """A coefficient times a difference."""

    coefficient: Fraction
    delta: Delta


@dataclass(frozen=True, slots=True)
class Combine:
    """The base's tensor plus a sum, rounded once to `spec`.

    Args:
        base: The base's tensor.
        terms: The sum, in the order in which it is added up.
        spec: Type and shape of the result; more rows than the base's where a vocabulary grew.
    """

    base: TensorRef
    terms: tuple[Scaled, ...]
    spec: TensorSpec


Action = Copy | Restore | Combine


@dataclass(frozen=True, slots=True)
class Costs:
    """What running a plan takes.

    Args:
        read: Bytes of tensors read and decoded, those of the extra passes included.
        write: Bytes of tensors written.
        peak: Largest number of bytes that one tensor's arithmetic holds at a time.
        copied: Number of tensors copied.
        restored: Number of tensors restored.
        combined: Number of tensors computed.
    """

    read: int
    write: int
    peak: int
    copied: int
    restored: int
    combined: int


@dataclass(frozen=True, slots=True)
class Plan:
    """An action for every tensor, and the whole vectors behind the merges among them.

    Args:
        actions: Tensor name → action.
        merges: Key of a merge → tensor name → the merge at that tensor, for every tensor that it
            changes. A statistic of the whole vector is over these, whatever the actions are. A
            merge inside another comes before it.
        numel: Elements of a whole vector: those of all the base's tensors of a floating type.
    """

    actions: Mapping[str, Action]
    merges: Mapping[str, Mapping[str, Merged]]
    numel: int

    def specs(self) -> dict[str, TensorSpec]:
        """Return type and shape of every tensor of the result."""
        return {name: spec_of(action) for name, action in self.actions.items()}

    def objects(self) -> frozenset[ObjectId]:
        """Return the ids of all tensors that running the plan reads."""
        return frozenset(ref.id for action in self.actions.values() for ref in leaves(action))

    def costs(self, *, workers: int = 1, passes: int = 0) -> Costs:
        """Estimate what running the plan takes.

        Args:
            workers: Tensors computed at a time.
            passes: Times that all combined tensors are read before they are computed.
        """
        kinds = [type(action) for action in self.actions.values()]
        read = write = 0
        held: list[int] = []
        for action in self.actions.values():
            once = sum(ref.spec.nbytes for ref in leaves(action))
            combine = isinstance(action, Combine)
            read += once * (1 + passes) if combine else once
            write += spec_of(action).nbytes
            held.append(_held(action) if combine else 2 * once)
        peak = sum(sorted(held)[-workers:])
        counts = (kinds.count(Copy), kinds.count(Restore), kinds.count(Combine))
        return Costs(read, write, peak, *counts)


def spec_of(action: Action) -> TensorSpec:
    """Return type and shape of an action's result."""
    return action.spec if isinstance(action, Combine) else action.tensor.spec


def leaves(action: Action) -> Iterator[TensorRef]:
    """Yield every tensor that an action reads."""
    if not isinstance(action, Combine):
        yield action.tensor
        return
    yield action.base
    yield from _leaves_of_sum(action.terms)


def _leaves_of_sum(terms: tuple[Scaled, ...]) -> Iterator[TensorRef]:
    for term in terms:
        match term.delta:
            case Difference(tuned, parent):
                yield tuned
                yield from leaves(parent)
            case LowRank(factors):
                yield factors.down
                yield factors.up
            case Merged(members=members):
                for member in members:
                    yield from _leaves_of_sum(member.terms)


def _held(action: Combine) -> int:
    """Bytes held while combining: the sum, one difference, and all members of the widest merge."""
    wide = 8 if action.spec.dtype == "F64" else 4
    members = [len(t.delta.members) for t in action.terms if isinstance(t.delta, Merged)]
    return action.spec.numel * wide * (3 + 2 * max(members, default=0)) + action.spec.nbytes


def plan(recipe: Recipe, library: Library) -> Plan:
    """Plan every tensor of a recipe.

    Args:
        recipe: In normal form.
        library: The commit's bases and vectors.

    Raises:
        CannotCombine: Arithmetic is asked for on integers, or on shapes that do not fit.
        UnknownVector: The library lacks a vector that is needed.
    """
    names = set(library.snapshot(recipe.base).tensors)
    for vector in set(vector_names(recipe.terms)):
        names |= library.changed(vector)
    actions = {name: plan_tensor(name, recipe, library) for name in sorted(names)}
    merges: dict[str, dict[str, Merged]] = {}
    if any(isinstance(action, Combine) for action in actions.values()):
        _collect_merges(recipe, sorted(names), library, merges)
    return Plan(actions, merges, _numel(recipe, library))


def plan_difference(recipe: Recipe, library: Library) -> Plan:
    """Plan what the terms of a recipe add to its base, tensor by tensor, always as arithmetic.

    Args:
        recipe: In normal form.
        library: The commit's bases and vectors.

    Returns:
        A `Combine` for every floating tensor of the base that a term changes.

    Raises:
        CannotCombine: A tensor's shapes do not fit.
    """
    base = library.snapshot(recipe.base).tensors
    actions: dict[str, Action] = {}
    for name, ref in base.items():
        active = _active(recipe.terms, name, library)
        if active and ref.spec.dtype in FLOATING:
            terms = _planned(name, active, ref, library)
            actions[name] = Combine(ref, terms, _result_spec(name, ref, terms))
    merges: dict[str, dict[str, Merged]] = {}
    _collect_merges(recipe, sorted(base), library, merges)
    return Plan(actions, merges, _numel(recipe, library))


def _numel(recipe: Recipe, library: Library) -> int:
    tensors = library.snapshot(recipe.base).tensors.values()
    return sum(ref.spec.numel for ref in tensors if ref.spec.dtype in FLOATING)


def _collect_merges(
    recipe: Recipe, names: list[str], library: Library, merges: dict[str, dict[str, Merged]]
) -> None:
    base = library.snapshot(recipe.base).tensors
    for term in recipe.terms:
        if isinstance(term.atom, VectorName):
            _collect_merges(library.record(term.atom.name).parent, names, library, merges)
        elif canonical_text(term.atom) not in merges:
            for member in term.atom.members:
                _collect_merges(Recipe(recipe.base, member.terms), names, library, merges)
            merges[canonical_text(term.atom)] = {
                name: _merged(name, term.atom, base[name], library)
                for name in names
                if name in base and _touches(term.atom, name, library)
            }


def plan_tensor(name: str, recipe: Recipe, library: Library) -> Action:
    """Plan one tensor of a recipe in normal form.

    Raises:
        CannotCombine: As for `plan`.
    """
    base = library.snapshot(recipe.base).tensors.get(name)
    active = _active(recipe.terms, name, library)
    restored = _restored(name, recipe, active, library)
    if restored is not None:
        return Restore(restored)
    if base is None:
        raise CannotCombine(
            f"tensor {name!r} is not in the base, so that nothing can be added to it",
            hint="check out the fine-tune that has it alone, at coefficient 1",
        )
    if not active:
        return Copy(base)
    terms = _planned(name, active, base, library)
    return Combine(base, terms, _result_spec(name, base, terms))


def _active(terms: Sum, name: str, library: Library) -> Sum:
    return tuple(term for term in terms if _touches(term.atom, name, library))


def _touches(atom: Atom, name: str, library: Library) -> bool:
    if isinstance(atom, VectorName):
        return name in library.changed(atom.name)
    return any(
        _touches(term.atom, name, library) for member in atom.members for term in member.terms
    )


def _restored(name: str, recipe: Recipe, active: Sum, library: Library) -> TensorRef | None:
    for index, term in enumerate(active):
        if term.coefficient != 1 or not isinstance(term.atom, VectorName):
            continue
        record = library.record(term.atom.name)
        rest = active[:index] + active[index + 1 :]
        same = record.kind == "fine-tune" and record.parent.base == recipe.base
        if same and rest == _active(record.parent.terms, name, library):
            return library.snapshot(record.content).tensors[name]
    return None


def _planned(name: str, terms: Sum, base: TensorRef, library: Library) -> tuple[Scaled, ...]:
    return tuple(Scaled(t.coefficient, _delta(name, t.atom, base, library)) for t in terms)


def _delta(name: str, atom: Atom, base: TensorRef, library: Library) -> Delta:
    if isinstance(atom, Group):
        return _merged(name, atom, base, library)
    record = library.record(atom.name)
    if record.kind == "adapter":
        return LowRank(library.adapter(record.content).factors[name])
    tuned = library.snapshot(record.content).tensors[name]
    return Difference(tuned, plan_tensor(name, record.parent, library))


def _merged(name: str, group: Group, base: TensorRef, library: Library) -> Merged:
    members = tuple(
        PlannedMember(
            member.weight,
            _planned(name, _active(member.terms, name, library), base, library),
            format_sum(member.terms),
        )
        for member in group.members
    )
    terms = tuple(term for member in members for term in member.terms)
    spec = _result_spec(name, base, terms)
    return Merged(group.method, base, spec, members, group.options, canonical_text(group))


def _result_spec(name: str, base: TensorRef, terms: tuple[Scaled, ...]) -> TensorSpec:
    """Return the base's type, and its shape with the rows of the largest vocabulary."""
    rows = 0
    for ref in (base, *_leaves_of_differences(terms)):
        if ref.spec.dtype not in FLOATING:
            raise CannotCombine(
                f"tensor {name!r} is {ref.spec.dtype}: it can be copied or restored, not added up",
                hint="keep only one vector that changes it, at coefficient 1",
            )
        if ref.spec.shape[1:] != base.spec.shape[1:] or len(ref.spec.shape) != len(base.spec.shape):
            raise CannotCombine(
                f"tensor {name!r} has shape {list(ref.spec.shape)} in one vector and "
                f"{list(base.spec.shape)} in the base"
            )
        rows = max([rows, *ref.spec.shape[:1]])
    shape = (rows, *base.spec.shape[1:]) if base.spec.shape else ()
    return TensorSpec(base.spec.dtype, shape)


def _leaves_of_differences(terms: tuple[Scaled, ...]) -> Iterator[TensorRef]:
    for term in terms:
        match term.delta:
            case Difference(tuned):
                yield tuned
            case LowRank():
                pass
            case Merged(members=members):
                for member in members:
                    yield from _leaves_of_differences(member.terms)
