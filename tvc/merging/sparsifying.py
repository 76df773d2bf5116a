"""What the sparsifying methods share: options given per member, and rescaling of what is left.

Which elements are dropped is each method's own affair (`ties`, `dare`, `della`, `breadcrumbs`).
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging.options import Choice, Number
from tvc.merging.reductions import absolute_sum

__all__ = ["Density", "Rescale", "per_member", "rescaled", "rows_of"]

Density = Annotated[
    float | tuple[float, ...],
    Number("share of elements that each member keeps", minimum=0, maximum=1, per_member=True),
]
Rescale = Annotated[
    str,
    Choice(
        "divide what is kept by its probability (density), restore the sum of magnitudes (l1), "
        "or leave it (none)",
        ("density", "l1", "none"),
    ),
]

_NEGLIGIBLE = 1e-7
"""Sums of magnitudes below this are not rescaled to, as in mergekit: the ratio is noise."""


def per_member(option: float | tuple[float, ...], members: int) -> tuple[float, ...]:
    """Return one number for each member.

    Args:
        option: One number for all, or one for each.
        members: k.
    """
    return option if isinstance(option, tuple) else (option,) * members


def rescaled(
    kept: Float[Tensor, "*shape"],
    original: Float[Tensor, "*shape"],
    probability: Float[Tensor, "*shape"] | float,
    *,
    rescale: str,
) -> Float[Tensor, "*shape"]:
    """Make up for what was dropped.

    Args:
        kept: The sparsified member.
        original: The member.
        probability: With which each element is kept, in [0, 1].
        rescale: "density", "l1" or "none".
    """
    if rescale == "density":
        # Where the probability is 0 nothing was kept: 0 / 1.
        chance = torch.as_tensor(probability, dtype=kept.dtype)
        return kept / chance.masked_fill(chance == 0, 1)
    if rescale == "l1":
        before, after = absolute_sum(original), absolute_sum(kept)
        return kept if min(before, after) < _NEGLIGIBLE else kept * (before / after)
    return kept


def rows_of(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "rows n"]:
    """View a tensor as rows: one for each index of its first axis; a vector is one row."""
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)
    return tensor.reshape(tensor.shape[0], -1) if tensor.numel() else tensor.reshape(0, 1)
