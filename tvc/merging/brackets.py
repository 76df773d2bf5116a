"""Looking for the magnitude of a rank among the patterns of a bracket.

A bracket comes from a sample, where what is in it is gathered, or from counts by high bits, where
it is one bin, and patterns are counted one by one. Either way what is found is exact, or nothing.
Absent on purpose: tensors, and where brackets come from first (`tvc.merging.selection`).
"""

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tvc.merging.kernels import collect

__all__ = [
    "Bracket",
    "BracketCount",
    "Counts",
    "bin_bracket",
    "bracket_of",
    "kth_bin",
    "value_in_bin",
    "whole_bins",
]

Counts: TypeAlias = npt.NDArray[np.int64]

_GREATEST: Final = 0x7FFFFFFF
_GATHERED: Final = 1 << 20
"""Elements that are gathered before they are counted one by one."""
_WIDEST: Final = 1 << 21
"""Patterns that may be counted one by one: their counts take 16 MiB."""
_SHIFT: Final = 12


@dataclass(frozen=True, slots=True)
class Bracket:
    """Patterns among which a rank is looked for.

    Args:
        rank: From 1 the largest; 0 is infinity, and nothing is counted.
        lower: Least pattern.
        upper: Greatest.
    """

    rank: int
    lower: int
    upper: int


class BracketCount:
    """What lies in a bracket: patterns are gathered, and counted one by one where they are many.

    Args:
        bracket: The bracket.
        numel: Elements of the whole; those that are not counted are below, or zero.
    """

    def __init__(self, bracket: Bracket, numel: int) -> None:
        self.bracket = bracket
        self._numel = numel
        self._above = 0
        self._inside = 0
        self._table: Counts | None = None
        self._odd: list[npt.NDArray[np.uint32]] = []
        self._gathered: list[npt.NDArray[np.uint32]] = []
        self._pending = 0

    def count(self, values: npt.NDArray[np.float32], room: npt.NDArray[np.uint32]) -> None:
        """Count some values.

        Args:
            values: float32 (n,).
            room: uint32 (n,), scratch.
        """
        if not self.bracket.rank:
            return
        inside, above = collect(values, self.bracket.lower, self.bracket.upper, room)
        self._above += above
        self._inside += inside
        self._gather([room[:inside].copy()])

    def add(self, other: "BracketCount") -> None:
        """Add what another has counted."""
        self._above += other._above
        self._inside += other._inside
        self._gather(other._gathered)
        self._odd += other._odd
        self._count(other._table)

    def _gather(self, found: list[npt.NDArray[np.uint32]]) -> None:
        self._gathered += found
        self._pending += sum(each.size for each in found)
        if self._pending > _GATHERED:
            self._fold()

    @property
    def _shift(self) -> int:
        """By how many bits patterns are shortened to find their place in the table.

        Where a bracket is too wide to count all patterns one by one, only the even ones are, whose
        last bits are zero. Nearly all are where models are stored in 16 bits, and nearly equal.
        """
        return 0 if self.bracket.upper - self.bracket.lower < _WIDEST else _SHIFT

    def _fold(self) -> None:
        """Count what was gathered."""
        if not self._pending:
            return
        found, shift = np.concatenate(self._gathered), self._shift
        if shift:
            even = found & np.uint32((1 << shift) - 1) == 0
            self._odd.append(found[~even])
            found = found[even] >> np.uint32(shift)
        low, high = (bound >> shift for bound in (self.bracket.lower, self.bracket.upper))
        self._count(np.bincount(found - np.uint32(low), minlength=high - low + 1))
        self._gathered, self._pending = [], 0

    def _count(self, table: Counts | None) -> None:
        if table is not None:
            self._table = table if self._table is None else self._table + table

    def _counted(self) -> tuple[npt.NDArray[np.uint32], Counts]:
        """Return the patterns that there are, rising, and how often."""
        self._fold()
        table = np.zeros(0, np.int64) if self._table is None else self._table
        cells = np.flatnonzero(table)
        first = self.bracket.lower >> self._shift
        even = ((cells + first) << self._shift).astype(np.uint32)
        odd, times = np.unique(np.concatenate([even[:0], *self._odd]), return_counts=True)
        found, counts = np.concatenate([even, odd]), np.concatenate([table[cells], times])
        order = np.argsort(found)
        return found[order], counts[order]

    def value(self, rank: int) -> float | None:
        """Return the magnitude of a rank near the bracket's own, or None where it lies outside."""
        lower = self.bracket.lower
        if not rank:
            return math.inf
        if not self.bracket.rank:
            return None
        # What was not observed is zero.
        zeros = self._numel - self._above - self._inside if lower == 0 else 0
        place = rank - self._above
        if not 0 < place <= self._inside + zeros:
            return None
        if place > self._inside:
            return 0.0
        if self._table is None:
            found = np.concatenate([*self._gathered, *self._odd])
            return _magnitude(int(np.partition(found, found.size - place)[found.size - place]))
        found, counts = self._counted()
        return _magnitude(int(found[kth_bin(counts, place)[0]]))

    def low_counts(self, high: int) -> Counts | None:
        """Return counts of the patterns of one bin of `count_high`, int64 (2**16,).

        None where the bracket does not hold all of the bin.
        """
        lower, upper = high << 16, high << 16 | 0xFFFF
        if not self.bracket.rank or lower < self.bracket.lower or upper > self.bracket.upper:
            return None
        found, counts = self._counted()
        low = np.zeros(1 << 16, np.int64)
        here = (found >= lower) & (found <= upper)
        low[found[here] & 0xFFFF] = counts[here]
        return low


