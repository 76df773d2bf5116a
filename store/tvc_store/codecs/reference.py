"""Coding of frames in NumPy: the twin of the compiled module, which gives the same bytes.

Used where nothing could be compiled, and by the tests. It does to all elements of a frame at once
what the C code does to blocks, and names things alike; why they are so is said there and in
store/README.md.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tvc_store.arrays import ByteArray
from tvc_store.codecs.grid import UNCHANGED, Grid
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.codecs.reference_streams import (
    direct,
    pop_low,
    pop_tokens,
    push_low,
    push_tokens,
)
from tvc_store.codecs.reference_tables import (
    ESCAPE,
    SCALE_BITS,
    TOKENS,
    cost_of,
    make_table,
    read_tables,
    write_tables,
)

__all__ = ["column_sizes", "decode", "encode"]

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_SCALE: Final = 1 << SCALE_BITS
_MAX_CONTEXTS: Final = 32
_MAX_LANES_LOG: Final = 8
_FINE: Final = 64
_GRAINS: Final = 4
_CHUNK: Final = 512
_PROBE: Final = 16
_COARSE: Final = 1 << 18
_TERMS: Final = range(-4400, 201)
_BITS_PER_LANE: Final = 8192
_HEAD: Final = struct.Struct("<BBh")
_SHARES: Final = np.array(
    [32768, 23170, 16384, 11585, 8192, 5793, 4096, 2896, 2048, 1448, 1024, 724, 512, 362, 256, 181],
    np.uint64,
)


@dataclass(frozen=True, slots=True)
class _Contexts:
    """How contexts are numbered: (terms - lowest) >> grain, clamped to 0 … count - 1."""

    lowest: int
    grain: int
    count: int

    def of(self, terms: Ints) -> Ints:
        return np.clip((terms - self.lowest) >> self.grain, 0, self.count - 1)


def encode(grid: Grid, frame: ByteArray, base: ByteArray, *, first: int) -> bytes | None:
    """Return a coded frame, or None where that would not be shorter; see `native.encode`."""
    count = frame.size // grid.itemsize
    folded = _fold(grid, frame, base)
    exponents = _exponents(grid, base)
    classes = _row_classes(grid, folded, exponents, first)
    terms = _terms(grid, exponents, classes, first)
    tokens = _tokens(grid, folded)
    stride = _stride(count)
    contexts, counts, bits = _choose(grid, terms, tokens, classes, first, stride)
    precision = 2 if count > _COARSE else 1
    tables = [make_table(each, stride=stride, precision=precision) for each in counts]
    lanes_log = 0
    while lanes_log < _MAX_LANES_LOG and bits >> lanes_log >= 2 * _BITS_PER_LANE:
        lanes_log += 1

    numbers = contexts.of(terms)
    sizes = np.array([table.levels.size for table in tables])
    tokens = np.where(tokens < sizes[numbers], tokens, ESCAPE)
    frequencies = np.stack([table.frequencies() for table in tables])
    states, words = push_tokens(frequencies, numbers, tokens, 1 << lanes_log)
    low_bits, low = push_low(grid, folded, tokens)
    head = _HEAD.pack(
        precision << 6 | lanes_log, contexts.grain << 6 | (contexts.count - 1), contexts.lowest
    )
    parts = [head, _pack(classes), write_tables(tables), struct.pack("<I", low_bits)]
    # What the compiled coder, which gives up as soon as it can, has by the end of its last block.
    if words.nbytes + low_bits // 8 >= frame.size:
        return None
    return b"".join([*parts, states.tobytes(), low, words.tobytes()])


def decode(grid: Grid, stored: ByteArray, out: ByteArray, base: ByteArray, *, first: int) -> bool:
    """Fill `out` from a coded frame, and say whether it was one; see `native.decode`."""
    try:
        _decode(grid, stored.tobytes(), out, base, first)
    except MalformedFrame:
        return False
    return True


def column_sizes(grid: Grid, rows: ByteArray, base: ByteArray) -> Words:
    """Return how large the changes in each column are; see `native.column_sizes`."""
    sizes = _sizes(_fold(grid, rows, base), _exponents(grid, base)).reshape(-1, grid.columns)
    means = sizes.sum(axis=1, keepdims=True) // np.uint64(grid.columns)
    shares = np.uint64(1 << 32) // (means + np.uint64(1))
    return (sizes * shares >> np.uint64(16)).sum(axis=0)


def _decode(grid: Grid, stored: bytes, out: ByteArray, base: ByteArray, first: int) -> None:
    count = out.size // grid.itemsize
    rows = _rows(grid, count, first)
    if len(stored) < _HEAD.size + (rows + 1) // 2:
        raise MalformedFrame("the head is cut short")
    mixed, numbering, lowest = _HEAD.unpack_from(stored)
    contexts = _Contexts(lowest, numbering >> 6, (numbering & 63) + 1)
    precision, lanes_log = mixed >> 6, mixed & 63
    if (
        precision not in {1, 2}
        or lanes_log > _MAX_LANES_LOG
        or contexts.count > _MAX_CONTEXTS
        or lowest not in _TERMS
    ):
        raise MalformedFrame("the head is none")
    at = _HEAD.size
    classes = _unpack(stored[at : at + (rows + 1) // 2], rows)
    at += (rows + 1) // 2
    tables, taken = read_tables(stored[at:], count=contexts.count, precision=precision)
    at += taken
    lanes = 1 << lanes_log
    if len(stored) - at < 4 + 4 * lanes:
        raise MalformedFrame("the states are cut short")
    low_bits = int.from_bytes(stored[at : at + 4], "little")
    states = np.frombuffer(stored, "<u4", lanes, at + 4).astype(np.uint64)
    at += 4 + 4 * lanes
    low_size = (low_bits + 7) // 8
    if len(stored) - at < low_size or (len(stored) - at - low_size) % 2:
        raise MalformedFrame("the low bits are cut short")
    words = np.frombuffer(stored, "<u2", -1, at + low_size)
    numbers = contexts.of(_terms(grid, _exponents(grid, base), classes, first))
    frequencies = np.stack([table.frequencies() for table in tables])
    tokens = pop_tokens(frequencies, numbers, states, words)
    folded = pop_low(grid, tokens, stored[at : at + low_size], low_bits)
    kind = np.dtype(f"<u{grid.itemsize}")
    distances = folded >> np.uint64(1) ^ (np.uint64(0) - (folded & np.uint64(1)))
    out.view(kind)[:] = base.view(kind) + distances.astype(kind)


def _fold(grid: Grid, frame: ByteArray, base: ByteArray) -> Words:
    """Return distances with their sign in the lowest bit: 0, -1, 1, -2 become 0, 1, 2, 3."""
    kind = np.dtype(f"<u{grid.itemsize}")
    signed = (frame.view(kind) - base.view(kind)).view(f"<i{grid.itemsize}")
    return ((signed << 1) ^ (signed >> (8 * grid.itemsize - 1))).view(kind).astype(np.uint64)


def _exponents(grid: Grid, base: ByteArray) -> Ints:
    words = base.view(f"<u{grid.itemsize}").astype(np.uint64)
    return (words >> np.uint64(grid.exponent_shift) & np.uint64(grid.exponent_mask)).astype(
        np.int64
    )


def _rows(grid: Grid, count: int, first: int) -> int:
    if not grid.with_rows:
        return 0
    return (first + count - 1) // grid.columns - first // grid.columns + 1


def _column_terms(grid: Grid, count: int, first: int) -> Ints:
    """Return each element's term of its column."""
    terms = np.frombuffer(grid.column_terms, np.int8).astype(np.int64)
    if not terms.size:
        return np.zeros(count, np.int64)
    return terms[np.arange(first, first + count) % grid.columns]


