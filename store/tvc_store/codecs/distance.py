"""The codec for a tensor that was trained from another: lossless difference of the bit patterns.

The distance is a plain subtraction with wrap-around of the patterns taken as unsigned integers. The
alternative, first mapping sign and magnitude to an order-preserving integer, differs only where a
value changed its sign, has the same entropy on real fine-tunes within 0.01 bit, and costs two more
passes. Either is a bijection for every pattern, NaN payloads and -0.0 included. XOR, which others
use, turns a step across a power of two into many set bits and is larger (see README.md).

Zigzag then makes small negative distances small, so that all but the lowest planes are nearly zero.
"""

from typing import ClassVar

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.byteplanes import Words, blocks, join, pack, split, unpack, word_type
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["Distance"]


class Distance:
    """Codes the zigzagged distance of every element from the base's, by byte planes."""

    uses_base: ClassVar[bool] = True

    def survey(self, spec: TensorSpec | None, content: Elements, base: Elements | None) -> bytes:
        """Return nothing: there are no parameters."""
        del spec, content, base
        return b""

    def coder(self, spec: TensorSpec | None, shared: bytes) -> "_Coder":
        """Return the coder of an object.

        Raises:
            MalformedFrame: It is a blob, or there are parameters.
        """
        if spec is None or shared:
            raise MalformedFrame("a blob or parameters, where a difference has neither")
        return _Coder(word_type(spec.itemsize))


class _Coder:
    def __init__(self, kind: np.dtype[np.unsignedinteger]) -> None:
        self._kind = kind

    def encode(self, frame: ByteArray, *, at: int, base: ByteArray | None) -> Buffer:
        """Return the packed planes of the distances."""
        del at
        words, origin = frame.view(self._kind), _words(base, self._kind)
        planes = np.empty((self._kind.itemsize, words.size), np.uint8)
        for part in blocks(words.size):
            split(_zigzag(words[part] - origin[part]), planes, part)
        return pack(planes)

    def decode(self, stored: ByteArray, out: ByteArray, *, at: int, base: ByteArray | None) -> None:
        """Fill `out` with the base plus the distances.

        Raises:
            MalformedFrame: The stored bytes are not planes of this length.
        """
        del at
        words, origin = out.view(self._kind), _words(base, self._kind)
        planes = unpack(stored, count=self._kind.itemsize, length=words.size)
        for part in blocks(words.size):
            target = words[part]
            join(planes, target, part)
            _unzigzag(target)
            target += origin[part]


def _words(base: ByteArray | None, kind: np.dtype[np.unsignedinteger]) -> Words:
    if base is None:
        raise MalformedFrame("a difference has no base")
    return base.view(kind)


def _zigzag(distance: Words) -> Words:
    """Map 0, -1, 1, -2, … to 0, 1, 2, 3, …; `distance` is used up."""
    signed = distance.view(f"<i{distance.itemsize}")
    sign = signed >> (8 * distance.itemsize - 1)
    signed <<= 1
    signed ^= sign
    return distance


def _unzigzag(words: Words) -> None:
    """Undo `_zigzag` in place."""
    sign = words & 1
    np.negative(sign, out=sign)  # all ones where the distance is negative
    words >>= 1
    words ^= sign
