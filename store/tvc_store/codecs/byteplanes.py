"""The stream that the built-in codecs share: the bytes of the elements by significance, zstd each.

Exponents and small differences live in a few planes that shrink well, mantissa noise in others that
do not; apart, the former are coded at the speed of Huffman and the latter are copied.

Per plane, least significant first: a byte (0 raw, 1 zstd), a u32 length, that many bytes.
Absent on purpose: any arithmetic on elements.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

from tvc_store.arrays import ByteArray
from tvc_store.codecs.interface import MalformedFrame

__all__ = ["BLOCK", "Words", "blocks", "join", "pack", "split", "unpack", "word_type"]

Words = npt.NDArray[np.unsignedinteger]
"""Elements as little-endian unsigned integers of their width."""

BLOCK: Final = 1 << 17
"""Elements transformed at a time: 256 KiB of bf16, with its temporaries within the second cache."""

_RAW: Final = 0
_ZSTD: Final = 1
_PLANE: Final = struct.Struct("<BI")
_PROBES: Final = 8
_PROBE: Final = 1 << 13  # bytes of each probe

# Huffman and little else: matches do not occur in weights, and looking for them costs most of the
# time. zstd-3 comes out larger than this on planes of differences.
_HUFFMAN: Final = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    window_log=17,
    hash_log=6,
    chain_log=6,
    search_log=1,
    min_match=7,
    target_length=0,
    write_content_size=True,
)
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


def pack(planes: npt.NDArray[np.uint8], *, text: bool = False) -> bytes:
    """Return the planes compressed, each raw where it does not shrink.

    Args:
        planes: uint8 (k, n).
        text: The bytes are a file's and not numbers: look for repetitions.
    """
    compressor = zstandard.ZstdCompressor(compression_params=_TEXT if text else _HUFFMAN)
    parts: list[bytes | memoryview] = []
    for plane in planes:
        mode, stored = _RAW, plane.data
        if not _is_noise(plane, compressor):
            coded = compressor.compress(plane.data)
            if len(coded) < plane.size:
                mode, stored = _ZSTD, coded
        parts += [_PLANE.pack(mode, len(stored)), stored]
    return b"".join(parts)


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


def _is_noise(plane: ByteArray, compressor: zstandard.ZstdCompressor) -> bool:
    """Say whether a sample from all over does not shrink: then the whole is not tried."""
    if plane.size < 4 * _PROBES * _PROBE:
        return False
    rows = plane[: plane.size // _PROBES * _PROBES].reshape(_PROBES, -1)
    sample = np.ascontiguousarray(rows[:, -_PROBE:])
    return len(compressor.compress(sample.data)) >= sample.size


def _plane(stored: ByteArray, mode: int, length: int) -> ByteArray:
    if mode == _RAW:
        if stored.size != length:
            raise MalformedFrame(f"a raw plane has {stored.size} bytes in place of {length}")
        return stored
    if mode != _ZSTD:
        raise MalformedFrame(f"a plane is stored in an unknown way ({mode})")
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
