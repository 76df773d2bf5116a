"""Frequency tables of the coder in NumPy: from counts, to bits, from bits; the twin of `tables.c`.

A table holds tokens 0 to size - 1 and the escape. What is kept of a count is its logarithm, in
steps that are as coarse as the number of elements allows; frequencies are made from that, by the
encoder as by the decoder. Integers only, so that every machine makes the same table.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tvc_store.codecs.interface import MalformedFrame

__all__ = [
    "ESCAPE",
    "SCALE_BITS",
    "TOKENS",
    "Table",
    "cost_of",
    "make_table",
    "read_tables",
    "write_tables",
]

Counts = npt.NDArray[np.int64]

SCALE_BITS: Final = 12
TOKENS: Final = 256
ESCAPE: Final = 255

_SCALE: Final = 1 << SCALE_BITS
_LIMIT: Final = 12
_ESCAPED_BITS: Final = 24
_ENTRY_BITS: Final = 4
_OCTAVES: Final = 13
_LEVEL_BITS: Final = 6
_USUAL: Final = 32
_LOGARITHMS: Final = np.floor(_SCALE * np.log2(1 + (np.arange(256) + 0.5) / 256)).astype(np.int64)
_QUARTERS: Final = np.array([256, 304, 362, 431])


@dataclass(frozen=True, slots=True)
class Table:
    """The table of one context.

    Args:
        levels: int64 (size,): logarithms of the tokens' weights.
        escape: The same of the escape's.
        precision: Steps of an octave, as a power of two.
    """

    levels: Counts
    escape: int
    precision: int

    def frequencies(self) -> Counts:
        """Return int64 (TOKENS,), summing to 4096: at least 1 for each token and the escape."""
        fine = np.append(self.levels, self.escape) << (2 - self.precision)
        shared = _share(_QUARTERS[fine & 3] << (fine >> 2))
        frequencies = np.zeros(TOKENS, np.int64)
        frequencies[: self.levels.size] = shared[:-1]
        frequencies[ESCAPE] = shared[-1]
        return frequencies


def cost_of(counts: Counts) -> int:
    """Return what coding the counted tokens costs, in units of 1/4096 bit."""
    present = counts[counts > 0]
    total = int(present.sum())
    if not total:
        return 0
    return total * int(_logarithm(np.array(total))) - int((present * _logarithm(present)).sum())


def make_table(counts: Counts, *, stride: int, precision: int) -> Table:
    """Return the table for counts of one element in `stride`.

    Args:
        counts: int64 (TOKENS,).
        stride: As said.
        precision: 1 or 2.
    """
    total = int(counts.sum())
    size = _alphabet(counts, total, stride) if total else 1
    escaped = total - int(counts[:size].sum())
    levels = _levels(np.append(counts[:size], escaped), total, precision)
    return Table(levels[:-1], int(levels[-1]), precision)


def _logarithm(values: Counts) -> Counts:
    """Return log2 in units of 1/4096 of positive numbers below 2^32."""
    bits = np.frexp(values.astype(np.float64))[1] - 1
    mantissa = (values << (31 - bits)) >> 23 & 255
    return (bits.astype(np.int64) << SCALE_BITS) + _LOGARITHMS[mantissa]


def _alphabet(counts: Counts, total: int, stride: int) -> int:
    """Return how many tokens to keep, so that escapes, entries and the unseen cost least."""
    kept = counts[:ESCAPE]
    escaped = total - np.cumsum(kept)
    wasted = np.cumsum(np.maximum(total - kept * _SCALE, 0))
    entries = np.arange(1, ESCAPE + 1) * (_ENTRY_BITS * _SCALE)
    costs = stride * escaped * (_ESCAPED_BITS * _SCALE) + entries + stride * wasted * 369 // 256
    return int(np.argmin(costs)) + 1


def _levels(counts: Counts, total: int, precision: int) -> Counts:
    octaves = _logarithm(np.maximum(counts, 1)) - _logarithm(np.array(max(total, 1)))
    levels = (((octaves + _OCTAVES * _SCALE) << precision) + _SCALE // 2) >> SCALE_BITS
    return np.where(counts > 0, np.clip(levels, 0, _OCTAVES << precision), 0)


def _share(weights: Counts) -> Counts:
    """Share 4096 out by weights, at least 1 to each; the last weight is the escape's."""
    total = int(weights.sum())
    is_rare = weights * _SCALE <= total
    common = int(weights[~is_rare].sum())
    parts = (weights * (_SCALE - int(is_rare.sum())) + common // 2) // common
    shared = np.maximum(np.where(is_rare, 1, parts), 1)
    left = _SCALE - int(shared.sum())
    while left:
        top = int(np.argmax(shared))
        give = max(left, -(int(shared[top]) // 2))
        shared[top] += give
        left -= give
    return shared


def _guess(levels: list[int]) -> int:
    return levels[0] if len(levels) == 1 else (levels[-1] + levels[-2] + 1) // 2


def _width(usual: int) -> int:
    """Return the plain bits of a folded error where errors were `usual` / 16 so far."""
    return max((usual * 11 >> 8).bit_length() - 1, 0)


def _update(usual: int, folded: int) -> int:
    return usual - usual // 4 + folded * 4


def _fold(error: int) -> int:
    return -2 * error - 1 if error < 0 else 2 * error


def write_tables(tables: list[Table]) -> bytes:
    """Return tables as bytes."""
    value, length = 0, 0
    for table in tables:
        for field, width in _fields(table):
            value |= field << length
            length += width
    return value.to_bytes((length + 7) // 8, "little")


def _fields(table: Table) -> list[tuple[int, int]]:
    """Return what a table is written as: numbers and their widths in bits."""
    levels: list[int] = table.levels.tolist()
    fields = [(len(levels), 8), (table.escape, _LEVEL_BITS), (levels[0], _LEVEL_BITS)]
    usual = _USUAL
    for place in range(1, len(levels)):
        folded = _fold(levels[place] - _guess(levels[:place]))
        width = _width(usual)
        ones = folded >> width
        if ones < _LIMIT:
            fields += [((1 << ones) - 1, ones + 1), (folded & ((1 << width) - 1), width)]
        else:
            fields += [((1 << _LIMIT) - 1, _LIMIT), (levels[place], _LEVEL_BITS)]
        usual = _update(usual, folded)
    return fields


class _Bits:
    """A string of bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)
        self.taken = 0

    def take(self, width: int) -> int:
        if width > self._left - self.taken:
            raise MalformedFrame("a table is cut short")
        value = self._value >> self.taken & ((1 << width) - 1)
        self.taken += width
        return value

    def take_level(self, guess: int, usual: int) -> int:
        ones = 0
        while ones < _LIMIT and self.take(1):
            ones += 1
        if ones == _LIMIT:
            return self.take(_LEVEL_BITS)
        width = _width(usual)
        folded = ones << width | self.take(width)
        return guess + (-(folded + 1) // 2 if folded & 1 else folded // 2)


def read_tables(data: bytes, *, count: int, precision: int) -> tuple[list[Table], int]:
    """Return tables and the bytes that they took.

    Args:
        data: Possibly hostile.
        count: How many tables.
        precision: Their steps of an octave, as a power of two.

    Raises:
        MalformedFrame: They are no tables.
    """
    bits = _Bits(data[: count * (3 + 18 * TOKENS // 8)])
    tables = [_read_table(bits, precision) for _ in range(count)]
    return tables, (bits.taken + 7) // 8


def _read_table(bits: _Bits, precision: int) -> Table:
    most = _OCTAVES << precision
    size, escape = bits.take(8), bits.take(_LEVEL_BITS)
    levels, usual = [bits.take(_LEVEL_BITS)], _USUAL
    if not 1 <= size <= ESCAPE or max(escape, levels[0]) > most:
        raise MalformedFrame(f"a table of {size} tokens, levels {escape} and {levels[0]}")
    while len(levels) < size:
        guess = _guess(levels)
        levels.append(bits.take_level(guess, usual))
        if not 0 <= levels[-1] <= most:
            raise MalformedFrame(f"a table's level is {levels[-1]}")
        usual = _update(usual, _fold(levels[-1] - guess))
    return Table(np.array(levels), escape, precision)
