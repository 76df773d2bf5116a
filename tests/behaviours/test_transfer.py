"""Transfer and forgetting of longer chains, against the papers' equations written plainly."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvc.behaviours.results import Answers, Measured, Shown
from tvc.behaviours.transfer import transfer_of

PROMPTS = 12


@st.composite
def chains(draw):
    tasks = draw(st.integers(2, 4))
    verdicts = st.lists(st.booleans(), min_size=PROMPTS, max_size=PROMPTS).map(tuple)
    return [[draw(verdicts) for _ in range(tasks)] for _ in range(tasks + 1)]


def measured(row) -> Measured:
    return Measured({f"b{n}": Shown(Answers(each, 0)) for n, each in enumerate(row)})


@settings(max_examples=50)
@given(chains())
def test_the_equations(verdicts) -> None:
    start, *stages = verdicts
    tasks = len(stages)
    found = transfer_of(
        measured(start),
        [(str(n), measured(row)) for n, row in enumerate(stages)],
        [f"b{n}" for n in range(tasks)],
    )
    r = [[sum(each) / PROMPTS for each in row] for row in stages]
    b = [sum(each) / PROMPTS for each in start]
    t = tasks - 1
    assert found.average.value == pytest.approx(sum(r[t]) / tasks)
    assert found.backward.value == pytest.approx(sum(r[t][i] - r[i][i] for i in range(t)) / t)
    assert found.forward.value == pytest.approx(
        sum(r[i - 1][i] - b[i] for i in range(1, tasks)) / t
    )
    best = [max(r[k][i] for k in range(t)) for i in range(t)]
    assert found.forgetting.value == pytest.approx(sum(best[i] - r[t][i] for i in range(t)) / t)
    for each in (found.average, found.backward, found.forward, found.forgetting):
        assert each.error >= 0
        assert math.isfinite(each.error)


def test_what_is_the_same_has_no_error() -> None:
    row = [(True,) * PROMPTS, (False,) * PROMPTS]
    found = transfer_of(measured(row), [("a", measured(row)), ("b", measured(row))], ["b0", "b1"])
    assert (found.backward.value, found.backward.error) == (0, 0)
    assert found.average.value == 0.5
