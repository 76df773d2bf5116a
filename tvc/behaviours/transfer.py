"""The transfer matrix of a chain of commits: what each did to the behaviours of the others.

After Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory" (arXiv:1706.08840), section 2, with a
behaviour's rate for a task's accuracy and the base model for the untrained one (theirs is drawn at
random); forgetting after Chaudhry et al. 2018 (arXiv:1801.10112), eq. 3. Rates are of the same
prompts, so intervals are those of paired differences.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvc.behaviours.intervals import Estimate, Rate
from tvc.behaviours.results import Measured

__all__ = ["Transfer", "transfer_of"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """How commits of a chain, each of which trained a behaviour, changed each other's.

    Args:
        stages: Labels of the commits, in their order.
        behaviours: What each of them trained.
        before: Of each behaviour, the base's rate.
        rates: R: of each commit (a row), each behaviour's rate (a column).
        average: ACC, the mean of the last row.
        backward: BWT, what later commits did to earlier behaviours, on average.
        forward: FWT, how far behaviours were shown before they were trained, above the base.
        forgetting: How far behaviours fell below their best before the end, on average.
    """

    stages: tuple[str, ...]
    behaviours: tuple[str, ...]
    before: tuple[Rate, ...]
    rates: tuple[tuple[Rate, ...], ...]
    average: Estimate
    backward: Estimate
    forward: Estimate
    forgetting: Estimate


def transfer_of(
    base: Measured, chain: Sequence[tuple[str, Measured]], behaviours: Sequence[str]
) -> Transfer:
    """Return how a chain of commits, the i-th of which trained the i-th behaviour, hangs together.

    Args:
        base: The model before the first.
        chain: Label and result of each commit, at least two.
        behaviours: As many names.
    """
    count = len(behaviours)
    assert count == len(chain) > 1

    def verdicts(measured: Measured, task: int) -> tuple[bool, ...]:
        return measured.behaviours[behaviours[task]].alone.verdicts

    def rate(measured: Measured, task: int) -> Rate:
        return measured.behaviours[behaviours[task]].alone.rate

    results = [measured for _, measured in chain]
    last = results[-1]

    def best(task: int) -> Measured:
        return max(results[:-1], key=lambda measured: rate(measured, task).value)

    def gains(
        tasks: Sequence[int], after: Callable[[int], Measured], before: Callable[[int], Measured]
    ) -> Estimate:
        pairs = [(verdicts(after(task), task), verdicts(before(task), task)) for task in tasks]
        return _mean([_difference(new, old) for new, old in pairs])

    earlier, later = range(count - 1), range(1, count)
    return Transfer(
        stages=tuple(label for label, _ in chain),
        behaviours=tuple(behaviours),
        before=tuple(rate(base, task) for task in range(count)),
        rates=tuple(tuple(rate(each, task) for task in range(count)) for each in results),
        average=_mean([_difference(verdicts(last, task), None) for task in range(count)]),
        backward=gains(earlier, lambda _: last, lambda task: results[task]),
        forward=gains(later, lambda task: results[task - 1], lambda _: base),
        forgetting=gains(earlier, best, lambda _: last),
    )


def _difference(new: Sequence[bool], old: Sequence[bool] | None) -> Estimate:
    """Return the mean of new - old over prompts, with its standard error."""
    values = [int(a) - int(b) for a, b in zip(new, old or [False] * len(new), strict=True)]
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return Estimate(mean, math.nan)
    square = sum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, math.sqrt(square / n))


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates whose errors are independent."""
    n = len(estimates)
    error = math.sqrt(math.fsum(each.error**2 for each in estimates)) / n
    return Estimate(math.fsum(each.value for each in estimates) / n, error)
