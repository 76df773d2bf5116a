"""Bytes in memory as flat arrays of uint8, for what computes on them."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tvc_store.buffers import Buffer, flat_view

__all__ = ["ByteArray", "byte_view"]

ByteArray: TypeAlias = npt.NDArray[np.uint8]
"""A flat, contiguous array of uint8."""


def byte_view(data: Buffer) -> ByteArray:
    """Return the bytes of a buffer as a flat uint8 array that shares its memory.

    Args:
        data: A C-contiguous buffer of any element type and shape.

    Returns:
        uint8 of shape (nbytes,); read-only where the buffer is.

    Raises:
        StoreError: The buffer is not contiguous.
    """
    return np.frombuffer(flat_view(data), np.uint8)
