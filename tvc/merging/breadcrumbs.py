"""`breadcrumbs` and `breadcrumbs_ties`: drop the largest elements, and the many small ones."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import (
    Election,
    Normalize,
    WeightsAfterElection,
    merge_elected,
    weighted_sum,
)
from tvc.merging.options import Choice, Number
from tvc.merging.selection import kth_largest, magnitudes, row_thresholds, share_of, within
from tvc.merging.sparsifying import Density, per_member, rows_of

__all__ = ["breadcrumbs", "breadcrumbs_ties"]

Gamma = Annotated[
    float | tuple[float, ...],
    Number(
        "share of elements, the largest, that is dropped", minimum=0, maximum=1, per_member=True
    ),
]
Axis = Annotated[
    str, Choice("what is counted over: the whole tensor, or each row of it", ("tensor", "row"))
]


def middle(
    delta: Float[Tensor, "*shape"], density: float, gamma: float, *, axis: str
) -> Float[Tensor, "*shape"]:
    """Keep the elements of middle magnitude (section 3, the mask of both tails).

    Of n elements the ⌊gamma · n⌋ largest are dropped, the next ⌊density · n⌋ kept, and the rest
    dropped; fewer of the largest where there are not enough others. Equal magnitudes are kept
    together, at both ends.

    Args:
        delta: (*shape).
        density: Share that is kept.
        gamma: Share of the largest that is dropped.
        axis: "tensor", or "row" for one row at a time.
    """
    values = magnitudes(delta)
    if axis == "row":
        values = rows_of(values)
    n = values.shape[1] if axis == "row" else values.numel()
    kept = share_of(density, n)
    largest = min(share_of(gamma, n), n - kept)
    if kept == 0:
        return delta.masked_fill(~within(values, float("inf"), float("inf")).view_as(delta), 0)
    if axis == "row":
        lower, upper = row_thresholds(values, largest + kept), row_thresholds(values, largest + 1)
    else:
        lower, upper = kth_largest(values, largest + kept), kth_largest(values, largest + 1)
    return delta.masked_fill(~within(values, lower, upper).view_as(delta), 0)


def _middles(
    deltas: Tensor, density: float | tuple[float, ...], gamma: float | tuple[float, ...], axis: str
) -> list[Tensor]:
    k = len(deltas)
    shares = zip(deltas, per_member(density, k), per_member(gamma, k), strict=True)
    return [middle(delta, keep, drop, axis=axis) for delta, keep, drop in shares]


@merge_method(
    "breadcrumbs",
    summary="Sum of vectors without their largest and smallest elements.",
    paper="arXiv:2312.06795",
)
def breadcrumbs(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    density: Density = 0.1,
    gamma: Gamma = 0.01,
    axis: Axis = "tensor",
) -> Float[Tensor, "*shape"]:
    """Mask both tails and add, Davari and Belilovsky, section 3.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        density: Share of elements that is kept.
        gamma: Share of elements, the largest, that is dropped.
        axis: What the shares are of.
    """
    return weighted_sum(_middles(deltas, density, gamma, axis), weights)


@merge_method(
    "breadcrumbs_ties",
    summary="Breadcrumbs' mask of both tails, then TIES' election of signs.",
    paper="arXiv:2312.06795",
)
def breadcrumbs_ties(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    density: Density = 0.1,
    gamma: Gamma = 0.01,
    axis: Axis = "tensor",
    election: Election = "mass",
    normalize: Normalize = "count",
    weights_after_election: WeightsAfterElection = False,
) -> Float[Tensor, "*shape"]:
    """Mask both tails in place of TIES' trim; then elect and merge.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        density: Share of elements that is kept.
        gamma: Share of elements, the largest, that is dropped.
        axis: What the shares are of.
        election: What elects signs.
        normalize: The divisor.
        weights_after_election: Whether the election is unweighted.
    """
    return merge_elected(
        _middles(deltas, density, gamma, axis),
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
    )
