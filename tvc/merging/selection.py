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
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from tvc.merging import kernels
from tvc.merging.brackets import Bracket, BracketCount, bin_bracket, bracket_of
from tvc.merging.kernels import BINS, count_high, patterns
from tvc.merging.method import Options, Part, Pass, Statistics

__all__ = [
    "Ranks",
    "exact_share",
    "keep_at_least",
    "kth_largest",
    "magnitudes",
    "row_thresholds",
    "share_of",
    "within",
]


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


class Ranks(Pass):
    """Finds, for each member, magnitudes of given ranks, over a tensor or a vector.

    Where a sample could be had first, it brackets each rank, and one round counts what is within
    the brackets exactly. Otherwise, and where a rank turns out to lie outside, one round counts by
    the high 16 bits of patterns, and one by the low 16 among those whose high bits are those of a
    rank. The result is (k, r) float32: for each member its r ranks' magnitudes; infinity, which
    nothing finite reaches, for rank 0.
    """

    needs_nonzero: ClassVar[bool] = False
    """Whether ranks depend on how many elements are not zero."""

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
        self._counts: list[list[BracketCount]] = []
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
        return _Sample(self)

    def part(self) -> Part:
        """Return what is to observe the next tensor."""
        return _Bracketed(self, self._brackets) if self._brackets else _HighCounts(self)

    def add(self, part: Part) -> None:
        """Add the counts of a tensor."""
        if isinstance(part, _Sample):
            self._look(
                [bracket_of(sample, rank, self.numel) for rank in self._guessed(row, sample)]
                for row, sample in enumerate(part.patterns())
            )
        elif isinstance(part, _HighCounts):
            for row in range(self.rows):
                self._high[row] += part.tables[row]
                self._nonzero[row] += part.nonzero[row]
        elif isinstance(part, _Bracketed):
            for row, (counts, new) in enumerate(zip(self._counts, part.counts, strict=True)):
                self._nonzero[row] += part.nonzero[row]
                for count, more in zip(counts, new, strict=True):
                    count.add(more)

    def more(self) -> bool:
        """Say whether the ranks are not found yet."""
        if not self._brackets:
            for table in self._high:
                table[0] += self.numel - int(table.sum())  # what was not observed is zero
            self._look(
                [bin_bracket(table, rank) for rank in self.ranks(row, self._nonzero[row])]
                for row, table in enumerate(self._high)
            )
            self._nonzero = [0] * self.rows
            return any(bracket.rank for brackets in self._brackets for bracket in brackets)
        found = [
            [
                count.value(rank)
                for count, rank in zip(counts, self.ranks(row, nonzero), strict=True)
            ]
            for row, (counts, nonzero) in enumerate(zip(self._counts, self._nonzero, strict=True))
        ]
        if any(value is None for each in found for value in each):
            # The sample was not like the whole.
            self._brackets, self._nonzero = [], [0] * self.rows
            return True
        self._found = [[value for value in each if value is not None] for each in found]
        return False

    def _guessed(self, row: int, sample: npt.NDArray[np.uint32]) -> Sequence[int]:
        """Return the ranks, as far as a sample tells how many elements are not zero."""
        share = np.count_nonzero(sample) / max(1, sample.size)
        return self.ranks(row, round(share * self.numel))

    def _look(self, brackets: Iterable[list[Bracket]]) -> None:
        self._brackets = list(brackets)
        self._counts = _counts_of(self._brackets, self.numel)

    def result(self) -> Tensor:
        """Return the magnitudes, (k, r) float32."""
        none = [[math.inf for _ in each] for each in self._brackets]
        return torch.tensor(self._found or none, dtype=torch.float32)


class _Sample(Part):
    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._seen: list[list[npt.NDArray[np.uint32]]] = [[] for _ in range(ranks.rows)]

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for seen, values in zip(self._seen, self._ranks.values(deltas), strict=True):
            seen.append(patterns(values))

    def patterns(self) -> list[npt.NDArray[np.uint32]]:
        """Return what was seen."""
        none = np.empty(0, np.uint32)
        return [np.concatenate([none, *seen]) for seen in self._seen]


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
        self._room = np.empty(0, np.uint32)
        self.counts = _counts_of(brackets, ranks.numel)
        self.nonzero = [0] * ranks.rows

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        seen = zip(self.counts, self._ranks.values(deltas), strict=True)
        for row, (counts, values) in enumerate(seen):
            if self._ranks.needs_nonzero:
                self.nonzero[row] += int(np.count_nonzero(values))
            if self._room.size < values.size:
                self._room = np.empty(values.size, np.uint32)
            for count in counts:
                count.count(values, self._room)


def _counts_of(brackets: list[list[Bracket]], numel: int) -> list[list[BracketCount]]:
    return [[BracketCount(each, numel) for each in row] for row in brackets]


def kth_largest(values: Float32[Tensor, "*shape"], k: int) -> float:
    """Return the k-th largest magnitude.

    Args:
        values: At least k of them.
        k: From 1; infinity is returned for 0, which nothing finite reaches.
    """
    flat = _flat(values)
    counts = np.zeros(BINS, np.int64)
    count_high(counts, flat)
    inside = BracketCount(bin_bracket(counts, k), flat.size)
    inside.count(flat, np.empty(flat.size, np.uint32))
    found = inside.value(k)
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
    values = tensor.reshape(-1).contiguous().numpy()
    kept = kernels.bound(values, values, threshold, math.inf)
    return torch.from_numpy(kept).reshape(tensor.shape)  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial


def within(
    values: Float32[Tensor, "*shape"], lower: Tensor | float, upper: Tensor | float
) -> Bool[Tensor, "*shape"]:
    """Say which magnitudes are from lower to upper, both included; NaN always is."""
    return ~((values < lower) | (values > upper))


def _flat(values: Tensor) -> npt.NDArray[np.float32]:
    """Return a tensor as a flat float32 array; a copy only where its type is another."""
    return values.float().reshape(-1).contiguous().numpy()
