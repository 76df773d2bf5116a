"""Sums of members, with and without an election of signs: the step that most methods end in.

Implements Ilharco et al., arXiv:2212.04089 (the weighted sum), and steps 2 and 3 of Algorithm 1 of
Yadav et al., arXiv:2306.01708 (TIES: elect, merge). Sparsifying, which comes before, is absent.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tvc.merging import elections, kernels, loops
from tvc.merging.options import Choice, Flag

__all__ = [
    "Election",
    "Normalize",
    "WeightsAfterElection",
    "agreeing",
    "mean",
    "merge_elected",
    "numbers",
    "tally",
    "weighted_sum",
]

Normalize = Annotated[
    str,
    Choice(
        "divisor at each element: how many members agree, the sum of their weights, or none",
        ("count", "weights", "none"),
    ),
]
Election = Annotated[
    str,
    Choice(
        "what elects the sign of an element: the sum of values, the count of signs, or no election",
        ("mass", "count", "none"),
    ),
]
WeightsAfterElection = Annotated[
    bool, Flag("whether weights are left out of the election (a negative weight still negates)")
]

_VOTES: Final[dict[str, elections.Vote]] = {"mass": "mass", "count": "count", "none": "none"}


def numbers(tensor: Float[Tensor, " n"]) -> list[float]:
    """Return the elements of a vector as Python floats, which hold them exactly."""
    return tensor.tolist()  # pyright: ignore[reportUnknownVariableType]  # torch does not say


def weighted_sum(
    members: Sequence[Tensor] | Tensor, weights: Float[Tensor, " k"]
) -> Float[Tensor, "*shape"]:
    """Return the sum of the members (*shape), each times its weight, added in order."""
    total = torch.zeros_like(members[0], memory_format=torch.contiguous_format)
    flat = total.reshape(-1).numpy()
    for member, weight in zip(members, numbers(weights), strict=True):
        kernels.add_scaled(flat, _flat(member), weight)
    return total


def mean(members: Sequence[Tensor] | Tensor) -> Float[Tensor, "*shape"]:
    """Return the mean of the members (*shape), added in order."""
    return weighted_sum(members, torch.ones(len(members))) / len(members)


def agreeing(
    member: Float[Tensor, "*shape"], positive: Bool[Tensor, "*shape"] | None
) -> Bool[Tensor, "*shape"]:
    """Say where a member has the elected sign; zeros never have, NaN always has.

    Args:
        member: The member.
        positive: Whether + is elected, or None where nothing was elected and non-zero is enough.
    """
    if positive is None:
        return member != 0
    return ~torch.where(positive, member <= 0, member >= 0)


def tally(
    members: Sequence[Tensor], weights: Float[Tensor, " k"], *, election: str
) -> Float[Tensor, "*shape"]:
    """Return the sum whose sign is elected: of values ("mass") or of signs ("count")."""
    total = torch.zeros_like(members[0])
    for member, weight in zip(members, numbers(weights), strict=True):
        vote = member * weight
        total += vote.sign() if election == "count" else vote
    return total


def merge_elected(
    members: Sequence[Tensor] | Tensor,
    weights: Float[Tensor, " k"],
    *,
    election: str,
    normalize: str,
    weights_after_election: bool,
    zero_positive: bool = True,
    bounds: Float[Tensor, "k 2"] | None = None,
) -> Float[Tensor, "*shape"]:
    """Elect a sign for each element and merge the members that have it (Algorithm 1, steps 2, 3).

    Args:
        members: Each (*shape), sparsified and not weighted.
        weights: (k,).
        election: "mass", "count" or "none".
        normalize: "count", "weights" (the signed sum of those that agree) or "none". A divisor
            of 0 counts as 1.
        weights_after_election: Whether the members are weighted only once signs are elected.
        zero_positive: What a sum of zero elects.
        bounds: Least and greatest magnitude of each member that does not count as zero.

    Returns:
        The merged delta.
    """
    merged = torch.empty_like(members[0], memory_format=torch.contiguous_format)
    factors = numbers(weights)
    how = elections.Election(
        lower=[0.0] * len(factors) if bounds is None else numbers(bounds[:, 0]),
        upper=[math.inf] * len(factors) if bounds is None else numbers(bounds[:, 1]),
        votes=[1.0] * len(factors) if weights_after_election else factors,
        weights=factors,
        vote=_VOTES[election],
        zero_positive=zero_positive,
        divide=normalize != "none",
        by_weights=normalize == "weights",
    )
    elections.elect([_flat(member) for member in members], how, merged.reshape(-1).numpy())
    return merged


def _flat(tensor: Tensor) -> loops.Floats:
    return tensor.reshape(-1).contiguous().numpy()
