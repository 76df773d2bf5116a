"""Heads: whose weights are whose, what each adds, and how a change of one is found."""

from collections import Counter

import pytest
import torch
from training.tiny_models import PAD, example, tiny

from tvc.lab.changes import random_change
from tvc.lab.heads import NoHeads, added, head_layers, relative_changes
from tvc.lab.which_heads import Listener, compare_heads, which_heads

NAMES = ["llama", "qwen3", "qwen3-next", "qwen3.5", "gemma3-window"]
EXAMPLES = [example(6, 3, seed=1), example(11, 2, 4, seed=2), example(3, 5, seed=3)]


@pytest.mark.parametrize("name", NAMES)
def test_slices_cover_matrices_exactly(name) -> None:
    model = tiny(name)
    weights = dict(model.named_parameters())
    layers = head_layers(model)
    assert [each.layer for each in layers] == list(range(model.config.num_hidden_layers))
    covered = Counter()
    for layer in layers:
        for part in layer.parts:
            assert 0 <= part.start < part.stop
            covered.update((part.parameter, part.dim, n) for n in range(part.start, part.stop))
    assert set(covered.values()) == {1}
    cut = {(parameter, dim) for parameter, dim, _ in covered}
    assert all((parameter, 1 - dim) not in cut for parameter, dim in cut)
    for parameter, dim in cut:
        wanted = {(parameter, dim, n) for n in range(weights[parameter].shape[dim])}
        assert wanted <= set(covered)
    mixers = {key for key in weights if ("attn" in key or "delta" in key) and "norm" not in key}
    assert mixers == {parameter for parameter, _ in cut}


@pytest.mark.parametrize("name", NAMES)
def test_what_heads_add_is_what_the_layer_adds(name) -> None:
    model = tiny(name)
    for layer in head_layers(model):
        said = torch.randn(5, layer.output.in_features)
        torch.testing.assert_close(
            added(said, layer.output.weight, layer.heads).sum(1), layer.output(said)
        )


@pytest.mark.parametrize(
    "name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
)
def test_a_part_changes_its_own_heads_and_no_others(name) -> None:
    """Each part is moved alone: in its layer the heads that it belongs to say something else."""
    model = tiny(name)
    weights = {name: each.detach() for name, each in model.named_parameters()}
    listener = Listener(model, EXAMPLES[1:], pad=PAD)
    for place, layer in enumerate(listener.layers):
        many = {
            kind: len({p.head for p in layer.parts if p.kind == kind})
            for kind in {p.kind for p in layer.parts}
        }
        for part in layer.parts:
            change = torch.zeros_like(weights[part.parameter])
            piece = change.narrow(part.dim, part.start, part.stop - part.start)
            piece.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
            found = listener.outputs({part.parameter: change})[place]
            group = layer.heads // many[part.kind]
            own = set(range(part.head * group, (part.head + 1) * group))
            moved = {head for head in range(layer.heads) if float(found[:, head].max()) > 1e-4}
            assert moved == own, part
            sizes = relative_changes(layer, weights, {part.parameter: change})
            assert [n for n, size in enumerate(sizes[part.kind]) if size] == [part.head]


def test_no_change_changes_no_head_and_a_sign_changes_it_twice() -> None:
    model = tiny("qwen3.5")
    listener = Listener(model, EXAMPLES, pad=PAD)
    name = "model.layers.2.self_attn.o_proj.weight"
    weight = dict(model.named_parameters())[name]
    assert not any(each.any() for each in listener.outputs({name: torch.zeros_like(weight)}))
    found = listener.outputs({name: -2 * weight.detach()})
    torch.testing.assert_close(found[2], torch.full((3, 4), 2.0, dtype=torch.float64))
    assert not found[0].any()
    assert not found[1].any()


def test_models_without_known_heads_are_refused_by_name() -> None:
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.qkv_proj = layer.self_attn.q_proj
        del layer.self_attn.q_proj
    with pytest.raises(NoHeads, match="llama has no layers with separate q, k, v and o"):
        head_layers(model)


def test_a_head_that_was_changed_comes_first() -> None:
    model = tiny("qwen3.5")
    weights = dict(model.named_parameters())
    listener = Listener(model, EXAMPLES, pad=PAD)
    name = "model.layers.2.self_attn.o_proj.weight"
    change = torch.zeros_like(weights[name])
    change[:, 16:24] = 0.5 * torch.randn(32, 8, generator=torch.Generator().manual_seed(3))
    report = which_heads(listener, {name: change}, seeds=range(3), top=2, settings={})
    assert "Most changed against the control: layer 2, attention, head 2" in report.found[1]
    first = [each for each in report.facts["heads"] if each["layer"] == 2]
    assert [each["beyond_chance"] for each in first] == [False, False, True, False]
    assert all(len(each["control_seeds"]) == 3 for each in first)
    ratio = first[2]["ratio"]
    assert 1 < ratio["low"] <= ratio["mean"] <= ratio["high"]
    sizes = [w for w in report.facts["weights"] if w["layer"] == 2 and w["of"] == "o"]
    assert [each["change"] > 0 for each in sizes] == [False, False, True, False]
    assert len(report.tables[0].rows) == 2


def test_what_lies_behind_all_heads_changes_none() -> None:
    listener = Listener(tiny("llama"), EXAMPLES, pad=PAD)
    change = {"lm_head.weight": torch.ones(61, 32)}
    report = which_heads(listener, change, seeds=range(2), top=2, settings={})
    assert report.found == ["None of 8 heads says anything changed: what changed lies behind them."]
    assert report.plots


def test_random_changes_are_not_told_from_each_other() -> None:
    model = tiny("qwen3.5")
    like = {name: 0.01 * each.detach().clone() for name, each in model.named_parameters()}
    listener = Listener(model, EXAMPLES, pad=PAD)
    outputs = [listener.outputs(random_change(like, seed=seed)) for seed in range(4)]
    chosen = [
        head.is_chosen
        for place, layer in enumerate(listener.layers)
        for head in compare_heads(layer, outputs[0][place], [o[place] for o in outputs[1:]], seed=0)
    ]
    assert sum(chosen) <= len(chosen) / 3
