"""Readings of sharpness over batches: means, what they are known to, and their differences.

Absent: how they were measured (tvc/optimizers/sharpness.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

__all__ = [
    "Interval",
    "Reading",
    "Summary",
    "compare_sharpness",
    "mean_interval",
    "summarize",
]


@dataclass(frozen=True, slots=True)
class Reading:
    """The loss along one direction of length 1.

    Args:
        slope: g.v, negative where the loss falls along v.
        curvature: v^T H v.
    """

    slope: float
    curvature: float

    @property
    def decrease(self) -> float:
        """By how much a parabola of this slope and curvature falls; infinite if it has no end."""
        if self.curvature <= 0:
            return math.inf
        return self.slope**2 / (2 * self.curvature)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds that it lies in with 95 % confidence."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the mean differs from 0 by more than chance would do it."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Summary:
    """Readings of one optimizer, over batches.

    Args:
        curvature: v^T H v.
        slope: g.v.
        decrease: slope^2 / (2 v^T H v) of the mean slope and the mean curvature.
    """

    curvature: Interval
    slope: Interval
    decrease: Interval


def mean_interval(values: Sequence[float]) -> Interval:
    """Return a mean with its 95 % interval, by Student's t.

    The quantile is Hill's expansion around the normal one (Abramowitz and Stegun, 26.7.5): within
    4 % for three values, and much closer for more.

    Args:
        values: At least one; with fewer than three, or one that is infinite, the interval is too.
    """
    mean, half = fmean(values), _half(values)
    return Interval(mean, mean - half, mean + half)


def _half(values: Sequence[float]) -> float:
    """Return how far the bounds of a mean are from it."""
    count = len(values)
    if count < 3 or not all(map(math.isfinite, values)):
        return math.inf
    z, free = NormalDist().inv_cdf(0.975), count - 1
    quantile = (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )
    return quantile * stdev(values) / math.sqrt(count)


def summarize(readings: Sequence[Reading]) -> Summary:
    """Return means and intervals of readings over batches.

    Args:
        readings: At least one.
    """
    # A ratio of means, so its bounds are the jackknife's: what every batch changes in it.
    count, whole = len(readings), _pooled(readings)
    without = [_pooled([*readings[:i], *readings[i + 1 :]]) for i in range(count) if count > 1]
    half = _half([(count - 1) * each for each in without])
    return Summary(
        mean_interval([reading.curvature for reading in readings]),
        mean_interval([reading.slope for reading in readings]),
        Interval(whole, whole - half, whole + half),
    )


def _pooled(readings: Sequence[Reading]) -> float:
    slope = fmean(reading.slope for reading in readings)
    return Reading(slope, fmean(reading.curvature for reading in readings)).decrease


def compare_sharpness(one: Sequence[Reading], other: Sequence[Reading]) -> Interval:
    """Return by how much one optimizer's curvature exceeds another's, batch by batch.

    Args:
        one: Readings of `measure_sharpness`.
        other: Those of another optimizer of the same run.
    """
    pairs = zip(one, other, strict=True)
    return mean_interval([a.curvature - b.curvature for a, b in pairs])
