"""Content that can be read at any place, wherever it lies: in memory, in a file, in an object.

Tensors may be larger than the memory, so that what reads them asks for parts. Absent on purpose:
where the content comes from, which each kind knows, and whether it is what an id says.
"""

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.header import FRAME_BYTES
from tvc_store.ids import ObjectId, TensorHasher

__all__ = ["Elements", "InMemory", "elements_id", "frame_count", "frame_slices"]

_PIECE: Final = 1 << 20  # bytes read at a time where nothing but the hash is wanted: a cache's size


class Elements(Protocol):
    """The bytes of a tensor or blob, row-major and little-endian; safe for several threads."""

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        ...

    def read(self, start: int, out: ByteArray) -> None:
        """Fill `out` with the bytes from `start` on.

        Args:
            start: First byte; `start + out.size <= nbytes`.
            out: uint8 (n,).

        Raises:
            IntegrityError: They cannot be had as they were.
        """
        ...


class InMemory:
    """Content that is in memory.

    Args:
        data: uint8 (nbytes,).
    """

    def __init__(self, data: ByteArray) -> None:
        self._data = data

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self._data.nbytes

    def read(self, start: int, out: ByteArray) -> None:
        """Fill `out` with the bytes from `start` on."""
        out[:] = self._data[start : start + out.size]


def frame_count(nbytes: int) -> int:
    """Return the number of frames that content of a length has."""
    return -(-nbytes // FRAME_BYTES)


def frame_slices(nbytes: int) -> Iterator[slice]:
    """Yield where each frame of some content lies."""
    for start in range(0, nbytes, FRAME_BYTES):
        yield slice(start, min(start + FRAME_BYTES, nbytes))


def elements_id(spec: TensorSpec, content: Elements) -> ObjectId:
    """Return the id of a tensor that need not be in memory.

    Args:
        spec: Its type and shape.
        content: Its bytes, read once in order.

    Raises:
        StoreError: They are more or fewer than the spec asks for.
        IntegrityError: They cannot be read as they were.
    """
    hasher = TensorHasher(spec)
    buffer = np.empty(min(_PIECE, content.nbytes), np.uint8)
    for start in range(0, content.nbytes, _PIECE):
        piece = buffer[: content.nbytes - start]
        content.read(start, piece)
        hasher.update(piece)
    return hasher.finish()
