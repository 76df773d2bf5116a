"""Coding of frames: by the compiled module where there is one, or by its twin in NumPy.

Both give the same bytes; the tests hold one against the other. Absent on purpose: what rows,
columns and exponents mean for a tensor, which is the codec's.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from tvc_store.arrays import ByteArray
from tvc_store.codecs import reference
from tvc_store.codecs.factors import Factors
from tvc_store.codecs.grid import Grid

try:
    from tvc_store.codecs import _coding
except ImportError:  # built without a compiler
    _coding = None

__all__ = ["column_sizes", "decode", "encode", "expected", "in_use", "supported", "use"]

NUMPY: Final = "NumPy"
_forced: list[str] = []


def encode(grid: Grid, frame: ByteArray, base: ByteArray, *, first: int) -> bytes | None:
    """Return a coded frame, or None where that would not be shorter.

    Args:
        grid: Of the tensor.
        frame: uint8 (n,), n > 0, whole elements.
        base: uint8 (n,).
        first: The number of the frame's first element in the tensor.
    """
    if _coding is None or _forced == [NUMPY]:
        return reference.encode(grid, frame, base, first=first)
    return _coding.encode(frame, base, *_arguments(grid), first)


def decode(grid: Grid, stored: ByteArray, out: ByteArray, base: ByteArray, *, first: int) -> bool:
    """Fill `out` from a coded frame, and say whether it was one; if not, `out` holds anything.

    Args:
        grid: Of the tensor.
        stored: uint8 (m,), possibly hostile.
        out: uint8 (n,), n > 0, whole elements.
        base: uint8 (n,).
        first: The number of the frame's first element in the tensor.
    """
    if _coding is None or _forced == [NUMPY]:
        return reference.decode(grid, stored, out, base, first=first)
    return _coding.decode(stored, out, base, *_arguments(grid), first)


def column_sizes(grid: Grid, rows: ByteArray, base: ByteArray) -> npt.NDArray[np.uint64]:
    """Return how large the changes in each column are, relative to the means of their rows.

    Args:
        grid: Of the tensor; with columns.
        rows: uint8 (n,), n > 0, whole rows.
        base: uint8 (n,).

    Returns:
        uint64 (columns,), up to a common factor.
    """
    if _coding is None or _forced == [NUMPY]:
        return reference.column_sizes(grid, rows, base)
    given = (grid.itemsize, grid.exponent_shift, grid.exponent_mask, grid.columns)
    return np.frombuffer(_coding.column_sizes(rows, base, *given), np.uint64)


def expected(factors: Factors, base: ByteArray, *, first: int) -> ByteArray:
    """Return a base with a product added to it, rounded.

    Args:
        factors: Of the product.
        base: uint8 (n,), bf16 or fp16.
        first: The number of its first element in the matrix.
    """
    if _coding is None or _forced == [NUMPY] or factors.dtype != "BF16":
        return factors.expected(base, first=first)
    out = np.empty_like(base)
    left, right, pairs = factors.paired()
    _coding.expected(base, out, left, right, pairs, factors.columns, factors.exponent, first)
    return out


def supported() -> list[str]:
    """Return what this machine can use, the fastest first; NumPy is always among them."""
    return [*(_coding.supported() if _coding else ()), NUMPY]


def in_use() -> str:
    """Return which of `supported` codes frames."""
    return _coding.in_use() if _coding and _forced != [NUMPY] else NUMPY


def use(name: str) -> None:
    """Choose one of `supported`, for this process; for tests and measurements.

    Raises:
        ValueError: It is none of them.
    """
    if name != NUMPY:
        if _coding is None:
            raise ValueError(f"there is no compiled module, so no {name}")
        _coding.use(name)
    _forced[:] = [name]


def _arguments(grid: Grid) -> tuple[int, int, int, int, bytes, bool]:
    return (
        grid.itemsize,
        grid.exponent_shift,
        grid.exponent_mask,
        grid.columns,
        grid.column_terms,
        grid.with_rows,
    )
