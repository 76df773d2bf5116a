"""Which elements of a tensor are large: exact order statistics of magnitudes, without sorting.

Magnitudes are compared as float32 (as the public implementations do, and exact for every stored
type but float64). The bit pattern of a non-negative float32 is an integer of the same order, so the
k-th largest is found by counting: once by the high 16 bits, and once by the low 16 bits among those
with the right high bits. Counts of parts add up, so the same two steps serve one tensor and a
vector of many (`tvc.merging.ties`). NaN orders above infinity, and no trim removes it.

Equal magnitudes are never told apart: what is kept depends on values, not on a sort.
"""

from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

__all__ = [
    "count_high",
    "count_low",
    "exact_share",
    "keep_at_least",
    "kth_high",
    "kth_largest",
    "kth_value",
    "magnitudes",
    "row_thresholds",
    "share_of",
    "within",
]

_BINS = 1 << 16


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


def count_high(values: Float32[Tensor, "*shape"]) -> Int64[Tensor, " bins"]:
    """Count magnitudes by the high 16 bits of their patterns."""
    return torch.bincount(_patterns(values) >> 16, minlength=_BINS)


def count_low(values: Float32[Tensor, "*shape"], high: int) -> Int64[Tensor, " bins"]:
    """Count those magnitudes whose high 16 bits are `high`, by the low 16 bits."""
    patterns = _patterns(values)
    return torch.bincount(patterns[patterns >> 16 == high] & (_BINS - 1), minlength=_BINS)


def kth_high(counts: Int64[Tensor, " bins"], k: int) -> tuple[int, int]:
    """Find the bin of the k-th largest.

    Args:
        counts: By bin, at least k in all.
        k: From 1.

    Returns:
        The bin, and which of its own elements it is, counted from the largest.
    """
    from_largest = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_largest, k))
    before = int(from_largest[place - 1]) if place else 0
    return _BINS - 1 - place, k - before


def kth_value(high: int, low: int) -> float:
    """Return the float32 whose pattern has these high and low 16 bits."""
    pattern = torch.tensor([high << 16 | low], dtype=torch.int32)
    return pattern.view(torch.float32).item()


def kth_largest(values: Float32[Tensor, "*shape"], k: int) -> float:
    """Return the k-th largest magnitude.

    Args:
        values: Magnitudes, at least k of them.
        k: From 1; infinity is returned for 0, which nothing finite reaches.
    """
    if k == 0:
        return float("inf")
    high, rest = kth_high(count_high(values), k)
    low, _ = kth_high(count_low(values, high), rest)
    return kth_value(high, low)


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


def _patterns(values: Tensor) -> Tensor:
    return values.reshape(-1).view(torch.int32)
