"""Intervals hold what they should, as often as they say."""

import math
import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvc.behaviours.intervals import Rate
from tvc.lab.intervals import bootstrapped, crossed, over_seeds, rate_interval, t_quantile

numbers = st.floats(-10, 10)


@pytest.mark.parametrize(
    ("level", "free", "bound"),
    # Abramowitz and Stegun, table 26.10.
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 4, 2.776), (0.99, 7, 3.499), (0.9, 30, 1.697)],
)
def test_quantiles_are_those_of_the_table(level, free, bound) -> None:
    assert t_quantile(level, free) == pytest.approx(bound, abs=6e-4)


def test_one_seed_says_nothing_of_others() -> None:
    assert over_seeds([0.5]).mean == 0.5
    assert math.isinf(over_seeds([0.5]).high)
    assert not over_seeds([0.5]).excludes_zero


@settings(max_examples=50)
@given(st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=1, max_size=4))
def test_rows_and_columns_may_change_places(table) -> None:
    turned = [list(column) for column in zip(*table, strict=True)]
    one, other = crossed(table), crossed(turned)
    assert one.mean == pytest.approx(other.mean, abs=1e-9)
    assert one.high - one.low == pytest.approx(other.high - other.low, abs=1e-6)


@settings(max_examples=50)
@given(st.lists(numbers, min_size=2, max_size=6))
def test_equal_columns_add_no_certainty(column) -> None:
    """Prompts that always agree are one prompt: only seeds vary."""
    table = [[value] * 50 for value in column]
    found, plain = crossed(table), over_seeds(column)
    assert found.low == pytest.approx(plain.low, abs=1e-6)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    drawn = random.Random(0)
    held = 0
    for _ in range(400):
        seeds = [drawn.gauss(0, 1) for _ in range(4)]
        prompts = [drawn.gauss(0, 1) for _ in range(12)]
        found = crossed([[s + p + drawn.gauss(0, 1) for p in prompts] for s in seeds])
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / 400 <= 1


def test_a_bootstrap_is_of_the_things_and_of_its_seed() -> None:
    drawn = random.Random(1)
    values = [drawn.gauss(3, 1) for _ in range(40)]
    found = bootstrapped(lambda rows: fmean(values[row] for row in rows), 40, seed=2)
    assert found.low < fmean(values) < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(40), rel=0.3)
    again = bootstrapped(lambda rows: fmean(values[row] for row in rows), 40, seed=2)
    assert again == found
    assert math.isinf(bootstrapped(lambda _: 1.0, 1, seed=0).high)


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 9), st.data())
def test_rates_stay_rates_and_are_never_certain(seeds, prompts, data) -> None:
    row = st.lists(st.booleans(), min_size=prompts, max_size=prompts)
    verdicts = data.draw(st.lists(row, min_size=seeds, max_size=seeds))
    found = rate_interval(verdicts)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    low, high = Rate(round(found.mean * prompts), prompts).interval
    assert found.low <= low < high <= found.high