def _row_terms(grid: Grid, classes: Ints, count: int, first: int) -> Ints:
    """Return each element's term of its row."""
    if not grid.with_rows:
        return np.zeros(count, np.int64)
    rows = np.arange(first, first + count) // grid.columns - first // grid.columns
    return np.where(classes > 0, classes, UNCHANGED)[rows]


def _terms(grid: Grid, exponents: Ints, classes: Ints, first: int) -> Ints:
    count = exponents.size
    rows, columns = _row_terms(grid, classes, count, first), _column_terms(grid, count, first)
    return rows + columns - 2 * exponents


def _bit_length(values: Words) -> Ints:
    """Return the position of the highest bit, from 1; 0 of 0."""
    length = np.zeros(values.shape, np.int64)
    rest = values.copy()
    for width in (32, 16, 8, 4, 2, 1):
        is_long = rest >> np.uint64(width) > 0
        length += np.where(is_long, width, 0)
        rest = np.where(is_long, rest >> np.uint64(width), rest)
    return length + (rest > 0)


def _tokens(grid: Grid, folded: Words) -> Ints:
    least = direct(grid)
    length = _bit_length(folded)
    top = (folded >> np.maximum(length - 3, 0).astype(np.uint64) & np.uint64(3)).astype(np.int64)
    buckets = least + 4 * (length - least.bit_length()) + top
    return np.where(folded < least, folded.astype(np.int64), np.minimum(buckets, ESCAPE))


