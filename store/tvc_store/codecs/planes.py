"""The codec for tensors without a base, and for blobs: planes of bytes.

The bits of a float are turned by one first, so that its sign lies below its mantissa and its
exponent fills whole bytes: signs and mantissas are noise, and would only disturb it.
"""

from typing import ClassVar, Final

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.byteplanes import (
    Words,
    blocks,
    join,
    pack,
    pack_text,
    split,
    unpack,
    word_type,
)
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["Planes"]

_FLOATS: Final = frozenset({"BF16", "C64", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"})


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
        if spec is None:
            return _Coder(1, turned=False, text=True)
        itemsize = 4 if spec.dtype == "C64" else spec.itemsize
        return _Coder(itemsize, turned=spec.dtype in _FLOATS, text=False)


class _Coder:
    def __init__(self, itemsize: int, *, turned: bool, text: bool) -> None:
        self._itemsize = itemsize
        self._turned = turned
        self._text = text

    def encode(self, frame: ByteArray, *, at: int, base: ByteArray | None) -> Buffer:
        """Return the packed planes of the frame."""
        del at, base
        if self._text:
            return pack_text(frame)
        words = frame.view(word_type(self._itemsize))
        planes = np.empty((words.itemsize, words.size), np.uint8)
        for part in blocks(words.size):
            scratch = words[part].copy()
            if self._turned:
                _turn_left(scratch)
            split(scratch, planes, part)
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
            if self._turned:
                _turn_right(words[part])


def _turn_left(words: Words) -> None:
    """Turn words by one bit, in place."""
    sign = words >> (8 * words.itemsize - 1)
    words <<= 1
    words |= sign


def _turn_right(words: Words) -> None:
    """Undo `_turn_left`."""
    sign = words << (8 * words.itemsize - 1)
    words >>= 1
    words |= sign
