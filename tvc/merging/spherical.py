"""`slerp`, `nuslerp`, `multislerp`: interpolation along great circles. `karcher` is apart."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import numbers, weighted_sum
from tvc.merging.options import Flag, Number
from tvc.merging.passes import Options, Scope, Statistics
from tvc.merging.reductions import Products, row_dots

__all__ = ["multislerp", "nuslerp", "slerp"]

_PARALLEL = 0.9995
"""From this |cosine| on, slerp interpolates linearly, as mergekit does."""
_TINY = 1e-8


class ModelProducts(Products):
    """Products of the two models, base + delta each; the base is the first of one member."""

    wants = frozenset({"base"})

    def vectors(self, deltas: Tensor, supplies: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the two models."""
        models = [supplies["base"] + delta for delta in deltas]
        return models if len(models) == 2 else [supplies["base"], *models]


class MemberProducts(Products):
    """Products of the members."""

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say whether a tensor is one vector."""
        return "tensor" if options.get("flatten", True) else None


@merge_method(
    "slerp",
    summary="Interpolation between two models along the great circle.",
    paper="doi:10.1145/325334.325242",
    commutative=False,
    space="model",
    members=(1, 2),
    passes=(ModelProducts,),
    unit="element",
)
def slerp(
    deltas: Float[Tensor, "k *shape"],
    *,
    base: Float[Tensor, "*shape"],
    statistics: Statistics,
    t: Annotated[float, Number("0 is the first model, 1 the second", minimum=0, maximum=1)] = 0.5,
) -> Float[Tensor, "*shape"]:
    """Interpolate each tensor as one long vector, Shoemake 1985, section 3.3.

    Nearly parallel and antiparallel tensors, and zero ones, are interpolated linearly.

    Args:
        deltas: (k, *shape), float32 or float64: one member is interpolated with the base, which
            comes first.
        base: (*shape).
        statistics: The results of the passes.
        t: Where between the two.
    """
    first = torch.zeros_like(deltas[0]) if len(deltas) == 1 else deltas[0]
    second = deltas[-1]
    products = statistics[ModelProducts.name]
    lengths = float(products[0, 0].sqrt() * products[1, 1].sqrt())
    cosine = float(products[0, 1]) / lengths if lengths > _TINY else 1.0
    if not abs(cosine) <= _PARALLEL:
        return first * (1 - t) + second * t
    angle = math.acos(cosine)
    near = math.sin((1 - t) * angle) / math.sin(angle)
    far = math.sin(t * angle) / math.sin(angle)
    # near·(base + first) + far·(base + second) - base, kept apart so that the base hardly counts
    return (first * near + second * far) + base * (near + far - 1)


@merge_method(
    "nuslerp",
    summary="Interpolation between two vectors along the great circle, by their weights.",
    paper="mergekit 0.1.5, nuslerp",
    members=(2, 2),
    passes=(MemberProducts,),
    unit=lambda options: "element" if options["flatten"] else "tensor",
)
def nuslerp(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    statistics: Statistics,
    flatten: Annotated[bool, Flag("a tensor is one long vector, not one for each row")] = True,
    row_wise: Annotated[
        bool, Flag("without flatten: vectors run along the first axis, not the last")
    ] = False,
) -> Float[Tensor, "*shape"]:
    """Interpolate two differences from the base (Shoemake 1985, section 3.3) at w₂ / (w₁ + w₂).

    Vectors that are parallel, or zero, are interpolated linearly.

    Args:
        deltas: (2, *shape), float32 or float64.
        weights: (2,). If they sum to nothing, the middle is taken.
        statistics: The results of the passes.
        flatten: Whether a tensor is one vector.
        row_wise: Along which axis the vectors of a tensor run, if it is more than one.
    """
    one, two = numbers(weights)
    t = two / (one + two) if abs(one + two) >= 1e-6 else 0.5
    shape = deltas.shape[1:]
    if flatten or len(shape) < 2:
        # A vector is one vector either way, and was not passed over where rows were asked for.
        one_each = deltas.reshape(2, 1, -1)
        products = statistics.get(MemberProducts.name)
        left, right = one_each[0], one_each[1]
        dots = _row_products(left, right) if products is None else _pairs(products)
        return _between(left, right, dots, t).reshape(shape)
    sides = [delta.transpose(0, -1).contiguous() if row_wise else delta for delta in deltas]
    width = sides[0].shape[-1]
    left, right = (side.reshape(-1, width) if width else side.reshape(0, 1) for side in sides)
    mixed = _between(left, right, _row_products(left, right), t)
    mixed = mixed.reshape(sides[0].shape)
    return mixed.transpose(0, -1).contiguous() if row_wise else mixed


def _row_products(left: Tensor, right: Tensor) -> Float64[Tensor, "3 rows"]:
    return torch.stack([row_dots(left, left), row_dots(right, right), row_dots(left, right)])


def _pairs(products: Float64[Tensor, "2 2"]) -> Float64[Tensor, "3 1"]:
    return torch.stack([products[0, 0], products[1, 1], products[0, 1]]).unsqueeze(1)


def _between(left: Tensor, right: Tensor, dots: Tensor, t: float) -> Float[Tensor, "rows n"]:
    lengths = (dots[0] * dots[1]).sqrt()
    cosine = dots[2] / lengths.masked_fill(lengths < _TINY**2, 1)
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    linear = (sine.abs() < _TINY) | (lengths < _TINY**2)
    sine = sine.masked_fill(linear, 1)
    near = torch.where(linear, 1 - t, torch.sin((1 - t) * angle) / sine)
    far = torch.where(linear, t, torch.sin(t * angle) / sine)
    return left * near.to(left.dtype).unsqueeze(1) + right * far.to(left.dtype).unsqueeze(1)


@merge_method(
    "multislerp",
    summary="Weighted mean of directions, by way of the tangent space at their average.",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    passes=(MemberProducts,),
    unit="element",
)
def multislerp(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    statistics: Statistics,
    normalize: Annotated[bool, Flag("divide weights by their sum")] = True,
) -> Float[Tensor, "*shape"]:
    """Average directions in a tangent space, and lengths apart (Goddard, "Multi-SLERP").

    1. Project the members to the unit sphere; 2. average them, which is the point of tangency;
    3. average in the tangent space there; 4. go back by the exponential map; 5. multiply by the
    average length. Where the directions cancel, the weighted sum is returned.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        statistics: The results of the passes.
        normalize: Whether weights are made to sum to 1 (not where their sum is 0).
    """
    if len(deltas) == 1:
        return deltas[0].clone()
    shares = weights.double()
    if normalize:
        shares = shares / (shares.sum() if shares.sum() != 0 else 1)
    # Every vector of the algorithm is a combination of the members: what is computed are its
    # coefficients, and lengths and angles follow from the members' products.
    products = statistics[MemberProducts.name]
    lengths = products.diagonal().sqrt()
    units = 1 / (lengths + _TINY)
    centre = shares * units
    size = _length(centre, products)
    if not size >= _TINY:
        return weighted_sum(deltas, shares)
    centre = centre / size
    cosines = units * (products @ centre)
    tangent = shares * units - centre * (shares * cosines).sum()
    step = _length(tangent, products) + _TINY
    result = centre * math.cos(step) + tangent * (math.sin(step) / step)
    return weighted_sum(deltas, result * (lengths * shares).sum())


def _length(coefficients: Tensor, products: Tensor) -> float:
    """Return the length of a combination of members; rounding may leave less than nothing of it."""
    return math.sqrt(max(0.0, float(coefficients @ products @ coefficients)))
