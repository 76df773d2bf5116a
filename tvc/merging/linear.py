"""`linear`: the weighted average of models. Averages of directions are in `spherical`."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import numbers, weighted_sum
from tvc.merging.options import Flag, Number

__all__ = ["linear"]


@merge_method(
    "linear",
    summary="Weighted average of models.",
    paper="arXiv:2203.05482",
    space="model",
    unit="element",
)
def linear(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    base: Float[Tensor, "*shape"],
    normalize: Annotated[bool, Flag("divide by the sum of the weights")] = True,
    base_weight: Annotated[float, Number("weight of the base model itself")] = 0.0,
) -> Float[Tensor, "*shape"]:
    """Average models, Wortsman et al., section 2 ("uniform soup", with weights).

    With b the base's weight, the result is b · base + Σ wᵢ (base + dᵢ), divided by b + Σ wᵢ if
    normalised (and by nothing if that is 0). The base then cancels, and is not touched.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        base: (*shape).
        normalize: Whether the weights are made to sum to 1.
        base_weight: Weight of the base model.
    """
    total = weighted_sum(deltas, weights)
    weight = base_weight + sum(numbers(weights))
    if normalize:
        return total / (weight or 1.0)
    return total + base * (weight - 1)
