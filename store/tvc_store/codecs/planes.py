"""The codec for tensors without a base, and for blobs: byte planes, zstd each."""

from typing import ClassVar

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.byteplanes import blocks, join, pack, split, unpack, word_type
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["Planes"]


class Planes:
    """Codes the elements' bytes by significance."""

    uses_base: ClassVar[bool] = False

    def survey(self, spec: TensorSpec | None, content: Elements, base: Elements | None) -> bytes:
        """Return nothing: there are no parameters."""
        del spec, content, base
        return b""

    def coder(self, spec: TensorSpec | None, shared: bytes) -> "_Coder":
        """Return the coder of an object.

        Raises:
            MalformedFrame: There are parameters.
        """
        if shared:
            raise MalformedFrame("parameters, where planes have none")
        return _Coder(spec.itemsize if spec else 1, text=spec is None)


class _Coder:
    def __init__(self, itemsize: int, *, text: bool) -> None:
        self._itemsize = itemsize
        self._text = text

    def encode(self, frame: ByteArray, *, at: int, base: ByteArray | None) -> Buffer:
        """Return the packed planes of the frame."""
        del at, base
        if self._itemsize == 1:
            return pack(frame.reshape(1, -1), text=self._text)
        words = frame.view(word_type(self._itemsize))
        planes = np.empty((words.itemsize, words.size), np.uint8)
        for part in blocks(words.size):
            split(words[part].copy(), planes, part)
        return pack(planes)

    def decode(self, stored: ByteArray, out: ByteArray, *, at: int, base: ByteArray | None) -> None:
        """Fill `out` from packed planes.

        Raises:
            MalformedFrame: They are not planes of this length.
        """
        del at, base
        words = out.view(word_type(self._itemsize))
        planes = unpack(stored, count=self._itemsize, length=words.size)
        for part in blocks(words.size):
            join(planes, words[part], part)
