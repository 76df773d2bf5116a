"""Intervals hold what they should, as often as they say."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvc.behaviours.intervals import Estimate, Rate
from tvc.lab.intervals import (
    crossed,
    over_estimates,
    over_seeds,
    percentiles,
    rate_interval,
    resampled,
    t_quantile,
)

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
    assert math.isinf(over_seeds([math.nan, math.nan]).high)


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
    values = torch.randn(40, generator=torch.Generator().manual_seed(1)).double() + 3
    counts = resampled(40, seed=2)
    assert counts.sum(1).tolist() == [40] * len(counts)
    found = percentiles(float(values.mean()), counts @ values / 40)
    assert found.low < values.mean() < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(40), rel=0.3)
    assert torch.equal(resampled(40, seed=2), counts)
    assert math.isinf(percentiles(1.0, torch.tensor([math.nan])).high)


@given(st.lists(st.tuples(numbers, st.floats(0, 1)), min_size=2, max_size=5))
def test_prompts_that_say_nothing_new_do_not_narrow_seeds(pairs) -> None:
    found = over_estimates([Estimate(value, error) for value, error in pairs])
    seeds = over_seeds([value for value, _ in pairs])
    assert found.mean == seeds.mean
    assert found.low <= seeds.low + 1e-9
    assert found.high - found.mean >= 1.95 * min(error for _, error in pairs) - 1e-9


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 9), st.data())
def test_rates_stay_rates_and_are_never_certain(seeds, prompts, data) -> None:
    row = st.lists(st.booleans(), min_size=prompts, max_size=prompts)
    verdicts = data.draw(st.lists(row, min_size=seeds, max_size=seeds))
    found = rate_interval(verdicts)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    low, high = Rate(round(found.mean * prompts), prompts).interval
    assert found.low <= low < high <= found.high
