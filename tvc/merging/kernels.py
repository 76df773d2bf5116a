"""The loops over elements that merges spend their time in: numbers, sums, selection and draws.

Each is the compiled loop where it is in use (`tvc.merging.loops`), and below it the same in plain
NumPy, which gives the same bytes. Absent on purpose: tensors, methods and what the numbers mean;
torch is not imported. What is done to several members at once is in `tvc.merging.elections`.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from tvc.merging.loops import Floats, compiled
from tvc_store.arrays import ByteArray

__all__ = [
    "BINS",
    "COMPILED",
    "add_scaled",
    "collect",
    "count_high",
    "dot",
    "low_rank",
    "narrow",
    "patterns",
    "row_order",
    "subtract",
    "uniforms",
    "widen",
]

COMPILED: Final = frozenset(["BF16", "F16", "F32"])
"""Stored types that the compiled loops read and write."""
BINS: Final = 1 << 15
"""Counts of `count_high`: the high 16 bits of the pattern of a magnitude, whose sign is 0."""

_KINDS: Final = {"BF16": 0, "F16": 1, "F32": 2}
_PIECE: Final = 1 << 14
_LANES: Final = 16
_MAGNITUDE: Final = 0x7FFFFFFF


def widen(raw: ByteArray, dtype: str, out: npt.NDArray[np.float32]) -> None:
    """Fill `out` with stored numbers, exactly.

    Args:
        raw: uint8 (n * itemsize,).
        dtype: Of `COMPILED`.
        out: float32 (n,).
    """
    if loops := compiled():
        loops.convert(out, raw, _KINDS[dtype], 0)
    elif dtype == "BF16":
        np.left_shift(raw.view("<u2"), 16, out=out.view("<u4"), dtype="<u4", casting="unsafe")
    else:
        out[:] = raw.view("<f2" if dtype == "F16" else "<f4")


def narrow(values: npt.NDArray[np.float32], dtype: str, out: ByteArray) -> None:
    """Round numbers to a stored type: to nearest, ties to even, NaN to the canonical one.

    Args:
        values: float32 (n,).
        dtype: Of `COMPILED`.
        out: uint8 (n * itemsize,).
    """
    if loops := compiled():
        loops.convert(out, values, _KINDS[dtype], 1)
        return
    nan = np.isnan(values)
    if dtype == "BF16":
        bits = values.view("<u4")
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        np.copyto(out.view("<u2"), np.where(nan, np.uint32(0x7FC0), rounded), casting="unsafe")
    elif dtype == "F16":
        with np.errstate(over="ignore"):
            out.view("<f2")[:] = values
        out.view("<u2")[nan] = 0x7E00
    else:
        out.view("<f4")[:] = values
        out.view("<u4")[nan] = 0x7FC00000


def subtract(left: ByteArray, right: ByteArray, dtype: str, out: npt.NDArray[np.float32]) -> None:
    """Fill `out` with the difference of stored numbers, in float32.

    Args:
        left: uint8 (n * itemsize,).
        right: uint8 (n * itemsize,).
        dtype: Of `COMPILED`.
        out: float32 (n,).
    """
    if loops := compiled():
        loops.subtract(out, left, right, _KINDS[dtype])
        return
    other = np.empty_like(out)
    widen(left, dtype, out)
    widen(right, dtype, other)
    with np.errstate(invalid="ignore", over="ignore"):
        out -= other


def add_scaled(total: Floats, part: Floats, factor: float) -> None:
    """Add a multiple of `part` to `total`: multiplied, rounded, added, rounded; 1 only adds.

    Args:
        total: (n,), changed.
        part: (n,), of the same type.
        factor: Rounded to that type.
    """
    if loops := compiled(total):
        loops.add_scaled(total, part, factor)
        return
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        total += part if factor == 1 else part * total.dtype.type(factor)


def low_rank(
    up: npt.NDArray[np.float64], down: npt.NDArray[np.float64], scale: float
) -> npt.NDArray[np.float64]:
    """Return `scale * (up @ down)`, every element summed over the rank in order.

    Args:
        up: float64 (rows, rank), contiguous, rank at least 1.
        down: float64 (rank, columns), contiguous.
        scale: By which each sum is multiplied.

    Returns:
        float64 (rows, columns).
    """
    out = np.zeros((up.shape[0], down.shape[1]))
    if loops := compiled():
        loops.product(out, up, down, up.shape[1], scale)
        return out
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for column, row in zip(up.T, down, strict=True):
            out += column[:, None] * row
        out *= scale
    return out


def dot(left: Floats, right: Floats, total: float = 0.0) -> float:
    """Return a total plus the sum of products of two vectors, in float64, in a fixed order.

    Where a vector is given in parts of a multiple of 16384 elements, each with the total of those
    before, the result is that of the whole.

    Args:
        left: (n,).
        right: (n,), of the same type.
        total: Of what came before.
    """
    if loops := compiled(left):
        return loops.dot(left, right, total)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for start in range(0, left.size, _PIECE):
            part = slice(start, min(start + _PIECE, left.size))
            products = left[part].astype(np.float64) * right[part]
            padded = np.zeros(-(-products.size // _LANES) * _LANES)
            padded[: products.size] = products
            lanes = padded.reshape(-1, _LANES).cumsum(axis=0)[-1]
            total += float(lanes.cumsum()[-1])
    return total


def patterns(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return the bit patterns of magnitudes, which order as the magnitudes do.

    NaN comes after infinity.

    Args:
        values: float32 (n,).
    """
    return values.view(np.uint32) & np.uint32(_MAGNITUDE)


