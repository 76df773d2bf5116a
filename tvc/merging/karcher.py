"""`karcher`: the Riemannian centre of mass of models on a sphere."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import numbers, weighted_sum
from tvc.merging.options import Flag, Number, Whole
from tvc.merging.passes import Statistics
from tvc.merging.reductions import Products

__all__ = ["karcher"]


class Models(Products):
    """Products of the models: the base where it is one of them, then base + delta each."""

    wants = frozenset({"base"})

    def vectors(self, deltas: Tensor, supplies: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the models."""
        return _models(deltas, supplies["base"], include_base=bool(self.options["include_base"]))


@merge_method(
    "karcher",
    summary="The mean of models on the sphere: the point least distant from all.",
    paper="doi:10.1002/cpa.3160300502",
    space="model",
    passes=(Models,),
    unit="element",
)
def karcher(
    deltas: Float[Tensor, "k *shape"],
    *,
    base: Float[Tensor, "*shape"],
    statistics: Statistics,
    max_iter: Annotated[int, Whole("most steps taken", minimum=0, maximum=100_000)] = 10,
    tol: Annotated[float, Number("length of a step that is not worth taking", minimum=0)] = 1e-5,
    include_base: Annotated[bool, Flag("the base is one of the models")] = False,
) -> Float[Tensor, "*shape"]:
    """Find the Karcher mean of directions (Karcher 1977), and multiply by the mean length.

    Models of length at most `tol` have no direction, and count as length 0. All that the descent
    passes through are combinations of the models, so it descends in their coefficients.

    Args:
        deltas: (k, *shape), float32 or float64.
        base: (*shape).
        statistics: The results of the passes.
        max_iter: Most steps of gradient descent.
        tol: Length of a step at which it stops.
        include_base: Whether the base is averaged too.
    """
    models = _models(deltas, base, include_base=include_base)
    if len(models) == 1:
        return deltas[0].clone()
    products = statistics[Models.name]
    lengths = products.diagonal().sqrt()
    directed = [i for i, size in enumerate(numbers(lengths)) if not size <= tol]
    if not directed:
        return -base
    units = torch.diag(1 / lengths)[directed]
    centre = _centre(units, products, max_iter=max_iter, tol=tol)
    length = lengths[directed].sum() / len(models)
    return weighted_sum(models, centre * length) - base


def _models(deltas: Tensor, base: Tensor, *, include_base: bool) -> list[Tensor]:
    return [*([base] if include_base else []), *(base + delta for delta in deltas)]


def _centre(
    units: Float64[Tensor, "u m"], products: Float64[Tensor, "m m"], *, max_iter: int, tol: float
) -> Float64[Tensor, " m"]:
    """Return the coefficients of the mean direction.

    Args:
        units: Coefficients of the directions, one in each row.
        products: Of the models.
        max_iter: Most steps.
        tol: Length of a step at which it stops.
    """
    centre = _unit(units.mean(dim=0), products, tol, otherwise=units[0])
    for _ in range(max_iter):
        steps = [_logarithm(centre, unit, products, tol) for unit in units]
        tangent = torch.stack(steps).mean(dim=0)
        step = _length(tangent, products)
        if step < tol:
            break
        moved = centre * math.cos(step) + tangent * (math.sin(step) / step)
        centre = _unit(moved, products, tol, otherwise=moved)
    return centre


def _unit(vector: Tensor, products: Tensor, tol: float, *, otherwise: Tensor) -> Tensor:
    size = _length(vector, products)
    return otherwise if size <= tol else vector / size


def _length(vector: Tensor, products: Tensor) -> float:
    """Return the length of a combination; NaN stays, and rounding may leave less than nothing."""
    square = float(vector @ products @ vector)
    return math.sqrt(0.0 if square < 0 else square)


def _logarithm(centre: Tensor, unit: Tensor, products: Tensor, tol: float) -> Tensor:
    """Return the tangent at `centre` that leads to `unit`; none leads to the opposite point."""
    cosine = float(centre @ products @ unit)
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if angle < tol or math.sin(angle) == 0:
        return torch.zeros_like(centre)
    return (unit - centre * cosine) * (angle / math.sin(angle))
