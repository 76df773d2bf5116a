"""`karcher`: the Riemannian centre of mass of models on a sphere."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import mean
from tvc.merging.options import Flag, Number, Whole
from tvc.merging.reductions import dot, norm

__all__ = ["karcher"]


@merge_method(
    "karcher",
    summary="The mean of models on the sphere: the point least distant from all.",
    paper="doi:10.1002/cpa.3160300502",
    space="model",
)
def karcher(
    deltas: Float[Tensor, "k *shape"],
    *,
    base: Float[Tensor, "*shape"],
    max_iter: Annotated[int, Whole("most steps taken", minimum=0, maximum=100_000)] = 10,
    tol: Annotated[float, Number("length of a step that is not worth taking", minimum=0)] = 1e-5,
    include_base: Annotated[bool, Flag("the base is one of the models")] = False,
) -> Float[Tensor, "*shape"]:
    """Find the Karcher mean of directions (Karcher 1977), and multiply by the mean length.

    Models of length at most `tol` have no direction, and count as length 0.

    Args:
        deltas: (k, *shape), float32 or float64.
        base: (*shape).
        max_iter: Most steps of gradient descent.
        tol: Length of a step at which it stops.
        include_base: Whether the base is averaged too.
    """
    models = [*([base] if include_base else []), *(base + delta for delta in deltas)]
    if len(models) == 1:
        return deltas[0].clone()
    lengths = [norm(model) for model in models]
    units = [m / size for m, size in zip(models, lengths, strict=True) if not size <= tol]
    if not units:
        return -base
    centre = _unit(mean(units), tol, otherwise=units[0])
    for _ in range(max_iter):
        tangent = mean([_logarithm(centre, unit, tol) for unit in units])
        step = norm(tangent)
        if step < tol:
            break
        moved = centre * math.cos(step) + tangent * (math.sin(step) / step)
        centre = _unit(moved, tol, otherwise=moved)
    length = sum(size for size in lengths if not size <= tol) / len(models)
    return centre * length - base


def _unit(tensor: Tensor, tol: float, *, otherwise: Tensor) -> Tensor:
    size = norm(tensor)
    return otherwise if size <= tol else tensor / size


def _logarithm(centre: Tensor, unit: Tensor, tol: float) -> Tensor:
    """Return the tangent at `centre` that leads to `unit`; none leads to the opposite point."""
    cosine = dot(centre, unit)
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if angle < tol or math.sin(angle) == 0:
        return torch.zeros_like(centre)
    return (unit - centre * cosine) * (angle / math.sin(angle))
