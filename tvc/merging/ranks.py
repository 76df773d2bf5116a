"""The search for magnitudes of given ranks, as a pass over a tensor or over a whole vector.

A sample, where there is one, brackets each rank, and one round counts what is within the brackets
exactly. Otherwise, and where a rank turns out to lie outside, one round counts by the high 16 bits
of patterns, and one what is in the bin of the rank. Over a vector the counts by high bits are taken
in any case and remembered, with those of the bins that were looked into: they depend on no rank.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tvc.merging.brackets import (
    Bracket,
    BracketCount,
    Counts,
    bin_bracket,
    bracket_of,
    kth_bin,
    value_in_bin,
    whole_bins,
)
from tvc.merging.kernels import BINS, count_high, patterns
from tvc.merging.passes import Memory, Part, Pass
from tvc_store.errors import IntegrityError

__all__ = ["Inconsistent", "Ranks"]


class Inconsistent(IntegrityError):
    """What was seen in one round of a pass is not what was seen in another."""


class Ranks(Pass):
    """Finds, for each member, magnitudes of given ranks.

    The result is (k, r) float32: for each member its r ranks' magnitudes; infinity, which nothing
    finite reaches, for rank 0.
    """

    needs_nonzero: ClassVar[bool] = False
    """Whether ranks depend on how many elements are not zero."""

    def __post_init__(self) -> None:
        self.rows = self.ranked_rows()
        self._remembering = self.scope(self.options) == "vector"
        self._memory: Memory | None = None
        self._samples: list[_Sample] = []
        self._counted = _Counted(self, [], high=False)
        self._high: list[Counts] = []
        self._found: list[list[float]] = []

    def ranked_rows(self) -> int:
        """Return how many sets of values are ranked: one for each member."""
        return self.members

    def values(self, deltas: Tensor) -> Sequence[npt.NDArray[np.float32]]:
        """Return what is ranked, float32 (n,) each; their signs do not matter."""
        return [delta.float().reshape(-1).contiguous().numpy() for delta in deltas]

    @abstractmethod
    def ranks(self, row: int, nonzero: int) -> Sequence[int]:
        """Return the ranks that are looked for, from 1 the largest, 0 for infinity.

        Args:
            row: Which member.
            nonzero: How many of its elements are not zero, if that is needed.
        """

    def begin(self, memory: Memory | None) -> bool:
        """Say whether anything has to be seen: not where all of it is remembered."""
        self._memory = memory
        high = [memory.recall(row, "high", BINS) if memory else None for row in range(self.rows)]
        self._high = [table for table in high if table is not None and table.sum() == self.numel]
        if len(self._high) == self.rows:
            return self._look_into_bins()
        self._high = []
        return True

    def sample(self, numel: int) -> Part | None:
        """Return what is to observe a sample; there is none where bins are known."""
        return None if self._high else _Sample(self, numel, every=8 if self._remembering else 1)

    def part(self) -> Part:
        """Return what is to observe the next tensor."""
        if self._samples:
            self._guess()
        elif not self._counted.brackets:
            self._counted = self._counted if self._counted.high else _Counted(self, [], high=True)
        return self._counted.like()

    def add(self, part: Part) -> None:
        """Add the counts of a tensor."""
        if isinstance(part, _Sample):
            self._samples.append(part)
        elif isinstance(part, _Counted):
            self._counted.add(part)

    def more(self) -> bool:
        """Say whether the ranks are not found yet."""
        counted = self._counted
        if counted.high:
            self._high = counted.high
            for row, table in enumerate(self._high):
                table[0] += self.numel - int(table.sum())  # what was not observed is zero
                if self._memory:
                    self._memory.keep(row, "high", table)
        if counted.brackets:
            found = [
                [count.value(rank) for count, rank in zip(counts, ranks, strict=True)]
                for counts, ranks in zip(counted.counts, self._all_ranks(), strict=True)
            ]
            self._keep_bins()
            if not any(value is None for each in found for value in each):
                self._found = [[v for v in each if v is not None] for each in found]
                return False
        if counted.brackets and self._high and not counted.high:
            raise Inconsistent("the tensors of a merge changed while they were read")
        if self._high:
            return self._look_into_bins()
        self._counted = _Counted(self, [], high=False)  # the sample was not like the whole
        return True

    def result(self) -> Tensor:
        """Return the magnitudes, (k, r) float32."""
        return torch.tensor(self._found, dtype=torch.float32)

    def _all_ranks(self) -> list[Sequence[int]]:
        return [self.ranks(row, nonzero) for row, nonzero in enumerate(self._counted.nonzero)]

    def _guess(self) -> None:
        """Bracket the ranks by the samples."""
        brackets: list[list[Bracket]] = []
        for row in range(self.rows):
            sample = np.concatenate([part.seen[row] for part in self._samples])
            weights = np.concatenate([part.weights(row) for part in self._samples])
            ranks = self.ranks(row, round(weights[sample != 0].sum()))
            brackets.append([bracket_of(sample, weights, rank) for rank in ranks])
        if self._remembering:
            brackets = [[whole_bins(each) for each in row] for row in brackets]
        self._samples = []
        self._counted = _Counted(self, brackets, high=self._remembering)

    def _look_into_bins(self) -> bool:
        """Turn to the bins of the ranks; say whether they have to be counted yet."""
        nonzero = self._counted.nonzero
        ranks = self._all_ranks()
        found = [
            [self._remembered(row, table, rank) for rank in each]
            for row, (table, each) in enumerate(zip(self._high, ranks, strict=True))
        ]
        if not any(value is None for each in found for value in each):
            self._found = [[value for value in each if value is not None] for each in found]
            return False
        brackets = [
            [bin_bracket(table, rank) for rank in each]
            for table, each in zip(self._high, ranks, strict=True)
        ]
        self._counted = _Counted(self, brackets, high=False)
        self._counted.known_nonzero = nonzero
        return True

    def _remembered(self, row: int, high: Counts, rank: int) -> float | None:
        if not rank:
            return math.inf
        at, place = kth_bin(high, rank)
        low = self._memory.recall(row, f"low {at}", 1 << 16) if self._memory else None
        if low is None or low.sum() != high[at]:
            return None
        return value_in_bin(low, at, place)

    def _keep_bins(self) -> None:
        """Remember the counts of the bins in which the ranks are."""
        if not self._memory or not self._high:
            return
        for row, (counts, ranks) in enumerate(
            zip(self._counted.counts, self._all_ranks(), strict=True)
        ):
            for count, rank in zip(counts, ranks, strict=True):
                at = kth_bin(self._high[row], rank)[0] if rank else 0
                low = count.low_counts(at) if rank else None
                if low is not None:
                    whole = low.copy()
                    whole[0] += int(self._high[row][at]) - int(low.sum())  # zeros, in their bin
                    self._memory.keep(row, f"low {at}", whole)


class _Sample(Part):
    def __init__(self, ranks: Ranks, numel: int, *, every: int) -> None:
        self._ranks = ranks
        self._numel = numel
        self._every = every
        self.seen = [np.empty(0, np.uint32)] * ranks.rows

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for row, values in enumerate(self._ranks.values(deltas)):
            found = patterns(values[:: self._every].copy())
            self.seen[row] = np.concatenate([self.seen[row], found])

    def weights(self, row: int) -> npt.NDArray[np.float64]:
        """Return for how many elements of the tensor each that was seen stands."""
        size = self.seen[row].size
        return np.full(size, self._numel / max(size, 1))


class _Counted(Part):
    """What was counted, of one tensor or of all.

    Args:
        ranks: The pass.
        brackets: Of each row, what is counted; nothing where there are none.
        high: Whether all is counted by high bits.
    """

    def __init__(self, ranks: Ranks, brackets: list[list[Bracket]], *, high: bool) -> None:
        self._ranks = ranks
        self._room = np.empty(0, np.uint32)
        self.brackets = brackets
        self.high = [np.zeros(BINS, np.int64) for _ in range(ranks.rows)] if high else []
        self.counts = [[BracketCount(each, ranks.numel) for each in row] for row in brackets]
        self.seen_nonzero = [0] * ranks.rows
        self.known_nonzero: list[int] | None = None

    @property
    def nonzero(self) -> list[int]:
        """Of each row, how many elements are not zero, where that is needed."""
        return self.known_nonzero or self.seen_nonzero

    def like(self) -> "_Counted":
        """Return one in which nothing is counted."""
        return _Counted(self._ranks, self.brackets, high=bool(self.high))

    def add(self, other: "_Counted") -> None:
        """Add what another has counted."""
        for mine, its in zip(self.high, other.high, strict=True):
            mine += its
        for row, seen in enumerate(other.seen_nonzero):
            self.seen_nonzero[row] += seen
        for mine, its in zip(self.counts, other.counts, strict=True):
            for count, more in zip(mine, its, strict=True):
                count.add(more)

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for row, values in enumerate(self._ranks.values(deltas)):
            if self.high:
                count_high(self.high[row], values)
            if self._ranks.needs_nonzero:
                self.seen_nonzero[row] += int(np.count_nonzero(values))
            if self._room.size < values.size:
                self._room = np.empty(values.size, np.uint32)
            for count in self.counts[row] if self.counts else []:
                count.count(values, self._room)
