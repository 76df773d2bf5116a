"""Which elements of a tensor are large: exact order statistics of magnitudes, without sorting.

Magnitudes are compared as float32 (as the public implementations do, and exact for every stored
type but float64). The bit pattern of a non-negative float32 is an integer of the same order, so the
k-th largest is found by counting patterns, of a tensor or of a vector of many, since counts of
parts add up. NaN orders above infinity, and no trim removes it.

Equal magnitudes are never told apart: what is kept depends on values, not on a sort.

Absent on purpose: the same search as a pass over tensors larger than memory (`tvc.merging.ranks`).
"""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from tvc.merging import elections
from tvc.merging.brackets import BracketCount, bin_bracket
from tvc.merging.kernels import BINS, count_high

__all__ = [
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
    kept = elections.bound(values, values, threshold, math.inf)
    return torch.from_numpy(kept).reshape(tensor.shape)  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial


def within(
    values: Float32[Tensor, "*shape"], lower: Tensor | float, upper: Tensor | float
) -> Bool[Tensor, "*shape"]:
    """Say which magnitudes are from lower to upper, both included; NaN always is."""
    return ~((values < lower) | (values > upper))


def _flat(values: Tensor) -> npt.NDArray[np.float32]:
    """Return a tensor as a flat float32 array; a copy only where its type is another."""
    return values.float().reshape(-1).contiguous().numpy()
