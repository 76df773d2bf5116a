"""Compares a tensor with the parent's, piece by piece, while it is being stored.

Neither is ever held whole. Absent on purpose: where either comes from.
"""

from collections.abc import Callable, Generator
from typing import Final

import numpy as np

from tvc.domain.snapshot import TensorRef
from tvc.evaluation.bits import differing_elements
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId, TensorHasher

__all__ = ["Comparison"]

_NOTHING: Final = np.empty(0, np.uint8)


class Comparison:
    """Counts the elements of a tensor whose bits are not the parent's.

    Args:
        spec: The tensor's type and shape.
        parent: The parent's.
        known: What the parent's tensor is, where that is known without computing it.
        blocks: Gives the parent's bytes in order, verified at the end, anew at every call.
        base: The tensor that this one is stored as a difference from, where it is.
    """

    def __init__(
        self,
        spec: TensorSpec,
        parent: TensorSpec,
        known: TensorRef | None,
        blocks: Callable[[], Generator[ByteArray]],
        *,
        base: ObjectId | None = None,
    ) -> None:
        self.changed = 0
        self._spec = spec
        self._parent = parent
        self._known = known
        self._blocks = blocks
        self._base = base
        self._verified = False
        self._running = blocks()
        self._hasher = None if known else TensorHasher(parent)
        self._block = _NOTHING

    def close(self) -> None:
        """End what gives the parent's bytes."""
        self._running.close()

    def see(self, at: int, frame: ByteArray, base: ByteArray | None = None) -> None:
        """Take the next bytes of the tensor.

        Args:
            at: The first of them, which is the last call's end.
            frame: uint8 (n,), of whole elements.
            base: The same bytes of the base, verified by who calls; given with all frames or none.

        Raises:
            IntegrityError: The parent's cannot be had as they were.
        """
        del at
        if base is not None and self._known and self._known.id == self._base:
            # The parent is the base, which who stores the difference has read: once is enough.
            self._verified = True
            self.changed += differing_elements(frame, base, self._spec.itemsize)
            return
        while frame.size and self._spec.dtype == self._parent.dtype:
            block = self._next()
            size = min(frame.size, block.size)
            if not size:
                break  # the parent has fewer rows
            self.changed += differing_elements(frame[:size], block[:size], self._spec.itemsize)
            frame, self._block = frame[size:], block[size:]
        self.changed += frame.size // self._spec.itemsize

    def finish(self) -> TensorRef:
        """Read what is left of the parent's tensor, which verifies it, and say what it is.

        Raises:
            IntegrityError: It is not what it was.
        """
        self._block = _NOTHING
        while not self._verified and self._next().size:
            self._block = _NOTHING
        if self._known:
            return self._known
        assert self._hasher
        return TensorRef(self._hasher.finish(), self._parent)

    def check_parent(self) -> None:
        """Read the parent's tensor whole.

        Raises:
            IntegrityError: It is not what it was.
        """
        for _ in self._blocks():
            pass

    def _next(self) -> ByteArray:
        """Return what is left of the parent's block, or the next one; an empty one at the end."""
        if not self._block.size:
            self._block = next(self._running, _NOTHING)
            if self._hasher:
                self._hasher.update(self._block)
        return self._block
