"""`sce`: select what differs most, calculate weights from energies, erase the minority."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import mean, merge_elected
from tvc.merging.options import Number
from tvc.merging.reductions import dot
from tvc.merging.selection import kth_largest, magnitudes, share_of

__all__ = ["sce"]


@merge_method(
    "sce",
    summary="Merge the elements of highest variance, members weighted by their squared size.",
    paper="arXiv:2408.07990",
)
def sce(
    deltas: Float[Tensor, "k *shape"],
    *,
    select_topk: Annotated[
        float,
        Number("share of elements, of those whose variance is not zero, that is merged", 0, 1),
    ] = 1.0,
) -> Float[Tensor, "*shape"]:
    """Select, calculate, erase, Wan et al. (FuseChat), section 3.3.

    Args:
        deltas: (k, *shape), float32 or float64.
        select_topk: Share of elements merged, by their variance over members. 1 selects all,
            those without variance too. Equal variances are selected together.
    """
    members = list(deltas)
    if select_topk < 1:
        unselected = ~_selected(deltas, select_topk)
        members = [delta.masked_fill(unselected, 0) for delta in deltas]
    energies = torch.tensor([dot(member, member) for member in members], dtype=torch.float64)
    total = energies.sum()
    # Without any energy all weights are equal, and there is nothing to weight.
    weights = energies / total if total > 0 else torch.ones_like(energies)
    return merge_elected(
        members, weights, election="mass", normalize="weights", weights_after_election=True
    )


def _selected(deltas: Tensor, share: float) -> Bool[Tensor, "*shape"]:
    average = mean(deltas)
    variance = torch.zeros_like(average)
    for delta in deltas:
        variance += (delta - average).square_()
    values = magnitudes(variance)
    threshold = kth_largest(values, share_of(share, int(torch.count_nonzero(values))))
    return ~(values < threshold)
