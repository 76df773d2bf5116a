"""Which elements of a tensor are large: exact order statistics of magnitudes, without sorting.

Magnitudes are compared as float32 (as the public implementations do, and exact for every stored
type but float64). The bit pattern of a non-negative float32 is an integer of the same order, so the
k-th largest is found by counting: once by the high 16 bits, and once by the low 16 bits among those
with the right high bits. Counts of parts add up, so the same two steps serve one tensor and a
vector of many (`tvc.merging.ties`). NaN orders above infinity, and no trim removes it.

Equal magnitudes are never told apart: what is kept depends on values, not on a sort.

`Ranks` is that search as a pass, for methods that bound magnitudes; others ask for one tensor.
"""

from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from tvc.merging.kernels import BINS, collect, count_high
from tvc.merging.method import Options, Part, Pass, Statistics

__all__ = [
    "Counts",
    "Ranks",
    "count_low",
    "exact_share",
    "keep_at_least",
    "kth_bin",
    "kth_largest",
    "kth_value",
    "magnitudes",
    "row_thresholds",
    "share_of",
    "within",
]

Counts: TypeAlias = npt.NDArray[np.int64]
_LOW: Final = 1 << 16


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


def kth_value(high: int, low: int) -> float:
    """Return the float32 whose pattern has these high and low 16 bits."""
    return float(np.array([high << 16 | low], np.uint32).view(np.float32)[0])


class Ranks(Pass):
    """Finds, for each member, magnitudes of given ranks, over a tensor or a vector.

    The first round counts by the high 16 bits of patterns, the second by the low 16 among those
    whose high bits are those of a rank. The result is (k, r) float32: for each member its r ranks'
    magnitudes; infinity, which nothing finite reaches, for rank 0.
    """

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
        self._high = [np.zeros(BINS, np.int64) for _ in range(self.rows)]
        self._nonzero = [0] * self.rows
        self._wanted: list[list[tuple[int, int]]] = []
        self._low: list[dict[int, Counts]] = []

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
            nonzero: How many of its elements are not zero.
        """

    def part(self) -> Part:
        """Return what is to observe the next tensor."""
        bins = [sorted({high for high, rest in each if rest}) for each in self._wanted]
        return _LowCounts(self, bins) if self._wanted else _HighCounts(self)

    def add(self, part: Part) -> None:
        """Add the counts of a tensor."""
        if isinstance(part, _HighCounts):
            for row in range(self.rows):
                self._high[row] += part.tables[row]
                self._nonzero[row] += part.nonzero[row]
        elif isinstance(part, _LowCounts):
            for tables, new in zip(self._low, part.tables, strict=True):
                for high, table in new.items():
                    tables[high] += table

    def more(self) -> bool:
        """Say whether the low bits must be counted yet."""
        if self._wanted:
            return False
        for row, table in enumerate(self._high):
            table[0] += self.numel - int(table.sum())  # what was not observed is zero
            ranks = self.ranks(row, self._nonzero[row])
            self._wanted.append([kth_bin(table, k) if k else (0, 0) for k in ranks])
            self._low.append({h: np.zeros(_LOW, np.int64) for h, k in self._wanted[row] if k})
        return any(self._low)

    def result(self) -> Tensor:
        """Return the magnitudes, (k, r) float32."""
        found: list[list[float]] = []
        for row, wanted in enumerate(self._wanted):
            for high, table in self._low[row].items():
                # Of the bin of zero, what was not observed is zero.
                table[0] += int(self._high[row][high]) - int(table.sum())
            found.append([self._value(row, high, rest) for high, rest in wanted])
        return torch.tensor(found, dtype=torch.float32)

    def _value(self, row: int, high: int, rest: int) -> float:
        if not rest:
            return float("inf")
        return kth_value(high, kth_bin(self._low[row][high], rest)[0])


class _HighCounts(Part):
    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.tables = [np.zeros(BINS, np.int64) for _ in range(ranks.rows)]
        self.nonzero = [0] * ranks.rows

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for row, values in enumerate(self._ranks.values(deltas)):
            count_high(self.tables[row], values)
            # Nearly all of what is in the lowest bin is zero, and nearly always nothing is.
            self.nonzero[row] += int(np.count_nonzero(values))


class _LowCounts(Part):
    def __init__(self, ranks: Ranks, bins: list[list[int]]) -> None:
        self._ranks = ranks
        self.tables = [{high: np.zeros(_LOW, np.int64) for high in each} for each in bins]

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        del supplies
        for tables, values in zip(self.tables, self._ranks.values(deltas), strict=True):
            for high, table in tables.items():
                count_low(table, values, high)


def count_low(table: Counts, values: npt.NDArray[np.float32], high: int) -> None:
    """Add counts of those magnitudes whose high 16 bits are `high`, by the low 16 bits.

    Args:
        table: int64 (2**16,), added to.
        values: float32 (n,).
        high: Of the pattern of a magnitude.
    """
    room = np.empty(values.size, np.uint32)
    inside, _ = collect(values, high << 16, high << 16 | 0xFFFF, room)
    if inside:
        table += np.bincount(room[:inside] & 0xFFFF, minlength=_LOW)


def kth_largest(values: Float32[Tensor, "*shape"], k: int) -> float:
    """Return the k-th largest magnitude.

    Args:
        values: At least k of them.
        k: From 1; infinity is returned for 0, which nothing finite reaches.
    """
    if k == 0:
        return float("inf")
    flat = _flat(values)
    counts = np.zeros(BINS, np.int64)
    count_high(counts, flat)
    high, rest = kth_bin(counts, k)
    low = np.zeros(_LOW, np.int64)
    count_low(low, flat, high)
    return kth_value(high, kth_bin(low, rest)[0])


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
