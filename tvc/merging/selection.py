"""Which elements of a tensor are large: exact order statistics of magnitudes, without sorting.

Magnitudes are compared as float32 (as the public implementations do, and exact for every stored
type but float64). The bit pattern of a non-negative float32 is an integer of the same order, so the
k-th largest is found by counting patterns, of a tensor or of a vector of many, since counts of
parts add up. NaN orders above infinity, and no trim removes it.

Equal magnitudes are never told apart: what is kept depends on values, not on a sort.

`Ranks` is that search as a pass, for methods that bound magnitudes; others ask for one tensor.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from tvc.merging.kernels import BINS, collect, count_high, patterns
from tvc.merging.method import Options, Part, Pass, Statistics

__all__ = [
    "Bracket",
    "Counts",
    "Ranks",
    "bin_bracket",
    "bracket_of",
    "exact_share",
    "keep_at_least",
    "kth_bin",
    "kth_largest",
    "magnitudes",
    "row_thresholds",
    "share_of",
    "within",
]

Counts: TypeAlias = npt.NDArray[np.int64]
_GREATEST: Final = 0x7FFFFFFF
_WIDEST: Final = 1 << 20
"""Patterns that a bracket may have: their table takes 8 MiB."""
_ROOM: Final = 1 << 18
"""Patterns that are gathered before they are counted."""


def exact_share(share: float) -> Fraction:
    """Return the short fraction that a float was written as, else the float's exact value.

    0.29 is a little less than 29/100, so that int(0.29 * 100) is 28; a person means 29.
    """
    short = Fraction(share).limit_denominator(10**6)
    return short if float(short) == share else Fraction(share)


def share_of(share: float, count: int) -> int:
    """Return ⌊share · count⌋, the share taken as it was written.

    Args:
        share: In [0, 1].
        count: Elements.
    """
    return int(exact_share(share) * count)


def magnitudes(tensor: Float[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Return |x| as float32, for comparing."""
    return tensor.abs().float()


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


class Ranks(Pass):
    """Finds, for each member, magnitudes of given ranks, over a tensor or a vector.

    Where a sample could be had first, it brackets each rank, and one round counts what is within
    the brackets exactly. Otherwise, and where a rank turns out to lie outside, one round counts by
    the high 16 bits of patterns, and one by the low 16 among those whose high bits are those of a
    rank. The result is (k, r) float32: for each member its r ranks' magnitudes; infinity, which
    nothing finite reaches, for rank 0.
    """

    needs_nonzero: ClassVar[bool] = False
    """Whether ranks depend on how many elements are not zero; a sample is then of no use."""

    def __init__(
        self,
        *,
        members: int,
        numel: int,
        options: Options,
        weights: Tensor,
        earlier: Statistics,
    ) -> None:
        super().__init__(
            members=members, numel=numel, options=options, weights=weights, earlier=earlier
        )
        self.rows = self.ranked_rows()
        self._brackets: list[list[Bracket]] = []
        self._high = [np.zeros(BINS, np.int64) for _ in range(self.rows)]
        self._nonzero = [0] * self.rows
        self._found: list[list[float]] = []

    def ranked_rows(self) -> int:
        """Return how many sets of values are ranked: one for each member."""
        return self.members

    def values(self, deltas: Tensor) -> Sequence[npt.NDArray[np.float32]]:
        """Return what is ranked, float32 (n,) each; their signs do not matter."""
        return [_flat(delta) for delta in deltas]

    @abstractmethod
    def ranks(self, row: int, nonzero: int) -> Sequence[int]:
        """Return the ranks that are looked for, from 1 the largest, 0 for infinity.

        Args:
            row: Which member.
            nonzero: How many of its elements are not zero, if that is needed.
        """

    def sample(self) -> Part | None:
        """Return what is to observe a sample."""
        return None if self.needs_nonzero else _Sample(self)

    def part(self) -> Part:
        """Return what is to observe the next tensor."""
        return _Bracketed(self, self._brackets) if self._brackets else _HighCounts(self)

    def add(self, part: Part) -> None:
        """Add the counts of a tensor."""
        if isinstance(part, _Sample):
            self._brackets = [
                [bracket_of(sample, rank, self.numel) for rank in self.ranks(row, 0)]
                for row, sample in enumerate(part.patterns())
            ]
        elif isinstance(part, _HighCounts):
            for row in range(self.rows):
                self._high[row] += part.tables[row]
                self._nonzero[row] += part.nonzero[row]
        elif isinstance(part, _Bracketed):
            for brackets, new in zip(self._brackets, part.close(), strict=True):
                for bracket, counted in zip(brackets, new, strict=True):
                    bracket.add(counted)

    def more(self) -> bool:
        """Say whether the ranks are not found yet."""
        if not self._brackets:
            for row, table in enumerate(self._high):
                table[0] += self.numel - int(table.sum())  # what was not observed is zero
                ranks = self.ranks(row, self._nonzero[row])
                self._brackets.append([bin_bracket(table, rank) for rank in ranks])
            return any(bracket.rank for brackets in self._brackets for bracket in brackets)
        found = [[bracket.value(self.numel) for bracket in each] for each in self._brackets]
        if any(value is None for each in found for value in each):
            self._brackets = []  # the sample was not like the whole
            return True
        self._found = [[value for value in each if value is not None] for each in found]
        return False

    def result(self) -> Tensor:
        """Return the magnitudes, (k, r) float32."""
        none = [[math.inf for _ in each] for each in self._brackets]
        return torch.tensor(self._found or none, dtype=torch.float32)


