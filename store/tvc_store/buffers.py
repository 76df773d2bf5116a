"""Bytes in memory, whoever holds them, seen as one flat view without a copy.

NumPy is deliberately not imported: ids and durable writes serve commands that load no weights.
`tvc_store.arrays` gives the same bytes as an array. Element types are absent too: what the bytes
mean is said by a `TensorSpec`, not by the buffer.
"""

import mmap
from typing import TYPE_CHECKING, Any, TypeAlias

from tvc_store.errors import StoreError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Buffer", "flat_view"]

Buffer: TypeAlias = "bytes | bytearray | memoryview | mmap.mmap | npt.NDArray[Any]"
"""Anything contiguous that holds bytes."""


def flat_view(data: Buffer) -> memoryview:
    """Return the bytes of a buffer as a flat view of unsigned bytes that shares its memory.

    Args:
        data: A C-contiguous buffer of any element type and shape.

    Raises:
        StoreError: The buffer is not contiguous.
    """
    # An array has the buffer protocol; its stub says so from Python 3.12 on.
    view = memoryview(data)  # pyright: ignore[reportArgumentType]  # NumPy's stub
    if not view.c_contiguous:
        raise StoreError(f"buffer of {view.nbytes} bytes is not contiguous")
    # A view with a zero extent cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(b"")
