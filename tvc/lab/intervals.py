"""What an experiment's means are known to: over seeds, over prompts, over both.

Absent: rates of one model (tvc/behaviours/intervals.py).
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev, variance
from typing import Final

import torch
from torch import Tensor

from tvc.behaviours.intervals import Estimate, Rate
from tvc.optimizers.readings import Interval

__all__ = [
    "crossed",
    "over_estimates",
    "over_seeds",
    "percentiles",
    "rate_interval",
    "resampled",
    "t_quantile",
]

_RESAMPLES: Final = 1000
_HALVINGS: Final = 80
_ROUNDING: Final = 1e-9


def t_quantile(level: float, free: int) -> float:
    """Return the bound that |t| stays below with a probability.

    By the finite series of Student's distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    Args:
        level: The probability, such as 0.95.
        free: Degrees of freedom, at least 1.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, free) < level else (low, middle)
    return math.tan(low) * math.sqrt(free)


def _within(angle: float, free: int) -> float:
    """Return P(|t| < sqrt(free) tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = free % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, free + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Return a mean and its interval by Student's t.

    Args:
        values: One for each seed, at least one; of one alone nothing is known of others, and the
            interval is infinite.
        level: Confidence.
    """
    mean, count = fmean(values), len(values)
    if count < 2 or not math.isfinite(mean):
        return Interval(mean, -math.inf, math.inf)
    half = t_quantile(level, count - 1) * stdev(values) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def crossed(values: Sequence[Sequence[float]], *, level: float = 0.95) -> Interval:
    """Return the mean of a table whose rows vary together, and whose columns do too.

    The variance is that of two-way clustering (Cameron, Gelbach and Miller 2011, "Robust inference
    with multiway clustering", eq. 2.10): that of rows and that of columns less that of cells,
    and at least the larger of the two. Quantiles are Student's, with the degrees of freedom of a
    sum of two variances (Satterthwaite 1946).

    Args:
        values: A row a seed, a column a prompt, at least one of each. With one row the interval is
            over columns alone, and the reverse.
        level: Confidence.
    """
    rows = [fmean(row) for row in values]
    columns = [fmean(column) for column in zip(*values, strict=True)]
    mean = fmean(rows)
    several = [each for each in (rows, columns) if len(each) > 1]
    if not several:
        return Interval(mean, -math.inf, math.inf)
    parts = [variance(each) / len(each) for each in several]
    square = max(parts)
    if len(parts) > 1:
        cells = [value for row in values for value in row]
        square = max(square, sum(parts) - variance(cells) / len(cells))
    loose = sum(part**2 / (len(each) - 1) for part, each in zip(parts, several, strict=True))
    free = math.floor(sum(parts) ** 2 / loose + _ROUNDING) if loose else 1
    half = t_quantile(level, free) * math.sqrt(square)
    return Interval(mean, mean - half, mean + half)


def rate_interval(verdicts: Sequence[Sequence[bool]]) -> Interval:
    """Return a rate over seeds and prompts, and its 95 % interval.

    It is that of `crossed`, within 0 and 1, and never narrower than Wilson's for one answer to each
    prompt, since an observed variance of 0 is no certainty.

    Args:
        verdicts: A row a seed, a column a prompt.
    """
    found = crossed([list(map(float, row)) for row in verdicts])
    prompts = len(verdicts[0])
    low, high = Rate(round(found.mean * prompts), prompts).interval
    if not math.isfinite(found.low):
        return Interval(found.mean, low, high)
    return Interval(found.mean, max(0.0, min(low, found.low)), min(1.0, max(high, found.high)))


def over_estimates(estimates: Sequence[Estimate]) -> Interval:
    """Return the mean of estimates on the same prompts, one for each seed, and its 95 % interval.

    What varies over seeds (Student's t) and over prompts is added in squares. Prompts are the same
    for all seeds, so that their part does not shrink with more of them.

    Args:
        estimates: At least one; of one alone the interval is over prompts only.
    """
    seeds = over_seeds([each.value for each in estimates])
    error = math.sqrt(fmean(each.error**2 for each in estimates))
    _, prompts = Estimate(0.0, error).interval
    if math.isnan(prompts):
        return Interval(seeds.mean, -math.inf, math.inf)
    half = prompts if len(estimates) == 1 else math.hypot(seeds.high - seeds.mean, prompts)
    return Interval(seeds.mean, seeds.mean - half, seeds.mean + half)


def resampled(count: int, *, seed: int) -> Tensor:
    """Return how often each of some things is drawn, in many draws with replacement.

    Args:
        count: How many things there are.
        seed: Of the draws.

    Returns:
        Counts, (draws, things), float64; each row sums to `count`.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (_RESAMPLES, count), generator=generator)
    counts = torch.zeros(_RESAMPLES, count, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


def percentiles(value: float, draws: Tensor, *, level: float = 0.95) -> Interval:
    """Return the interval of a bootstrap, by percentiles.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.

    Args:
        value: The statistic of what was measured.
        draws: The statistic of each draw, (draws,); what is not finite is left out.
        level: Confidence.
    """
    kept = draws[draws.isfinite()].double()
    if not len(kept):
        return Interval(value, -math.inf, math.inf)
    beside = (1 - level) / 2
    low, high = (float(kept.quantile(at)) for at in (beside, 1 - beside))
    return Interval(value, min(low, value), max(high, value))
