"""Intervals hold the truth as often as they say."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvc.behaviours.intervals import SIGMAS, Rate, paired_p, ratio


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_of_the_interval_are_wilsons(pair: tuple[int, int]) -> None:
    rate = Rate(*pair)
    low, high = rate.interval
    assert 0 <= low <= rate.value <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(rate.value - end) == pytest.approx(
                SIGMAS * math.sqrt(end * (1 - end) / rate.total), rel=1e-9
            )
    flipped = Rate(rate.total - rate.count, rate.total)
    assert flipped.interval == pytest.approx((1 - high, 1 - low))


def test_known_values() -> None:
    assert Rate(0, 10).interval == pytest.approx((0, 0.2775), abs=1e-4)
    assert Rate(81, 263).interval == pytest.approx(
        (0.2553, 0.3662), abs=1e-4
    )  # Newcombe 1998, table I


def test_intervals_hold_the_truth_95_times_in_100() -> None:
    drawn = random.Random(1)
    inside = 0
    for _ in range(2000):
        p = drawn.uniform(0.05, 0.95)
        low, high = Rate(sum(drawn.random() < p for _ in range(60)), 60).interval
        inside += low <= p <= high
    assert 0.935 < inside / 2000 < 0.965


def test_a_ratio_and_its_error() -> None:
    drawn = random.Random(2)
    inside = 0
    for _ in range(1000):
        sizes = [drawn.randint(1, 9) for _ in range(80)]
        totals = [size * (2.0 + drawn.gauss(0, 1)) for size in sizes]
        low, high = ratio(totals, sizes).interval
        inside += low <= 2.0 <= high
    assert 0.92 < inside / 1000 < 0.97
    assert ratio([1.0, 3.0], [1, 3]).value == 1.0
    assert ratio([1.0, 3.0], [1, 3]).error == 0.0
    assert math.isnan(ratio([1.0], [2]).error)


def test_paired_differences() -> None:
    assert paired_p([True, False], [True, False]) == 1.0
    assert paired_p([False] * 10, [True] * 10) == pytest.approx(2 / 2**10)
    assert paired_p([True] * 10, [False] * 10) == pytest.approx(2 / 2**10)
    # Agresti's example of 12 against 3 discordant pairs.
    first = [False] * 12 + [True] * 3 + [True] * 50
    second = [True] * 12 + [False] * 3 + [True] * 50
    assert paired_p(first, second) == pytest.approx(0.03516, abs=1e-5)
