"""`ties`: trim, elect signs, merge what agrees. The election is in `tvc.merging.mixing`.

Four public algorithms go by this name; the options say which is meant, and
`tvc.merging.presets` names the combinations.
"""

import threading
from collections.abc import Mapping
from typing import Annotated, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import Pass, Statistics, merge_method
from tvc.merging.mixing import (
    Election,
    Normalize,
    WeightsAfterElection,
    merge_elected,
    numbers,
    tally,
)
from tvc.merging.options import Choice, OptionValue
from tvc.merging.selection import (
    count_high,
    count_low,
    keep_at_least,
    kth_high,
    kth_largest,
    kth_value,
    magnitudes,
    share_of,
)
from tvc.merging.sparsifying import Density, per_member

__all__ = ["HighBits", "Majority", "Thresholds", "ties"]

Scope = Annotated[
    str,
    Choice(
        "what each member's share is counted over: a tensor, or the vector", ("tensor", "vector")
    ),
]
Kept = Annotated[
    str,
    Choice(
        "elements kept of n: max(1, ⌊density·n⌋), ⌊density·n⌋, or ⌊density·n⌋ + 1",
        ("at_least_one", "floor", "one_more"),
    ),
]
ZeroSum = Annotated[
    str,
    Choice(
        "sign elected by a sum of zero: +, or that of most elements in the scope",
        ("positive", "majority"),
    ),
]


def kept_count(density: float, numel: int, kept: str) -> int:
    """Return how many of the largest elements a member keeps, equal magnitudes apart.

    A density of 0 keeps nothing, also under "at_least_one".

    Args:
        density: In [0, 1].
        numel: Elements there are.
        kept: "at_least_one", "floor" or "one_more".
    """
    count = share_of(density, numel)
    least = 1 if kept == "at_least_one" and density > 0 else 0
    return min(numel, count + 1 if kept == "one_more" else max(least, count))


_Shares = float | tuple[float, ...]


class _Counts:
    """One table of 2**16 counts for each member, added to from any thread."""

    def __init__(self, members: int) -> None:
        self.tables = [torch.zeros(1 << 16, dtype=torch.int64) for _ in range(members)]
        self.seen = 0
        self._lock = threading.Lock()

    def add(self, tables: list[Tensor], *, seen: int) -> None:
        """Add the counts of one tensor, of which each member has `seen` elements."""
        with self._lock:
            self.seen += seen
            for table, new in zip(self.tables, tables, strict=True):
                table += new


class HighBits(Pass):
    """Finds the high 16 bits of each member's threshold, over the whole vector.

    Its result is (k, 2) int64: the bits, and which of the elements that have them the threshold
    is, counted from the largest. A member that keeps nothing has (0, 0).
    """

    name = "high_bits"

    def __init__(
        self,
        *,
        members: int,
        numel: int,
        options: Mapping[str, OptionValue],
        earlier: Statistics,
    ) -> None:
        super().__init__(members=members, numel=numel, options=options, earlier=earlier)
        self._counts = _Counts(members)

    @classmethod
    def needed(cls, options: Mapping[str, OptionValue]) -> bool:
        """Say whether a vector is trimmed as a whole."""
        return options["scope"] == "vector"

    def observe(self, deltas: Tensor, *, weights: Tensor) -> None:  # noqa: ARG002  # trimming precedes weighting
        """Count magnitudes by their high bits."""
        tables = [count_high(magnitudes(delta)) for delta in deltas]
        self._counts.add(tables, seen=deltas[0].numel())

    def result(self) -> Tensor:
        """Return the bits and the remaining rank, (k, 2) int64."""
        kept = str(self.options["kept"])
        shares = per_member(cast("_Shares", self.options["density"]), self.members)
        found: list[tuple[int, int]] = []
        for share, table in zip(shares, self._counts.tables, strict=True):
            k = kept_count(share, self.numel, kept)
            table[0] += self.numel - int(table.sum())  # what was not observed is zero
            found.append(kth_high(table, k) if k else (0, 0))
        return torch.tensor(found, dtype=torch.int64)


class Thresholds(Pass):
    """Finds each member's threshold, the k-th largest magnitude of its whole vector.

    Its result is (k,) float32; infinity for a member that keeps nothing.
    """

    name = "thresholds"

    def __init__(
        self,
        *,
        members: int,
        numel: int,
        options: Mapping[str, OptionValue],
        earlier: Statistics,
    ) -> None:
        super().__init__(members=members, numel=numel, options=options, earlier=earlier)
        self._bins: list[list[int]] = earlier[HighBits.name].tolist()
        self._counts = _Counts(members)

    @classmethod
    def needed(cls, options: Mapping[str, OptionValue]) -> bool:
        """Say whether a vector is trimmed as a whole."""
        return options["scope"] == "vector"

    def observe(self, deltas: Tensor, *, weights: Tensor) -> None:  # noqa: ARG002  # trimming precedes weighting
        """Count, by their low bits, the magnitudes that have the threshold's high bits."""
        tables = [
            count_low(magnitudes(delta), high)
            for delta, (high, _) in zip(deltas, self._bins, strict=True)
        ]
        self._counts.add(tables, seen=deltas[0].numel())

    def result(self) -> Tensor:
        """Return the thresholds, (k,) float32."""
        found: list[float] = []
        for (high, rest), table in zip(self._bins, self._counts.tables, strict=True):
            if high == 0:
                table[0] += self.numel - self._counts.seen  # what was not observed is zero
            found.append(kth_value(high, kth_high(table, rest)[0]) if rest else float("inf"))
        return torch.tensor(found)


