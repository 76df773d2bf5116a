"""Memory that is used again and again for frames and tensors.

Large arrays from the system come page by page, zeroed, and that costs about as much as filling
them. What has one size is likely to be needed again in that size, since models repeat their layers.
"""

import threading
from collections import OrderedDict
from typing import Final

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.errors import StoreError

__all__ = ["Scratch", "allocate"]

_SMALL: Final = 1 << 16
"""Bytes below which arrays are not kept."""


def allocate(nbytes: int) -> ByteArray:
    """Return an uninitialised array.

    Raises:
        StoreError: There is not enough memory.
    """
    try:
        return np.empty(nbytes, np.uint8)
    except MemoryError as error:
        raise StoreError(f"not enough memory for {nbytes} bytes of a tensor") from error


class Scratch:
    """Arrays to borrow; safe for several threads.

    Args:
        limit: Bytes of arrays, lent and free, up to which free ones are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lent = 0
        self._held = 0
        self._reserved = 0
        self._free: OrderedDict[int, list[ByteArray]] = OrderedDict()
        self._lock = threading.Lock()

    def reserve(self, nbytes: int) -> bool:
        """Say whether so many bytes may be taken within the limit, and if so keep them apart."""
        with self._lock:
            fits = self._reserved + nbytes <= self._limit
            self._reserved += nbytes if fits else 0
            return fits

    def release(self, nbytes: int) -> None:
        """Take back what was reserved."""
        with self._lock:
            self._reserved -= nbytes

    def take(self, nbytes: int) -> ByteArray:
        """Return an array uint8 (nbytes,) with anything in it; `give` it back when it is done.

        Raises:
            StoreError: There is not enough memory.
        """
        with self._lock:
            self._lent += nbytes
            if self._free.get(nbytes):
                self._held -= nbytes
                self._free.move_to_end(nbytes)
                return self._free[nbytes].pop()
            self._let_go()
        return allocate(nbytes)

    def give(self, array: ByteArray) -> None:
        """Take an array back, which nobody may use any more."""
        with self._lock:
            self._lent -= array.nbytes
            if array.nbytes < _SMALL:
                return
            self._free.setdefault(array.nbytes, []).append(array)
            self._free.move_to_end(array.nbytes)
            self._held += array.nbytes
            self._let_go()

    def _let_go(self) -> None:
        """Free what was not used for longest, where there is too much."""
        while self._free and self._lent + self._held > self._limit:
            size, oldest = next(iter(self._free.items()))
            if oldest:
                oldest.pop()
                self._held -= size
            if not oldest:
                del self._free[size]