def _row_classes(grid: Grid, folded: Words, exponents: Ints, first: int) -> Ints:
    """Return the class of each row of the frame: half octaves of the mean size of its changes."""
    count = folded.size
    rows = _rows(grid, count, first)
    if not rows:
        return np.zeros(0, np.int64)
    starts = np.maximum(np.arange(rows) * grid.columns - first % grid.columns, 0)
    lengths = np.diff(np.append(starts, count))
    steps = np.where(lengths >= 2048, 4, np.where(lengths >= 1024, 2, 1))
    within = np.arange(count) - np.repeat(starts, lengths)
    columns = _column_terms(grid, count, first)
    is_sampled = (within % np.repeat(64 * steps, lengths) < 64) & (columns != UNCHANGED)
    scaled = _sizes(folded, exponents) * _SHARES[np.maximum(columns, 0)]
    scaled >>= np.uint64(15)
    sums = np.add.reduceat(np.where(is_sampled, scaled, np.uint64(0)), starts)
    counts = np.add.reduceat(is_sampled.astype(np.uint64), starts)
    means = (sums << np.uint64(16)) // np.maximum(counts, np.uint64(1)) + np.uint64(1)
    bits = _bit_length(means) - 1
    mantissas = means << (63 - bits).astype(np.uint64) >> np.uint64(32)
    levels = 2 * bits + (mantissas >= 0xB504F334) + 1
    is_changed = np.logical_or.reduceat(folded > 0, starts)
    changed = int(is_changed.sum())
    middle = (int(levels[is_changed].sum()) + changed // 2) // changed if changed else 0
    return np.where(is_changed, np.clip(levels - middle + 8, 1, 15), 0)


def _sizes(folded: Words, exponents: Ints) -> Words:
    """Return distances times the unit of their base's last place; wild ones are cut."""
    sizes = np.minimum((folded >> np.uint64(1)) + (folded & np.uint64(1)), np.uint64(4095))
    below = np.clip(_highest(exponents) - exponents, 0, 30).astype(np.uint64)
    return sizes << np.uint64(14) >> below


def _probed(count: int) -> Ints:
    stride = _stride(count)
    places = np.arange(count)
    return places[places % (_CHUNK * stride) < _PROBE * min(stride, 4)]


def _stride(count: int) -> int:
    """Return how many chunks there are for each that is counted."""
    return 1 if count <= 1 << 19 else 4 if count <= 1 << 20 else 8


def _highest(exponents: Ints) -> int:
    return int(exponents[_probed(exponents.size)].max())


def _lowest(grid: Grid, terms: Ints, classes: Ints, first: int) -> int:
    """Return the term below which one element in 2048 lies, unchanged rows and columns apart."""
    count = terms.size
    rows, columns = _row_terms(grid, classes, count, first), _column_terms(grid, count, first)
    probed = _probed(count)
    is_counted = (rows[probed] != UNCHANGED) & (columns[probed] != UNCHANGED)
    ranked = np.sort(terms[probed][is_counted])
    # The first term with which more than a 2048th has been seen.
    return int(ranked[ranked.size // 2048]) if ranked.size else 0


def _choose(
    grid: Grid, terms: Ints, tokens: Ints, classes: Ints, first: int, stride: int
) -> tuple[_Contexts, Ints, int]:
    """Return the contexts that cost least, the counts of tokens in each, and the cost in bits."""
    finest = 0 if grid.columns else 1
    fine = _Contexts(_lowest(grid, terms, classes, first), finest, _FINE)
    places = np.arange(terms.size)
    sampled = places[places % (_CHUNK * stride) < _CHUNK]
    flat = fine.of(terms[sampled]) * TOKENS + tokens[sampled]
    counts = np.bincount(flat, minlength=_FINE * TOKENS).reshape(_FINE, TOKENS)
    choices = [_merge(counts, grain - finest) for grain in range(finest, _GRAINS)]
    costs = [sum(_context_cost(row, stride) for row in choice) for choice in choices]
    best = costs.index(min(costs))
    merged = choices[best]
    contexts = replace(fine, grain=best + finest, count=len(merged))
    contexts, merged = _trim(contexts, merged, stride)
    return contexts, merged, costs[best] // _SCALE


def _merge(counts: Ints, by: int) -> Ints:
    places = np.minimum(np.arange(_FINE) >> by, _MAX_CONTEXTS - 1)
    merged = np.zeros((_MAX_CONTEXTS, TOKENS), np.int64)
    np.add.at(merged, places, counts)
    present = np.flatnonzero(merged.any(axis=1))
    return merged[: int(present[-1]) + 1]


def _context_cost(counts: Ints, stride: int) -> int:
    present = np.flatnonzero(counts)
    size = int(present[-1]) + 1 if present.size else 0
    return stride * cost_of(counts) + (20 + 4 * size) * _SCALE


def _trim(contexts: _Contexts, counts: Ints, stride: int) -> tuple[_Contexts, Ints]:
    """Put the outermost contexts together with their neighbours while that is cheaper."""

    def is_cheaper(one: Ints, other: Ints) -> bool:
        apart = _context_cost(one, stride) + _context_cost(other, stride)
        return _context_cost(one + other, stride) <= apart

    while len(counts) > 1 and is_cheaper(counts[-1], counts[-2]):
        counts = np.vstack([counts[:-2], counts[-2] + counts[-1]])
    lowest = contexts.lowest
    while len(counts) > 1 and is_cheaper(counts[0], counts[1]):
        counts = np.vstack([counts[0] + counts[1], counts[2:]])
        lowest += 1 << contexts.grain
    return replace(contexts, lowest=lowest, count=len(counts)), counts


def _pack(classes: Ints) -> bytes:
    """Return two classes a byte, the first in the low bits."""
    even = np.append(classes, np.zeros(classes.size % 2, np.int64))
    return (even[::2] | even[1::2] << 4).astype(np.uint8).tobytes()


def _unpack(packed: bytes, count: int) -> Ints:
    pairs = np.frombuffer(packed, np.uint8).astype(np.int64)
    return np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:count]
