"""Where the gradient went: every weight has its kind, and shares are those of squared lengths."""

import json
from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, PAD, example, tiny

from tvc.training.gradients import GradientReport, kind_of
from tvc.training.tiers import Tier, decision_loss

ATTENTION = {"query", "key", "value", "output"}
MLP = {"gate", "up", "down"}
SPLIT = {"delta-qkv", "delta-z", "delta-b", "delta-a"}
DELTA = {"delta-A_log", "delta-dt_bias", "delta-convolution", "delta-output"}
EXPERTS = {"experts", "router"}
KINDS = {
    "llama": ATTENTION | MLP | {"head"},
    "qwen3": ATTENTION | MLP,
    "qwen3-next": ATTENTION | MLP | DELTA | EXPERTS | {"head", "delta-qkvz", "delta-ba"},
    "qwen3.5": ATTENTION | MLP | DELTA | SPLIT | {"head"},
    "qwen3.5-moe": ATTENTION | MLP | DELTA | SPLIT | EXPERTS | {"head"},
    "qwen3.5-vision": ATTENTION | MLP | DELTA | SPLIT | {"head", "vision"},
    "mistral-window": ATTENTION | MLP | {"head"},
    "gemma3-window": ATTENTION | MLP,
    "gpt-oss-window": ATTENTION | EXPERTS | {"head", "other"},
}
"""By architecture, beside norms and the embedding; `other` are attention sinks."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_weight_has_its_kind(name: str) -> None:
    found = {kind_of(each) for each, _ in tiny(name).named_parameters()}
    assert found == KINDS[name] | {"norm", "embedding"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "query"),
        ("model.layers.0.self_attn.q_proj.bias", "query"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("model.layers.0.self_attn.out_proj.weight", "output"),
        ("model.layers.0.linear_attn.norm.weight", "norm"),
        ("model.layers.0.linear_attn.out_proj.weight", "delta-output"),
        ("model.layers.0.linear_attn.dt_bias", "delta-dt_bias"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.mlp.gate_proj.weight", "gate"),
        ("model.layers.0.mlp.gate_up_proj.weight", "gate-up"),
        ("model.layers.0.mlp.experts.gate_up_proj", "experts"),
        ("model.layers.0.mlp.experts.3.down_proj.weight", "experts"),
        ("model.layers.0.mlp.shared_expert.down_proj.weight", "down"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "router"),
        ("model.language_model.embed_tokens.weight", "embedding"),
        ("model.visual.blocks.0.attn.qkv.weight", "vision"),
        ("transformer.h.0.attn.c_attn.weight", "query-key-value"),
        ("transformer.h.0.attn.c_proj.weight", "output"),
        ("transformer.h.0.mlp.c_proj.weight", "down"),
        ("transformer.h.0.ln_1.weight", "norm"),
        ("transformer.wte.weight", "embedding"),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "key-value"),
        ("model.layers.0.self_attn.q_b_proj.weight", "query"),
        ("something.else", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def stepped(model: Any, seed: int) -> Any:
    model.zero_grad()
    batch = [example(20, 5, seed=seed)]
    decision_loss(model, batch, tier=Tier.FROZEN_CONTEXT, pad=PAD).total.backward()
    return model


def test_shares_are_of_squared_lengths_over_all_steps() -> None:
    model = tiny("qwen3.5")
    report = GradientReport()
    squares: dict[str, float] = {}
    for seed in range(3):
        stepped(model, seed)
        report.add(model.named_parameters())
        for name, parameter in model.named_parameters():
            square = parameter.grad.double().square().sum().item()
            squares[kind_of(name)] = squares.get(kind_of(name), 0.0) + square
    found = json.loads(json.dumps(report.to_json()))
    assert found["steps"] == 3
    assert found["kinds"].keys() == squares.keys()
    for kind, square in squares.items():
        assert found["kinds"][kind]["squared_norm"] == pytest.approx(square / 3)
        assert found["kinds"][kind]["share"] == pytest.approx(square / sum(squares.values()))


def test_tensors_and_elements_are_counted_once() -> None:
    model = tiny("qwen3.5")
    report = GradientReport()
    for seed in range(2):
        report.add(stepped(model, seed).named_parameters())
    kinds = report.to_json()["kinds"]
    assert sum(kind["elements"] for kind in kinds.values()) == sum(
        p.numel() for p in model.parameters()
    )
    assert kinds["delta-A_log"]["tensors"] == 3
    assert kinds["delta-A_log"]["elements"] == 12


def test_every_kind_gets_some_through_a_frozen_context() -> None:
    for name in ("qwen3", "qwen3.5", "qwen3-next"):
        report = GradientReport()
        report.add(stepped(tiny(name), 0).named_parameters())
        assert all(kind["share"] > 0 for kind in report.to_json()["kinds"].values())


def test_weights_without_a_gradient_count_nothing() -> None:
    model = tiny("qwen3.5-vision")
    report = GradientReport()
    report.add(stepped(model, 0).named_parameters())
    assert "vision" not in report.to_json()["kinds"]


def test_no_gradient_is_no_share() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    report = GradientReport()
    report.add([("q_proj.weight", weight)])
    assert report.to_json()["kinds"]["query"]["share"] == 0.0
