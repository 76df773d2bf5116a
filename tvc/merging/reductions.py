"""Sums over the elements of a tensor, in float64.

Torch splits a long sum over its threads, so the last bits depend on how many there are. Here
tensors are summed in pieces too short to be split, and the pieces in order: the result depends on
the numbers alone. Not here: sums over members, which the methods write out in order.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

__all__ = ["absolute_sum", "dot", "norm", "pieces", "row_dots"]

_PIECE = 1 << 14
"""Elements summed at once; torch splits a reduction from 2**15 elements on."""


def dot(left: Tensor, right: Tensor) -> float:
    """Return the sum of products of two tensors of one shape."""
    total = 0.0
    for a, b in zip(pieces(left.reshape(-1)), pieces(right.reshape(-1)), strict=True):
        total += (a.double() * b.double()).sum().item()
    return total


def norm(tensor: Tensor) -> float:
    """Return the Euclidean norm."""
    return dot(tensor, tensor) ** 0.5


def absolute_sum(tensor: Tensor) -> float:
    """Return the sum of magnitudes."""
    total = 0.0
    for piece in pieces(tensor.reshape(-1)):
        total += piece.double().abs().sum().item()
    return total


def row_dots(left: Tensor, right: Tensor) -> Float64[Tensor, " rows"]:
    """Return the sum of products of each row.

    Args:
        left: (rows, columns).
        right: (rows, columns).
    """
    total = torch.zeros(left.shape[0], dtype=torch.float64)
    for a, b in zip(pieces(left, dim=1), pieces(right, dim=1), strict=True):
        total = total + _row_sums(a, b)
    return total


def pieces(tensor: Tensor, size: int = _PIECE, *, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of at most `size` indices along one axis."""
    return torch.split(tensor, size, dim)  # pyright: ignore[reportUnknownVariableType]  # torch does not say


def _row_sums(left: Tensor, right: Tensor) -> Tensor:
    rows = max(1, _PIECE // max(1, left.shape[1]))
    parts = zip(pieces(left, rows), pieces(right, rows), strict=True)
    return torch.cat([(a.double() * b.double()).sum(dim=1) for a, b in parts])
