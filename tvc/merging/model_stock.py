"""`model_stock`: move the average towards the base by the angle between members."""

from itertools import combinations
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import mean
from tvc.merging.options import Flag
from tvc.merging.passes import Options, Scope, Statistics
from tvc.merging.reductions import Products, row_dots
from tvc.merging.sparsifying import rows_of

__all__ = ["model_stock"]

_TINY = 1e-6
"""Below this a product of norms, or the denominator of t, counts as zero."""


class Angles(Products):
    """Products of the members, for one angle a tensor."""

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say whether a tensor has one angle."""
        return None if options["filter_wise"] else "tensor"


@merge_method(
    "model_stock",
    summary="The mean, shortened by the angle between the members.",
    paper="arXiv:2403.19522",
    members=(2, None),
    passes=(Angles,),
    unit=lambda options: "row" if options["filter_wise"] else "element",
)
def model_stock(
    deltas: Float[Tensor, "k *shape"],
    *,
    statistics: Statistics,
    filter_wise: Annotated[
        bool, Flag("an angle for each row (index of the first axis), not one for the tensor")
    ] = False,
) -> Float[Tensor, "*shape"]:
    """Interpolate between the base and the mean, Jang et al., equation 6.

    t = N cos θ / (1 + (N - 1) cos θ), cos θ the mean over pairs of members (the paper states two
    members; the mean is mergekit's reading). Where the denominator is zero, t is 0.

    Args:
        deltas: (k, *shape), float32 or float64, k at least 2.
        statistics: The results of the passes.
        filter_wise: Whether each row has its own angle; a vector is one row.
    """
    if not filter_wise:
        t = ratio(statistics[Angles.name])
        return mean(deltas) * float(t.to(deltas.dtype))
    rows = [rows_of(delta) for delta in deltas]
    dots = torch.stack([torch.stack([row_dots(a, b) for b in rows], dim=-1) for a in rows], dim=-1)
    t = ratio(dots)
    return (mean(rows) * t.to(deltas.dtype).unsqueeze(1)).reshape(deltas.shape[1:])


def ratio(products: Float64[Tensor, "*rows k k"]) -> Float64[Tensor, "*rows"]:
    """Return t, by the products of all pairs of members."""
    k = products.shape[-1]
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    cosines = [
        (products[..., i, j] / (lengths[..., i] * lengths[..., j]).clamp(min=_TINY)).clamp(-1, 1)
        for i, j in combinations(range(k), 2)
    ]
    cosine = mean(cosines)
    denominator = 1 + (k - 1) * cosine
    degenerate = denominator.abs() < _TINY
    return (k * cosine / denominator.masked_fill(degenerate, 1)).masked_fill(degenerate, 0)
