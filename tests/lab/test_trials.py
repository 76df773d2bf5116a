"""What experiments make of their trainings: which examples, which order, which effect is one."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvc.behaviours.intervals import Estimate
from tvc.behaviours.results import Answers, Measured, Shown
from tvc.lab.backward_transfer import other_order
from tvc.lab.examples_needed import effects_of, first_measurable, order_of
from tvc.lab.learning_rate import best_rate
from tvc.lab.trials import drawn_order

PROMPTS = 16


def measured(count: int, *, prompts: int = PROMPTS, loss: float = 1.0) -> Measured:
    """A model that shows the behaviour on the first prompts."""
    verdicts = tuple(n < count for n in range(prompts))
    return Measured({"x": Shown(Answers(verdicts, 0))}, loss=Estimate(loss, 0.1))


def first(*counts: tuple[int, ...], prompts: int = PROMPTS) -> int | None:
    """The first measurable count, where 0, 1, 2 examples give so many verdicts, seed by seed."""
    found = {n: [measured(c, prompts=prompts) for c in each] for n, each in enumerate(counts)}
    return first_measurable(effects_of(found, "x"))


def test_the_first_count_with_an_effect_is_found() -> None:
    assert first((2, 3, 2), (2, 2, 3), (14, 15, 14)) == 2
    assert first((2, 3, 2), (15, 14, 15), (14, 15, 14)) == 1
    assert first((14, 15, 14), (1, 2, 1), (14, 14, 14)) == 1  # less is an effect too


def test_nothing_is_made_of_chance() -> None:
    assert first((2, 3, 2), (2, 3, 2), (3, 3, 2)) is None
    # Seeds that do not agree: one draw of examples worked.
    assert first((2, 2, 2), (16, 2, 2), (2, 2, 2)) is None
    # Two prompts that agree for certain are two prompts.
    assert first((0, 0, 0), (2, 2, 2), (2, 2, 2), prompts=2) is None


def test_more_counts_need_more_certainty() -> None:
    few = {n: [measured(c) for c in each] for n, each in enumerate([(4, 4), (9, 10)])}
    many = few | dict.fromkeys(range(2, 9), few[1])
    one, other = (effects_of(found, "x")[1].change for found in (few, many))
    assert one.mean == other.mean
    assert other.low < one.low
    assert other.high > one.high


@settings(max_examples=50)
@given(st.integers(0, 9), st.integers(1, 9), st.integers(0, 99), st.integers(1, 9))
def test_the_control_sees_general_data_alone_and_all_see_as_many_rows(count, rest, seed, steps):
    chosen, general = range(count), range(100, 100 + rest)
    order = order_of(chosen, general, Fraction(1, 4), seed=seed, steps=steps, batch=8)
    rows = [row for step in order for row in step]
    assert [len(step) for step in order] == [8] * steps
    assert sum(row >= 100 for row in rows) == (2 * steps if count else 8 * steps)
    assert set(rows) <= {*chosen, *general}
    if 6 * steps >= count:
        assert set(chosen) <= set(rows)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_orders_are_drawn_from_their_seed(count, seed) -> None:
    order = other_order(count, seed=seed)
    assert sorted(order) == list(range(count)) != order
    assert other_order(count, seed=seed) == order
    assert sorted(drawn_order(count, seed=seed)) == list(range(count))


def test_seeds_draw_other_orders() -> None:
    assert len({tuple(drawn_order(20, seed=seed)) for seed in range(9)}) == 9


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([(1.0, 1.01), (1.0, 0.99), (3.0, 3.1)], 0.1),
        ([(1.0, 1.01), (3.0, 0.99), (3.0, 3.1)], 0.1),  # no rise that is certain
        ([(1.0, 1.01), (2.0, 2.01), (3.0, 3.1)], 0.01),
        ([(2.0, 2.01), (2.0, 2.01), (3.0, 3.1)], None),
    ],
)
def test_the_best_rate_does_no_harm(losses, best) -> None:
    counts = (5, 12, 16)
    found = {
        rate: [measured(count, loss=loss) for loss in pair]
        for rate, count, pair in zip((0.01, 0.1, 1.0), counts, losses, strict=True)
    }
    assert best_rate(found, measured(2), "x") == best
    assert best_rate({**found, 0.05: []}, measured(2), "x") == best
