"""Bytes in memory, whoever holds them, seen as one flat array of uint8 without a copy.

Absent on purpose: element types. What the bytes mean is said by a `TensorSpec`, not by the buffer.
"""

import mmap
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tvc_store.errors import StoreError

__all__ = ["Buffer", "ByteArray", "byte_view"]

ByteArray: TypeAlias = npt.NDArray[np.uint8]
"""A flat, contiguous array of uint8."""

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap | npt.NDArray[Any]
"""Anything contiguous that holds bytes."""


def byte_view(data: Buffer) -> ByteArray:
    """Return the bytes of a buffer as a flat uint8 array that shares its memory.

    Args:
        data: A C-contiguous buffer of any element type and shape.

    Returns:
        uint8 of shape (nbytes,); read-only where the buffer is.

    Raises:
        StoreError: The buffer is not contiguous.
    """
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise StoreError(f"array of shape {list(data.shape)} is not contiguous")
        return data.reshape(-1).view(np.uint8)
    view = memoryview(data)
    if not view.c_contiguous:
        raise StoreError(f"buffer of {view.nbytes} bytes is not contiguous")
    if not view.nbytes:
        return np.empty(0, np.uint8)
    return np.frombuffer(view, np.uint8)
