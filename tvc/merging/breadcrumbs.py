"""`breadcrumbs` and `breadcrumbs_ties`: drop the largest elements, and the many small ones."""

from collections.abc import Sequence
from typing import Annotated, cast

from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import Unit, merge_method
from tvc.merging.mixing import (
    Election,
    Normalize,
    WeightsAfterElection,
    merge_elected,
)
from tvc.merging.options import Choice, Number
from tvc.merging.passes import Options, Scope, Statistics
from tvc.merging.ranks import Ranks
from tvc.merging.selection import magnitudes, row_thresholds, share_of, within
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


def tails(density: float, gamma: float, n: int) -> tuple[int, int]:
    """Return the ranks of the smallest and the largest magnitude that is kept of n.

    The ⌊gamma · n⌋ largest are dropped, the next ⌊density · n⌋ kept, and the rest dropped; fewer of
    the largest where there are not enough others. (0, 0) where nothing is kept.
    """
    kept = share_of(density, n)
    largest = min(share_of(gamma, n), n - kept)
    return (largest + kept, largest + 1) if kept else (0, 0)


class Bounds(Ranks):
    """Finds the least and the greatest magnitude that is kept of each member, (k, 2) float32."""

    name = "bounds"

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say whether the shares are of whole tensors."""
        return "tensor" if options["axis"] == "tensor" else None

    def ranks(self, row: int, nonzero: int) -> Sequence[int]:
        """Return both ranks."""
        del nonzero
        density, gamma = (
            per_member(cast("float | tuple[float, ...]", self.options[name]), self.rows)[row]
            for name in ("density", "gamma")
        )
        return tails(density, gamma, self.numel)


def row_middle(
    delta: Float[Tensor, "*shape"], density: float, gamma: float
) -> Float[Tensor, "*shape"]:
    """Keep the elements of middle magnitude of each row (section 3, the mask of both tails).

    Equal magnitudes are kept together, at both ends.

    Args:
        delta: (*shape).
        density: Share that is kept.
        gamma: Share of the largest that is dropped.
    """
    values = rows_of(magnitudes(delta))
    least, greatest = tails(density, gamma, values.shape[1])
    inside = within(values, row_thresholds(values, least), row_thresholds(values, greatest))
    return delta.masked_fill(~inside.view_as(delta), 0)


def _merged(
    deltas: Tensor,
    weights: Tensor,
    density: float | tuple[float, ...],
    gamma: float | tuple[float, ...],
    statistics: Statistics,
    *,
    election: str,
    normalize: str,
    weights_after_election: bool,
) -> Tensor:
    """Merge the elements of middle magnitude, by bounds of whole tensors or row by row."""
    k = len(deltas)
    bounds, members = statistics.get(Bounds.name), deltas
    if bounds is None:
        shares = zip(deltas, per_member(density, k), per_member(gamma, k), strict=True)
        members = [row_middle(delta, keep, drop) for delta, keep, drop in shares]
    return merge_elected(
        members,
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
        bounds=bounds,
    )


def _unit(options: Options) -> Unit:
    return "row" if options["axis"] == "row" else "element"


@merge_method(
    "breadcrumbs",
    summary="Sum of vectors without their largest and smallest elements.",
    paper="arXiv:2312.06795",
    passes=(Bounds,),
    unit=_unit,
)
def breadcrumbs(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    statistics: Statistics,
    density: Density = 0.1,
    gamma: Gamma = 0.01,
    axis: Axis = "tensor",  # noqa: ARG001 -- says which passes are made
) -> Float[Tensor, "*shape"]:
    """Mask both tails and add, Davari and Belilovsky, section 3.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        statistics: The results of the passes.
        density: Share of elements that is kept.
        gamma: Share of elements, the largest, that is dropped.
        axis: What the shares are of.
    """
    return _merged(
        deltas,
        weights,
        density,
        gamma,
        statistics,
        election="none",
        normalize="none",
        weights_after_election=False,
    )


@merge_method(
    "breadcrumbs_ties",
    summary="Breadcrumbs' mask of both tails, then TIES' election of signs.",
    paper="arXiv:2312.06795",
    passes=(Bounds,),
    unit=_unit,
)
def breadcrumbs_ties(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    statistics: Statistics,
    density: Density = 0.1,
    gamma: Gamma = 0.01,
    axis: Axis = "tensor",  # noqa: ARG001 -- says which passes are made
    election: Election = "mass",
    normalize: Normalize = "count",
    weights_after_election: WeightsAfterElection = False,
) -> Float[Tensor, "*shape"]:
    """Mask both tails in place of TIES' trim; then elect and merge.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        statistics: The results of the passes.
        density: Share of elements that is kept.
        gamma: Share of elements, the largest, that is dropped.
        axis: What the shares are of.
        election: What elects signs.
        normalize: The divisor.
        weights_after_election: Whether the election is unweighted.
    """
    return _merged(
        deltas,
        weights,
        density,
        gamma,
        statistics,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
    )