def bracket_of(
    sample: npt.NDArray[np.uint32], weights: npt.NDArray[np.float64], rank: int
) -> Bracket:
    """Return a bracket that a rank lies in, if the whole is like a sample.

    Args:
        sample: Patterns.
        weights: float64, for how many elements of the whole each pattern stands.
        rank: Among the whole, from 1 the largest; 0 for infinity.
    """
    total = float(weights.sum())
    if not rank or not sample.size:
        return Bracket(rank, 0, 0)
    order = np.argsort(sample)[::-1]
    before = weights[order].cumsum()
    share = min(1.0, rank / total)
    # Neighbours resemble each other, so that the sample tells less than its size says.
    slack = (12 * math.sqrt(sample.size * share * (1 - share)) + 16) * total / sample.size
    first, last = np.searchsorted(before, [rank - slack, rank + slack])
    lower = int(sample[order[last]]) if last < sample.size else 0
    upper = int(sample[order[first]]) if rank > slack and first < sample.size else _GREATEST
    return Bracket(rank, lower, max(lower, upper) if first < sample.size else lower)


def whole_bins(bracket: Bracket) -> Bracket:
    """Return a bracket of whole bins of `count_high`, of no more than can be counted one by one."""
    low, high = bracket.lower >> 16, bracket.upper >> 16
    spare = max(0, high - low + 1 - (_WIDEST >> 16))
    return Bracket(bracket.rank, low + spare // 2 << 16, high - (spare + 1) // 2 << 16 | 0xFFFF)


def value_in_bin(counts: Counts, high: int, place: int) -> float:
    """Return a magnitude of one bin of `count_high`.

    Args:
        counts: int64 (2**16,), of the bin's patterns.
        high: The bin.
        place: Which of the bin's own elements, from 1 the largest.
    """
    return _magnitude(high << 16 | kth_bin(counts, place)[0])


def bin_bracket(table: Counts, rank: int) -> Bracket:
    """Return the bin of `count_high` that a rank lies in."""
    if not rank:
        return Bracket(0, 0, 0)
    high, _ = kth_bin(table, rank)
    return Bracket(rank, high << 16, high << 16 | 0xFFFF)


def kth_bin(counts: Counts, k: int) -> tuple[int, int]:
    """Find the bin of the k-th largest.

    Args:
        counts: int64 (bins,), at least k in all.
        k: From 1.

    Returns:
        The bin, and which of its own elements it is, counted from the largest.
    """
    from_largest = counts[::-1].cumsum()
    place = int(np.searchsorted(from_largest, k))
    before = int(from_largest[place - 1]) if place else 0
    return counts.size - 1 - place, k - before


def _magnitude(pattern: int) -> float:
    return float(np.array([pattern], np.uint32).view(np.float32)[0])