class Majority(Pass):
    """Counts elected signs over the whole vector, for sums of zero.

    Its result is a scalar int64: elements that elect + less those that elect -.
    """

    name = "majority"

    def __init__(
        self,
        *,
        members: int,
        numel: int,
        options: Mapping[str, OptionValue],
        earlier: Statistics,
    ) -> None:
        super().__init__(members=members, numel=numel, options=options, earlier=earlier)
        self._thresholds: list[float] = numbers(earlier[Thresholds.name])
        self._lock = threading.Lock()
        self._lead = 0

    @classmethod
    def needed(cls, options: Mapping[str, OptionValue]) -> bool:
        """Say whether sums of zero follow the whole vector."""
        return options["scope"] == "vector" and options["zero_sum"] == "majority"

    def observe(self, deltas: Tensor, *, weights: Tensor) -> None:
        """Count the signs that the tensor's elements elect."""
        members = [
            keep_at_least(delta, threshold)
            for delta, threshold in zip(deltas, self._thresholds, strict=True)
        ]
        votes = torch.ones_like(weights) if self.options["weights_after_election"] else weights
        lead = lead_of(tally(members, votes, election=str(self.options["election"])))
        with self._lock:
            self._lead += lead

    def result(self) -> Tensor:
        """Return the lead of + over -, a scalar int64."""
        return torch.tensor(self._lead)


def lead_of(total: Float[Tensor, "*shape"]) -> int:
    """Return by how many positive elements outnumber negative ones."""
    return int(torch.count_nonzero(total > 0)) - int(torch.count_nonzero(total < 0))


def trimmed(
    deltas: Float[Tensor, "k *shape"],
    *,
    density: float | tuple[float, ...],
    kept: str,
    thresholds: Float[Tensor, " k"] | None = None,
) -> list[Tensor]:
    """Set all but each member's largest elements to zero (Algorithm 1, step 1).

    Everything at or above the threshold, the k-th largest magnitude, is kept.

    Args:
        deltas: (k, *shape).
        density: Share of elements that each member keeps.
        kept: "at_least_one", "floor" or "one_more".
        thresholds: (k,), where they were found over the whole vector.
    """
    members: list[Tensor] = []
    for i, share in enumerate(per_member(density, len(deltas))):
        if thresholds is None:
            values = magnitudes(deltas[i])
            threshold = kth_largest(values, kept_count(share, values.numel(), kept))
        else:
            threshold = thresholds[i].item()
        members.append(keep_at_least(deltas[i], threshold))
    return members


@merge_method(
    "ties",
    summary="Keep each vector's largest elements, elect signs, merge what agrees.",
    paper="arXiv:2306.01708",
    passes=(HighBits, Thresholds, Majority),
)
def ties(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    statistics: Statistics,
    density: Density = 0.2,
    scope: Scope = "tensor",
    kept: Kept = "at_least_one",
    election: Election = "mass",
    zero_sum: ZeroSum = "positive",
    normalize: Normalize = "count",
    weights_after_election: WeightsAfterElection = False,
) -> Float[Tensor, "*shape"]:
    """Trim, elect, merge: Yadav et al., Algorithm 1. Its λ is a factor in front of the merge.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        statistics: For scope "vector", the results of the passes; else empty.
        density: Share of elements that each member keeps.
        scope: What the share, and the majority, are counted over.
        kept: How the share becomes a number of elements.
        election: What elects signs.
        zero_sum: What a sum of zero elects.
        normalize: The divisor.
        weights_after_election: Whether the election is unweighted.
    """
    thresholds = statistics[Thresholds.name] if scope == "vector" else None
    members = trimmed(deltas, density=density, kept=kept, thresholds=thresholds)
    zero_positive = True
    if zero_sum == "majority" and scope == "vector":
        zero_positive = int(statistics[Majority.name]) > 0
    elif zero_sum == "majority":
        votes = torch.ones_like(weights) if weights_after_election else weights
        zero_positive = lead_of(tally(members, votes, election=election)) > 0
    return merge_elected(
        members,
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
        zero_positive=zero_positive,
    )