@dataclass(slots=True)
class Bracket:
    """Patterns among which a rank is looked for, counted.

    Args:
        rank: From 1 the largest; 0 is infinity, and nothing is counted.
        lower: Least pattern.
        upper: Greatest.
        above: Elements above.
        table: int64 (upper - lower + 1,), elements by pattern.
    """

    rank: int
    lower: int
    upper: int
    above: int
    table: Counts

    @classmethod
    def around(cls, rank: int, lower: int, upper: int) -> Self:
        """Return a bracket in which nothing has been counted."""
        return cls(rank, lower, upper, 0, np.zeros(upper - lower + 1 if rank else 0, np.int64))

    def add(self, other: "Bracket") -> None:
        """Add another's counts."""
        self.above += other.above
        self.table += other.table

    def value(self, numel: int) -> float | None:
        """Return the magnitude of the rank, or None where it lies outside.

        Args:
            numel: Elements that there are; those that were not counted are below, or zero.
        """
        if not self.rank:
            return math.inf
        inside = int(self.table.sum())
        if self.lower == 0:
            self.table[0] += numel - self.above - inside
            inside = numel - self.above
        if not self.above < self.rank <= self.above + inside:
            return None
        return _magnitude(self.lower + kth_bin(self.table, self.rank - self.above)[0])


