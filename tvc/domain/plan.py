"""The plan: what a checkout does for each tensor, known before any weight is read.

Values only: tvc/domain/planning.py makes them, without torch, from a recipe in normal form and the
lists of tensors. Per tensor a plan says `Copy` (no vector of the recipe changes it: the base's
bytes), `Restore` (the recipe is, for this tensor, what one vector was trained from plus that
vector: its bytes) or `Combine` (arithmetic). A `Combine` is a tree of content ids and needs no
names: what runs it knows neither git nor vectors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tvc.domain.recipe import OptionValue
from tvc.domain.snapshot import TensorRef
from tvc.domain.vector import Factors
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId

__all__ = [
    "FLOATING",
    "Action",
    "Combine",
    "Copy",
    "Costs",
    "Delta",
    "Difference",
    "KeptDelta",
    "LowRank",
    "Merged",
    "Plan",
    "PlannedMember",
    "Restore",
    "Scaled",
    "leaves",
    "spec_of",
]

FLOATING: Final = frozenset(["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
"""Element types that arithmetic is defined on; all others can be copied and restored only."""


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
class KeptDelta:
    """A difference as it was trained, which the tuned tensor is a rounding of."""

    tensor: TensorRef


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


Delta = Difference | KeptDelta | LowRank | Merged


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
        copied: Number of tensors copied.
        restored: Number of tensors restored.
        combined: Number of tensors computed.
    """

    read: int
    write: int
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

    def costs(self, *, passes: int = 0) -> Costs:
        """Count what running the plan takes.

        Args:
            passes: Times that all combined tensors are read before they are computed.
        """
        kinds = [type(action) for action in self.actions.values()]
        read = write = 0
        for action in self.actions.values():
            once = sum({ref.id: ref.spec.nbytes for ref in leaves(action)}.values())
            read += once * (1 + passes) if isinstance(action, Combine) else once
            write += spec_of(action).nbytes
        return Costs(read, write, kinds.count(Copy), kinds.count(Restore), kinds.count(Combine))


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
            case KeptDelta(tensor):
                yield tensor
            case LowRank(factors):
                yield factors.down
                yield factors.up
            case Merged(members=members):
                for member in members:
                    yield from _leaves_of_sum(member.terms)
