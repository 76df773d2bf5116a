"""Element types, by the names that safetensors gives them, and how many bytes an element has.

The store never does arithmetic: to it every type is an unsigned integer of its width. Types
narrower than a byte (F4, F6) are deliberately absent, since no element of theirs has an address.
"""

import math
from dataclasses import dataclass
from typing import Final

from tvc_store.errors import StoreError

__all__ = ["ITEMSIZE", "MAX_DIMENSIONS", "TensorSpec", "UnknownDtype"]

ITEMSIZE: Final[dict[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes an element, by safetensors dtype name."""

MAX_DIMENSIONS: Final = 16
_MAX_BYTES: Final = 1 << 39  # 512 GiB: no tensor of any published model comes near


class UnknownDtype(StoreError):
    """The element type is not one that the store knows."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The type and shape of a tensor; valid once built.

    Args:
        dtype: An element type of `ITEMSIZE`.
        shape: Extents, row-major; empty for a scalar, and any extent may be 0.

    Raises:
        UnknownDtype: The dtype is not in `ITEMSIZE`.
        StoreError: An extent is negative, or there are too many of them or too many bytes.
    """

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in ITEMSIZE:
            raise UnknownDtype(
                f"unknown element type {self.dtype!r}", hint=f"known: {', '.join(ITEMSIZE)}"
            )
        if len(self.shape) > MAX_DIMENSIONS or any(extent < 0 for extent in self.shape):
            raise StoreError(f"impossible shape {list(self.shape)}")
        # The product of the non-zero extents is bounded too, so that [0, 10**12] is refused.
        if math.prod(extent or 1 for extent in self.shape) * self.itemsize > _MAX_BYTES:
            raise StoreError(f"shape {list(self.shape)} is too large")

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return ITEMSIZE[self.dtype]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the whole tensor."""
        return self.numel * self.itemsize
