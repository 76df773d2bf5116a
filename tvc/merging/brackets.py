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

__all__ = ["Bracket", "BracketCount", "Counts", "bin_bracket", "bracket_of", "kth_bin"]

Counts: TypeAlias = npt.NDArray[np.int64]

_GREATEST: Final = 0x7FFFFFFF
_COUNTED: Final = 1 << 16
"""Patterns of a bracket up to which they are counted one by one."""


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
    """What lies in a bracket: patterns, counted where they are few, gathered where they are many.

    Args:
        bracket: The bracket.
        numel: Elements of the whole; those that are not counted are below, or zero.
    """

    def __init__(self, bracket: Bracket, numel: int) -> None:
        width = bracket.upper - bracket.lower + 1
        self.bracket = bracket
        self._numel = numel
        self._above = 0
        self._inside = 0
        self._table = np.zeros(width if width <= _COUNTED else 0, np.int64)
        self._gathered: list[npt.NDArray[np.uint32]] = []
        self._most = numel // 4 + _COUNTED

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
        if self._table.size:
            if inside:
                found = room[:inside] - np.uint32(self.bracket.lower)
                self._table += np.bincount(found, minlength=self._table.size)
        elif self._inside <= self._most:
            self._gathered.append(room[:inside].copy())

    def add(self, other: "BracketCount") -> None:
        """Add what another has counted."""
        self._above += other._above
        self._inside += other._inside
        self._table += other._table
        self._gathered += other._gathered

    def value(self, rank: int) -> float | None:
        """Return the magnitude of a rank near the bracket's own, or None where it lies outside."""
        lower = self.bracket.lower
        if not rank:
            return math.inf
        if not self.bracket.rank:
            return None
        # What was not observed is zero.
        zeros = self._numel - self._above - self._inside if lower == 0 else 0
        if not self._above < rank <= self._above + self._inside + zeros:
            return None
        place = rank - self._above
        if self._table.size:
            self._table[0] += zeros
            return _magnitude(lower + kth_bin(self._table, place)[0])
        if self._inside > self._most:
            return None
        if place > self._inside:
            return 0.0
        found = np.concatenate(self._gathered)
        return _magnitude(int(np.partition(found, found.size - place)[found.size - place]))


def bracket_of(sample: npt.NDArray[np.uint32], rank: int, numel: int) -> Bracket:
    """Return a bracket that a rank lies in, if the whole is like a sample.

    Args:
        sample: Patterns.
        rank: Among the whole, from 1 the largest; 0 for infinity.
        numel: Elements of the whole.
    """
    if not rank or not sample.size:
        return Bracket(rank, 0, 0)
    share = rank / numel
    # Neighbours resemble each other, so that the sample tells less than its size says.
    slack = int(12 * math.sqrt(sample.size * share * (1 - share))) + 16
    place = sample.size - int(share * sample.size)
    low, high = max(0, place - slack), min(sample.size - 1, place + slack)
    ordered = np.partition(sample, [low, high])
    lower = int(ordered[low]) if place >= slack else 0
    upper = int(ordered[high]) if place + slack < sample.size else _GREATEST
    return Bracket(rank, lower, upper)


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
