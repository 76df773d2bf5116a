"""The codec for tensors without a base, and for blobs: byte planes, zstd each."""

from typing import ClassVar

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.byteplanes import blocks, join, pack, split, unpack, word_type
from tvc_store.dtypes import ITEMSIZE

__all__ = ["Planes"]


class Planes:
    """Codes the elements' bytes by significance."""

    uses_base: ClassVar[bool] = False

    def encode(self, frame: ByteArray, *, dtype: str | None, base: ByteArray | None) -> Buffer:
        """Return the packed planes of the frame."""
        del base
        if dtype is None or ITEMSIZE[dtype] == 1:
            return pack(frame.reshape(1, -1), text=dtype is None)
        words = frame.view(word_type(ITEMSIZE[dtype]))
        planes = np.empty((words.itemsize, words.size), np.uint8)
        for part in blocks(words.size):
            split(words[part].copy(), planes, part)
        return pack(planes)

    def decode(
        self, stored: ByteArray, out: ByteArray, *, dtype: str | None, base: ByteArray | None
    ) -> None:
        """Fill `out` from packed planes.

        Raises:
            MalformedFrame: They are not planes of this length.
        """
        del base
        itemsize = 1 if dtype is None else ITEMSIZE[dtype]
        words = out.view(word_type(itemsize))
        planes = unpack(stored, count=itemsize, length=words.size)
        for part in blocks(words.size):
            join(planes, words[part], part)
