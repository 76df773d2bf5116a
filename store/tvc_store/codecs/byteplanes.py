"""The stream of what has no base: the bytes of the elements by significance, each plane for itself.

Exponents and small numbers live in a few planes that shrink well, mantissa noise in others that do
not; apart, the former are coded by their frequencies and the latter are copied. Text, whose bytes
repeat, is left to zstd.

Per plane, least significant first: a byte (0 raw, 1 zstd, 2 rANS), a u32 length, that many bytes.
The last kind is a byte, the most frequent one, and then a frame of distances from it.

Absent on purpose: any arithmetic on elements.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

from tvc_store.arrays import ByteArray
from tvc_store.codecs.grid import Grid
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.codecs.native import decode, encode

__all__ = ["BLOCK", "Words", "blocks", "join", "pack", "pack_text", "split", "unpack", "word_type"]

Words = npt.NDArray[np.unsignedinteger]
"""Elements as little-endian unsigned integers of their width."""

BLOCK: Final = 1 << 17
"""Elements transformed at a time: 256 KiB of bf16, with its temporaries within the second cache."""

_RAW: Final = 0
_ZSTD: Final = 1
_RANS: Final = 2
_PLANE: Final = struct.Struct("<BI")
_BYTES: Final = Grid(1, 0, 0, 0, b"", with_rows=False)
_PROBES: Final = 16
_PROBE: Final = 1 << 12  # bytes of each probe
_NOISE: Final = 7.9  # bits a byte from which a plane is not worth coding
_TEXT: Final = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=True)


def word_type(itemsize: int) -> np.dtype[np.unsignedinteger]:
    """Return the unsigned integer type of a width in bytes: 1, 2, 4 or 8."""
    return np.dtype(f"<u{itemsize}")


def blocks(count: int) -> Iterator[slice]:
    """Yield slices of at most BLOCK that cover `count` elements."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def split(words: Words, planes: npt.NDArray[np.uint8], part: slice) -> None:
    """Write the bytes of some words to their planes; `words` is used up.

    Args:
        words: uint{8k} (m,), scratch.
        planes: uint8 (k, n), least significant first.
        part: The m places of n that are written.
    """
    last = len(planes) - 1
    for index, plane in enumerate(planes):
        np.copyto(plane[part], words, casting="unsafe")  # keeps the low byte
        if index < last:
            words >>= 8


def join(planes: Sequence[ByteArray], words: Words, part: slice) -> None:
    """Fill `words` from some places of the planes: the inverse of `split`.

    Args:
        planes: k arrays uint8 (n,), least significant first.
        words: uint{8k} (m,), filled.
        part: The m places of n that are read.
    """
    words[:] = planes[-1][part]
    for plane in reversed(planes[:-1]):
        words <<= 8
        words |= plane[part]


def pack(planes: npt.NDArray[np.uint8]) -> bytes:
    """Return planes of numbers coded, each raw where it does not shrink.

    Args:
        planes: uint8 (k, n), n > 0.
    """
    return b"".join(part for plane in planes for part in _coded(plane))


def pack_text(text: ByteArray) -> bytes:
    """Return one plane coded for repetitions, raw where it does not shrink.

    Args:
        text: uint8 (n,).
    """
    coded = zstandard.ZstdCompressor(compression_params=_TEXT).compress(text.data)
    mode, stored = (_ZSTD, coded) if len(coded) < text.size else (_RAW, text.tobytes())
    return _PLANE.pack(mode, len(stored)) + stored


def _coded(plane: ByteArray) -> tuple[bytes | memoryview, ...]:
    counts = np.bincount(_probe(plane), minlength=256)
    if _entropy(counts) < _NOISE:
        usual = np.uint8(np.argmax(counts))
        frame = encode(_BYTES, plane, np.full_like(plane, usual), first=0)
        if frame is not None and len(frame) + 1 < plane.size:
            return _PLANE.pack(_RANS, len(frame) + 1), bytes([usual]), frame
    return _PLANE.pack(_RAW, plane.size), plane.data


def _probe(plane: ByteArray) -> ByteArray:
    """Return a sample from all over, or the whole where it is small."""
    if plane.size < 4 * _PROBES * _PROBE:
        return plane
    rows = plane[: plane.size // _PROBES * _PROBES].reshape(_PROBES, -1)
    return np.ascontiguousarray(rows[:, -_PROBE:]).reshape(-1)


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """Return the bits a byte that counted bytes say."""
    present = counts[counts > 0].astype(np.float64)
    total = present.sum()
    return float(np.log2(total) - (present * np.log2(present)).sum() / total)


def unpack(stored: ByteArray, *, count: int, length: int) -> list[ByteArray]:
    """Return the planes of a stream, trusting nothing in it.

    Args:
        stored: The stream, possibly hostile.
        count: Number of planes, k.
        length: Bytes of each, n.

    Returns:
        k arrays uint8 (n,), read-only.

    Raises:
        MalformedFrame: The stream is not k planes of n bytes and nothing else.
    """
    planes: list[ByteArray] = []
    position = 0
    for _ in range(count):
        if stored.size - position < _PLANE.size:
            raise MalformedFrame("a plane is cut short")
        mode, size = _PLANE.unpack_from(stored.data, position)
        position += _PLANE.size
        if stored.size - position < size:
            raise MalformedFrame("a plane is cut short")
        planes.append(_plane(stored[position : position + size], mode, length))
        position += size
    if position != stored.size:
        raise MalformedFrame("bytes follow the last plane")
    return planes


def _plane(stored: ByteArray, mode: int, length: int) -> ByteArray:
    if mode == _RAW:
        if stored.size != length:
            raise MalformedFrame(f"a raw plane has {stored.size} bytes in place of {length}")
        return stored
    if mode == _RANS:
        plane = np.empty(length, np.uint8)
        usual = np.full(length, stored[0] if stored.size else 0, np.uint8)
        if not length or not decode(_BYTES, stored[1:], plane, usual, first=0):
            raise MalformedFrame("a plane's frame is none")
        return plane
    if mode != _ZSTD:
        raise MalformedFrame(f"a plane is stored in an unknown way ({mode})")
    return _text(stored, length)


def _text(stored: ByteArray, length: int) -> ByteArray:
    try:
        # zstd allocates what the stream announces: look before decompressing.
        announced = zstandard.frame_content_size(stored.data)
        if announced != length:
            raise MalformedFrame(f"a plane announces {announced} bytes in place of {length}")
        plain = zstandard.ZstdDecompressor().decompress(stored.data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedFrame(f"a plane cannot be decompressed: {error}") from error
    if len(plain) != length:
        raise MalformedFrame(f"a plane has {len(plain)} bytes in place of {length}")
    return np.frombuffer(plain, np.uint8)
