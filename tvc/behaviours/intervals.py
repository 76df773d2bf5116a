"""Rates and means with the intervals that they are known to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["SIGMAS", "Estimate", "Rate", "paired_p", "ratio"]

SIGMAS: Final = 1.959963984540054
"""Standard errors on each side of an interval that holds the truth 95 times in 100."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something was so.

    Args:
        count: Times that it was.
        total: Times in all, at least one.
    """

    count: int
    total: int

    def __post_init__(self) -> None:
        assert 0 <= self.count <= self.total
        assert self.total

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (1927), good for few trials and for rates near 0 and 1.

        The solutions p of |share - p| = z sqrt(p (1 - p) / n).
        """
        n, share = self.total, self.value
        middle = share + SIGMAS * SIGMAS / (2 * n)
        half = SIGMAS * math.sqrt(share * (1 - share) / n + SIGMAS * SIGMAS / (4 * n * n))
        scale = 1 + SIGMAS * SIGMAS / n
        # It holds the share itself, whatever rounding does.
        return min(share, max(0.0, (middle - half) / scale)), max(
            share, min(1.0, (middle + half) / scale)
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that was measured.

    Args:
        value: The estimate.
        error: Its standard error; NaN where one row alone was measured.
    """

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, by the normal distribution."""
        return self.value - SIGMAS * self.error, self.value + SIGMAS * self.error


def ratio(totals: Sequence[float], weights: Sequence[int]) -> Estimate:
    """Return the sum of totals over that of weights; rows vary together, not their tokens.

    The standard error is that of a ratio estimator (Cochran 1977, Sampling Techniques, eq. 6.13).

    Args:
        totals: Of each row, such as the loss of all its tokens.
        weights: Of each row, such as its tokens; one at least is not zero.
    """
    n, whole = len(totals), sum(weights)
    value = math.fsum(totals) / whole
    if n < 2:
        return Estimate(value, math.nan)
    square = math.fsum((t - value * w) ** 2 for t, w in zip(totals, weights, strict=True))
    return Estimate(value, math.sqrt(square * n / (n - 1)) / whole)


def paired_p(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return how likely two rates on the same prompts differ so much by chance.

    The exact two-sided test of McNemar: of the prompts on which they differ, either is right with
    the same probability.

    Args:
        first: Whether it was so, for each prompt.
        second: The same, for the same prompts.
    """
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    n = gained + lost
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**n)
