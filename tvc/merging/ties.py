"""`ties`: trim, elect signs, merge what agrees. The election is in `tvc.merging.mixing`.

Four public algorithms go by this name; the options say which is meant, and
`tvc.merging.presets` names the combinations.
"""

import math
from collections.abc import Sequence
from typing import Annotated, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import (
    Election,
    Normalize,
    WeightsAfterElection,
    merge_elected,
    numbers,
    tally,
)
from tvc.merging.options import Choice
from tvc.merging.passes import Options, Part, Pass, Scope, Statistics
from tvc.merging.ranks import Ranks
from tvc.merging.selection import keep_at_least, kth_largest, magnitudes, share_of
from tvc.merging.sparsifying import Density, per_member

__all__ = ["Majority", "Thresholds", "ties", "trimmed"]

TrimScope = Annotated[
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


class Thresholds(Ranks):
    """Finds each member's threshold, the k-th largest magnitude; infinity where nothing is kept.

    Its result is (k, 1) float32.
    """

    name = "thresholds"

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say what is trimmed: a tensor, or the vector as a whole."""
        return "vector" if options["scope"] == "vector" else "tensor"

    def ranks(self, row: int, nonzero: int) -> Sequence[int]:
        """Return how many elements the member keeps."""
        del nonzero
        shares = per_member(cast("float | tuple[float, ...]", self.options["density"]), self.rows)
        return [kept_count(shares[row], self.numel, str(self.options["kept"]))]


class Majority(Pass):
    """Counts elected signs, for sums of zero.

    Its result is a scalar int64: elements that elect + less those that elect -.
    """

    name = "majority"

    def __post_init__(self) -> None:
        self.thresholds: list[float] = numbers(self.earlier[Thresholds.name][:, 0])
        self._lead = 0

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say over what sums of zero follow the majority, if they do."""
        return Thresholds.scope(options) if options["zero_sum"] == "majority" else None

    def part(self) -> Part:
        """Return what is to observe the next tensor."""
        return _Lead(self)

    def add(self, part: Part) -> None:
        """Add the lead of a tensor."""
        assert isinstance(part, _Lead)
        self._lead += part.lead

    def result(self) -> Tensor:
        """Return the lead of + over -, a scalar int64."""
        return torch.tensor(self._lead)


class _Lead(Part):
    def __init__(self, majority: Majority) -> None:
        self._majority = majority
        self.lead = 0

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        options, weights = self._majority.options, self._majority.weights
        members = [
            keep_at_least(delta, threshold)
            for delta, threshold in zip(deltas, self._majority.thresholds, strict=True)
        ]
        votes = torch.ones_like(weights) if options["weights_after_election"] else weights
        total = tally(members, votes, election=str(options["election"]))
        self.lead += int(torch.count_nonzero(total > 0)) - int(torch.count_nonzero(total < 0))


def trimmed(
    deltas: Float[Tensor, "k *shape"], *, density: float | tuple[float, ...], kept: str
) -> list[Tensor]:
    """Set all but each member's largest elements to zero (Algorithm 1, step 1).

    Everything at or above the threshold, the k-th largest magnitude, is kept.

    Args:
        deltas: (k, *shape).
        density: Share of elements that each member keeps.
        kept: "at_least_one", "floor" or "one_more".
    """
    members: list[Tensor] = []
    for delta, share in zip(deltas, per_member(density, len(deltas)), strict=True):
        values = magnitudes(delta)
        threshold = kth_largest(values, kept_count(share, values.numel(), kept))
        members.append(keep_at_least(delta, threshold))
    return members


@merge_method(
    "ties",
    summary="Keep each vector's largest elements, elect signs, merge what agrees.",
    paper="arXiv:2306.01708",
    passes=(Thresholds, Majority),
    unit="element",
)
def ties(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    statistics: Statistics,
    density: Density = 0.2,  # noqa: ARG001 -- says what the passes find
    scope: TrimScope = "tensor",  # noqa: ARG001 -- likewise
    kept: Kept = "at_least_one",  # noqa: ARG001 -- likewise
    election: Election = "mass",
    zero_sum: ZeroSum = "positive",
    normalize: Normalize = "count",
    weights_after_election: WeightsAfterElection = False,
) -> Float[Tensor, "*shape"]:
    """Trim, elect, merge: Yadav et al., Algorithm 1. Its λ is a factor in front of the merge.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        statistics: The results of the passes.
        density: Share of elements that each member keeps.
        scope: What the share, and the majority, are counted over.
        kept: How the share becomes a number of elements.
        election: What elects signs.
        zero_sum: What a sum of zero elects.
        normalize: The divisor.
        weights_after_election: Whether the election is unweighted.
    """
    lower = statistics[Thresholds.name]
    majority = zero_sum == "majority"
    return merge_elected(
        deltas,
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
        zero_positive=int(statistics[Majority.name]) > 0 if majority else True,
        bounds=torch.cat([lower, torch.full_like(lower, math.inf)], dim=1),
    )
