"""`arcee_fusion`: take over only the elements that matter much more than most."""

import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.reductions import pieces
from tvc.merging.selection import kth_largest, magnitudes

__all__ = ["arcee_fusion"]

_ROWS_AT_ONCE = 1 << 20
"""Elements whose softmax is taken at once, in float64."""


@merge_method(
    "arcee_fusion",
    summary="Take over the elements of outstanding importance.",
    paper="mergekit 0.1.5, arcee_fusion",
    members=(1, 1),
)
def arcee_fusion(
    deltas: Float[Tensor, "k *shape"], *, base: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Keep the elements whose importance is at least median + 1.5 · (third - first quartile).

    Importance is |d| times the divergence KL(softmax(tuned) ‖ softmax(base)) of the element's
    row (along the last axis). Quartiles are exact, where mergekit samples large tensors.

    Args:
        deltas: (1, *shape), float32 or float64.
        base: (*shape).
    """
    delta = deltas[0]
    if delta.numel() == 0:
        return delta.clone()
    rows = delta.reshape(-1, delta.shape[-1]) if delta.dim() else delta.reshape(1, 1)
    divergence = _divergence(base.reshape(rows.shape), rows)
    values = magnitudes(rows * divergence.to(rows.dtype).unsqueeze(1))
    n = values.numel()
    first, median, third = (
        kth_largest(values, n - (quarter * (n - 1)) // 4) for quarter in (1, 2, 3)
    )
    unimportant = values < median + 1.5 * (third - first)
    return rows.masked_fill(unimportant, 0).reshape(delta.shape)


def _divergence(base: Tensor, rows: Tensor) -> Tensor:
    """Return the divergence of each row, float64, with mergekit's 1e-8 added to probabilities."""
    at_once = max(1, _ROWS_AT_ONCE // rows.shape[1])
    found: list[Tensor] = []
    for plain, change in zip(pieces(base, at_once), pieces(rows, at_once), strict=True):
        before = plain.double().softmax(dim=1) + 1e-8
        after = (plain.double() + change.double()).softmax(dim=1) + 1e-8
        found.append((after * (after / before).log()).sum(dim=1))
    return torch.cat(found)
