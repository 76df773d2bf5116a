"""`nearswap`: go over to another model where it is near, and a fixed step towards it elsewhere."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.options import Number

__all__ = ["nearswap"]


@merge_method(
    "nearswap",
    summary="Take over what differs by at most t, and a step of t elsewhere.",
    paper="mergekit 0.1.5, nearswap",
    members=(1, 1),
    unit="element",
)
def nearswap(
    deltas: Float[Tensor, "k *shape"],
    *,
    t: Annotated[float, Number("largest change of an element", minimum=0)] = 0.001,
) -> Float[Tensor, "*shape"]:
    """Interpolate by min(1, t / |d|), element by element, which is to clip d to [-t, t].

    Args:
        deltas: (1, *shape), float32 or float64.
        t: Largest change of an element, in the units of weights.
    """
    return deltas[0].clamp(-t, t)
