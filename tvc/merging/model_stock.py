"""`model_stock`: move the average towards the base by the angle between members."""

from itertools import combinations
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import mean
from tvc.merging.options import Flag
from tvc.merging.reductions import row_dots
from tvc.merging.sparsifying import rows_of

__all__ = ["model_stock"]

_TINY = 1e-6
"""Below this a product of norms, or the denominator of t, counts as zero."""


@merge_method(
    "model_stock",
    summary="The mean, shortened by the angle between the members.",
    paper="arXiv:2403.19522",
    members=(2, None),
)
def model_stock(
    deltas: Float[Tensor, "k *shape"],
    *,
    filter_wise: Annotated[
        bool, Flag("an angle for each row (index of the first axis), not one for the tensor")
    ] = False,
) -> Float[Tensor, "*shape"]:
    """Interpolate between the base and the mean, Jang et al., equation 6.

    t = N cos θ / (1 + (N - 1) cos θ), cos θ the mean over pairs of members (the paper states two
    members; the mean is mergekit's reading). Where the denominator is zero, t is 0.

    Args:
        deltas: (k, *shape), float32 or float64, k at least 2.
        filter_wise: Whether each row has its own angle; a vector is one row.
    """
    rows = [rows_of(delta) if filter_wise else delta.reshape(1, -1) for delta in deltas]
    lengths = [row_dots(each, each).sqrt() for each in rows]
    cosines = [
        (row_dots(rows[i], rows[j]) / (lengths[i] * lengths[j]).clamp(min=_TINY)).clamp(-1, 1)
        for i, j in combinations(range(len(rows)), 2)
    ]
    cosine = mean(cosines)
    denominator = 1 + (len(rows) - 1) * cosine
    degenerate = denominator.abs() < _TINY
    t = (len(rows) * cosine / denominator.masked_fill(degenerate, 1)).masked_fill(degenerate, 0)
    return (mean(rows) * t.to(deltas.dtype).unsqueeze(1)).reshape(deltas.shape[1:])
