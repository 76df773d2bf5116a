"""Sums over the elements of a tensor, in float64.

Torch splits a long sum over its threads, so the last bits depend on how many there are. Here
tensors are summed in pieces too short to be split, and the pieces in order: the result depends on
the numbers alone. Not here: sums over members, which the methods write out in order.
"""

from collections.abc import Mapping
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float64
from torch import Tensor

from tvc.merging import kernels
from tvc.merging.passes import Options, Part, Pass, Scope

__all__ = ["Products", "absolute_sum", "dot", "pieces", "row_dots"]

_PIECE = 1 << 14
"""Elements summed at once; torch splits a reduction from 2**15 elements on."""


def dot(left: Tensor, right: Tensor, total: float = 0.0) -> float:
    """Return a total plus the sum of products of two tensors of one shape."""
    a, b = left.reshape(-1).contiguous(), right.reshape(-1).contiguous()
    return kernels.dot(a.numpy(), b.numpy(), total)


def absolute_sum(tensor: Tensor, total: float = 0.0) -> float:
    """Return a total plus the sum of magnitudes."""
    for piece in pieces(tensor.reshape(-1)):
        total += piece.double().abs().sum().item()
    return total


class Products(Pass):
    """Products of all pairs of members over a tensor: the result is (m, m) float64.

    Lengths, angles and all that follows from them need no more than these.
    """

    name = "products"

    def vectors(self, deltas: Tensor, supplies: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the m vectors, of one block."""
        del supplies
        return list(deltas)

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say that it is always needed, over each tensor."""
        del options
        return "tensor"

    def part(self) -> Part:
        """Return what is to observe the tensor."""
        return _Products(self)

    def add(self, part: Part) -> None:
        """Keep what was seen of the tensor."""
        assert isinstance(part, _Products)
        self._totals = part.totals

    def result(self) -> Tensor:
        """Return the products, (m, m) float64."""
        m = max((j for _, j in self._totals), default=-1) + 1
        pairs = [[self._totals[min(i, j), max(i, j)] for j in range(m)] for i in range(m)]
        return torch.tensor(pairs, dtype=torch.float64).reshape(m, m)


class _Products(Part):
    def __init__(self, products: Products) -> None:
        self._products = products
        self.totals: dict[tuple[int, int], float] = {}

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        vectors = self._products.vectors(deltas, supplies)
        for i, j in combinations_with_replacement(range(len(vectors)), 2):
            self.totals[i, j] = dot(vectors[i], vectors[j], self.totals.get((i, j), 0.0))


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