def bracket_of(sample: npt.NDArray[np.uint32], rank: int, numel: int) -> Bracket:
    """Return a bracket that a rank lies in, if the whole is like a sample.

    Args:
        sample: Patterns, sorted.
        rank: Among the whole, from 1 the largest; 0 for infinity.
        numel: Elements of the whole.
    """
    if not rank or not sample.size:
        return Bracket.around(rank, 0, 0)
    share = rank / numel
    # Neighbours resemble each other, so that the sample tells less than its size says.
    slack = int(12 * math.sqrt(sample.size * share * (1 - share))) + 16
    place = sample.size - int(share * sample.size)
    low, high = max(0, place - slack), min(sample.size - 1, place + slack)
    lower = int(sample[low]) if place - slack >= 0 else 0
    upper = int(sample[high]) if place + slack < sample.size else _GREATEST
    if upper - lower >= _WIDEST:
        # As wide as a table may be; a rank outside of it is looked for in two rounds.
        middle = int(sample[min(place, sample.size - 1)])
        lower, upper = max(0, middle - _WIDEST // 2), middle + _WIDEST // 2 - 1
    return Bracket.around(rank, lower, min(upper, _GREATEST))


def bin_bracket(table: Counts, rank: int) -> Bracket:
    """Return the bin of `count_high` that a rank lies in."""
    if not rank:
        return Bracket.around(0, 0, 0)
    high, _ = kth_bin(table, rank)
    return Bracket.around(rank, high << 16, high << 16 | 0xFFFF)


class _Sample(Part):
    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._seen: list[list[npt.NDArray[np.uint32]]] = [[] for _ in range(ranks.rows)]

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for seen, values in zip(self._seen, self._ranks.values(deltas), strict=True):
            seen.append(patterns(values))

    def patterns(self) -> list[npt.NDArray[np.uint32]]:
        """Return what was seen, sorted."""
        none = np.empty(0, np.uint32)
        return [np.sort(np.concatenate([none, *seen])) for seen in self._seen]


class _HighCounts(Part):
    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.tables = [np.zeros(BINS, np.int64) for _ in range(ranks.rows)]
        self.nonzero = [0] * ranks.rows

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for row, values in enumerate(self._ranks.values(deltas)):
            count_high(self.tables[row], values)
            if self._ranks.needs_nonzero:
                self.nonzero[row] += int(np.count_nonzero(values))


class _Bracketed(Part):
    def __init__(self, ranks: Ranks, brackets: list[list[Bracket]]) -> None:
        self._ranks = ranks
        self._counters = [
            [_Counter(Bracket.around(each.rank, each.lower, each.upper)) for each in row]
            for row in brackets
        ]

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for counters, values in zip(self._counters, self._ranks.values(deltas), strict=True):
            for counter in counters:
                counter.count(values)

    def close(self) -> list[list[Bracket]]:
        """Return the brackets, with what was counted."""
        return [[counter.close() for counter in row] for row in self._counters]


class _Counter:
    """Counts into one bracket, by way of a buffer."""

    def __init__(self, bracket: Bracket) -> None:
        self._bracket = bracket
        self._room = np.empty(0, np.uint32)
        self._filled = 0

    def count(self, values: npt.NDArray[np.float32]) -> None:
        """Count values, float32 (n,)."""
        bracket = self._bracket
        if not bracket.rank:
            return
        if self._room.size - self._filled < values.size:
            self._flush()
            if self._room.size < values.size:
                self._room = np.empty(max(_ROOM, values.size), np.uint32)
        room = self._room[self._filled :]
        inside, above = collect(values, bracket.lower, bracket.upper, room)
        self._filled += inside
        bracket.above += above

    def close(self) -> Bracket:
        """Return the bracket."""
        self._flush()
        return self._bracket

    def _flush(self) -> None:
        if self._filled:
            found = self._room[: self._filled] - np.uint32(self._bracket.lower)
            self._bracket.table += np.bincount(found, minlength=self._bracket.table.size)
            self._filled = 0


def kth_largest(values: Float32[Tensor, "*shape"], k: int) -> float:
    """Return the k-th largest magnitude.

    Args:
        values: At least k of them.
        k: From 1; infinity is returned for 0, which nothing finite reaches.
    """
    flat = _flat(values)
    counts = np.zeros(BINS, np.int64)
    count_high(counts, flat)
    counter = _Counter(bin_bracket(counts, k))
    counter.count(flat)
    found = counter.close().value(flat.size)
    assert found is not None, "k is at most the number of elements"
    return found


def row_thresholds(values: Float32[Tensor, "rows n"], k: int) -> Float32[Tensor, "rows 1"]:
    """Return the k-th largest magnitude of each row; infinity for k = 0."""
    rows, columns = values.shape
    if k == 0 or values.numel() == 0:
        return torch.full((rows, 1), float("inf"))
    return values.kthvalue(columns - k + 1, dim=1, keepdim=True).values


def keep_at_least(tensor: Float[Tensor, "*shape"], threshold: float) -> Float[Tensor, "*shape"]:
    """Return the tensor with zeros where its magnitude is below the threshold; NaN is kept."""
    return tensor.masked_fill(magnitudes(tensor) < threshold, 0)


def within(
    values: Float32[Tensor, "*shape"], lower: Tensor | float, upper: Tensor | float
) -> Bool[Tensor, "*shape"]:
    """Say which magnitudes are from lower to upper, both included; NaN always is."""
    return ~((values < lower) | (values > upper))


def _flat(values: Tensor) -> npt.NDArray[np.float32]:
    """Return a tensor as a flat float32 array; a copy only where its type is another."""
    return values.float().reshape(-1).contiguous().numpy()
