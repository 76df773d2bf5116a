"""States of gated delta nets, how alike their changes are, and what is made of it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.tiny_models import DELTA_NETS, PAD, example, tiny

from tvc.lab.changes import random_change
from tvc.lab.report import format_report
from tvc.lab.state_direction import compare_layers, state_direction
from tvc.lab.states import NoDeltaNets, cosines, delta_nets, mean_cosine, states_after

CONTEXTS = [example(length, 1, seed=length).context for length in (5, 9, 1, 70)]


@pytest.mark.parametrize(
    "name",
    [
        "qwen3.5",
        *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(DELTA_NETS - {"qwen3.5"})),
    ],
)
def test_a_state_is_that_of_its_own_context(name) -> None:
    """Whatever else is in the batch, and however much was padded."""
    model = tiny(name)
    found = states_after(model, CONTEXTS, pad=PAD)
    assert list(found) == sorted(delta_nets(model)) == [0, 1, 3]
    for number, context in [*enumerate(CONTEXTS)][1:]:
        alone = states_after(model, [context], pad=PAD)
        for layer, states in found.items():
            torch.testing.assert_close(states[number], alone[layer][0], atol=1e-5, rtol=1e-4)
    assert model.training


def test_every_token_of_the_context_is_in_its_state() -> None:
    model = tiny("qwen3.5")
    context = CONTEXTS[1]
    other = (*context[:-1], context[-1] + 1)
    one, two = (states_after(model, [each], pad=PAD)[0] for each in (context, other))
    assert not torch.allclose(one, two, atol=1e-4)


def test_models_without_such_layers_are_refused_by_name() -> None:
    with pytest.raises(NoDeltaNets, match="qwen3 has no gated-delta-net layers"):
        states_after(tiny("qwen3"), CONTEXTS, pad=PAD)


def test_no_change_changes_no_state() -> None:
    model = tiny("qwen3.5")
    one, two = (states_after(model, CONTEXTS, pad=PAD) for _ in range(2))
    for layer, states in one.items():
        assert not (two[layer] - states).any()
        found = cosines(two[layer] - states)
        assert math.isnan(float(mean_cosine(found)))


@settings(max_examples=30)
@given(st.integers(2, 8), st.floats(0.1, 10), st.integers(0, 99))
def test_one_direction_has_cosine_one_and_none_has_none(count, size, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(1, 4000, generator=generator)
    lengths = torch.rand(count, 1, generator=generator) + 0.1
    assert float(mean_cosine(cosines(size * lengths * direction))) == pytest.approx(1)
    spread = torch.randn(count, 4000, generator=generator)
    pairs = count * (count - 1) / 2
    assert abs(float(mean_cosine(cosines(spread)))) < 5 / (4000 * pairs) ** 0.5


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.integers(0, 99))
def test_draws_are_means_over_pairs_of_different_contexts(rows, seed) -> None:
    found = cosines(torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)))
    counts = torch.bincount(torch.tensor(rows), minlength=6).double()[None]
    pairs = [
        float(found[i, j])
        for a, i in enumerate(rows)
        for b, j in enumerate(rows)
        if a != b and i != j
    ]
    mean = float(mean_cosine(found, counts)[0])
    assert math.isnan(mean) if not pairs else mean == pytest.approx(sum(pairs) / len(pairs))


def drawn(seed: int, *, along: float = 0.0) -> tuple[torch.Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(1, 50, generator=generator)
    return cosines(torch.randn(20, 50, generator=generator) + along * direction), 1.0


def test_a_direction_is_told_from_chance_and_chance_from_a_direction() -> None:
    controls = [drawn(seed) for seed in range(1, 6)]
    found = compare_layers(0, drawn(0, along=1.0), controls, seed=0)
    assert found.is_directed
    assert 0.3 < found.cosine.low < found.cosine.mean < found.cosine.high < 0.7
    called = sum(
        compare_layers(
            0, drawn(100 + n), [drawn(200 + 5 * n + k) for k in range(5)], seed=0
        ).is_directed
        for n in range(20)
    )
    assert called <= 2


def test_a_random_change_is_not_told_from_random_changes() -> None:
    model = tiny("qwen3.5")
    like = {name: 0.01 * each.detach().clone() for name, each in model.named_parameters()}
    change = random_change(like, seed=77)
    contexts = [example(9, 1, seed=n).context for n in range(8)]
    told = []
    report = state_direction(
        model, change, contexts, pad=PAD, seeds=range(4), settings={}, on_row=lambda: told.append(1)
    )
    assert len(told) == 8 * 6
    for layer in report.facts["layers"]:
        assert len(layer["control_seeds"]) == 4
        cosine, control = layer["cosine"]["mean"], layer["control"]["mean"]
        assert layer["difference"]["mean"] == pytest.approx(cosine - control)
        assert abs(cosine - control) < 0.4
        assert layer["size"] == pytest.approx(sum(layer["control_sizes"]) / 4, rel=0.7)
    assert len(report.facts["directed_layers"]) < 3
    assert "| layer | cosine |" in format_report(report)


def test_layers_before_the_change_have_no_direction() -> None:
    model = tiny("qwen3.5")
    name = "model.layers.2.mlp.up_proj.weight"
    change = {name: 0.1 * dict(model.named_parameters())[name].detach()}
    report = state_direction(model, change, CONTEXTS, pad=PAD, seeds=range(2), settings={})
    assert [math.isnan(each["cosine"]["mean"]) for each in report.facts["layers"]] == [
        True,
        True,
        False,
    ]
    assert "Most in layer 3" in report.found[1]
    assert "| 0 | none | none |" in format_report(report)
    behind = {"lm_head.weight": torch.ones(61, 32)}
    report = state_direction(model, behind, CONTEXTS, pad=PAD, seeds=range(2), settings={})
    assert report.found == ["No state changed: what changed lies behind these layers."]