def count_high(table: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> None:
    """Add counts of magnitudes by the high 16 bits of their patterns.

    Args:
        table: int64 (BINS,), added to.
        values: float32 (n,).
    """
    if loops := compiled():
        loops.count_high(table, values)
    else:
        table += np.bincount(patterns(values) >> 16, minlength=BINS)


def collect(
    values: npt.NDArray[np.float32], lower: int, upper: int, room: npt.NDArray[np.uint32]
) -> tuple[int, int]:
    """Collect the patterns of magnitudes within bounds, and count those above.

    Args:
        values: float32 (n,).
        lower: Least pattern that is collected.
        upper: Greatest.
        room: uint32 (m,), filled from the start; left in pieces where it does not suffice.

    Returns:
        How many are within the bounds, and how many above.
    """
    if loops := compiled():
        return loops.collect(room, values, lower, upper)
    found = patterns(values)
    inside = found[(found >= lower) & (found <= upper)]
    if inside.size <= room.size:
        room[: inside.size] = inside
    return inside.size, int(np.count_nonzero(found > upper))


def uniforms(key: int, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Return uniform draws of a stream, by Philox4x32-10 (Salmon et al., 2011, section 4).

    Args:
        key: Of the stream, 64 bits.
        start: First draw.
        stop: After the last.

    Returns:
        float32 (stop - start,), multiples of 2^-24 in [0, 1).
    """
    first = start // 4
    size = 4 * (-(-stop // 4) - first)
    out = np.empty(size, np.float32)
    if loops := compiled():
        loops.uniforms(out, key, first)
    else:
        words = _philox(key, np.arange(first, first + size // 4, dtype=np.uint64))
        np.multiply(
            words.reshape(-1) >> np.uint64(8), np.float32(2**-24), out=out, casting="unsafe"
        )
    return out[start - 4 * first :][: stop - start]


def _philox(key: int, steps: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the four words of each step of the counter, uint64 (n, 4) below 2^32."""
    word, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b = steps & word, steps >> half
    c, d = np.zeros_like(a), np.zeros_like(a)
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        one, two = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b = (two >> half) ^ b ^ np.uint64(low), two & word
        c, d = (one >> half) ^ d ^ np.uint64(high), one & word
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=1)


def row_order(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return, for each row, the places of its elements by rising magnitude.

    Equal magnitudes stay in the order of their places; NaN comes last.

    Args:
        values: float32 (rows, columns), contiguous.

    Returns:
        uint32 (rows, columns).
    """
    loops = compiled()
    if loops and values.size:
        out = np.empty(values.shape, np.uint32)
        loops.row_order(out, values, values.shape[1])
        return out
    keys = np.minimum(patterns(values), np.uint32(0x7F800001))
    return keys.argsort(axis=1, kind="stable").astype(np.uint32)
