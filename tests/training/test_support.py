"""What cannot be trained is refused by name, and with figures where only they can tell."""

import re
from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, PAD, gradients, tiny
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tvc.training.prefix import UnsupportedModel
from tvc.training.support import verify_support
from tvc.training.tiers import Tier

SIZE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
}

each_tier = pytest.mark.parametrize("tier", Tier)


def made(kind: str, **options: Any) -> Any:
    config = AutoConfig.for_model(kind, **SIZE, num_key_value_heads=2, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_supported_models_pass(name: str, dtype: torch.dtype) -> None:
    model = tiny(name, dtype=dtype)
    for tier in Tier:
        verify_support(model, tier=tier, pad=PAD)
    assert not gradients(model)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {}),  # positions that are learned
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),  # convolutions without a state
        ("llama4_text", {"num_local_experts": 2, "attention_chunk_size": 8, "head_dim": 8}),
        # Layers of perceptrons only, and Mamba's.
        (
            "nemotron_h",
            {
                "layers_block_type": ["mamba", "mlp", "attention"],
                "mamba_num_heads": 8,
                "mamba_head_dim": 8,
                "n_groups": 1,
                "ssm_state_size": 8,
            },
        ),
    ],
)
def test_other_kinds_of_layers_pass(kind: str, options: dict[str, Any]) -> None:
    model = made(kind, **options)
    for tier in Tier:
        verify_support(model, tier=tier, pad=PAD)


@each_tier
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("use_cache", False),
        ("output_hidden_states", True),
        ("output_router_logits", True),
        ("eos_token_id", [2, 3]),
    ],
)
def test_what_a_configuration_asks_for_besides_does_no_harm(
    flag: str, value: Any, tier: Tier
) -> None:
    model = tiny("qwen3-next")
    setattr(model.config, flag, value)
    verify_support(model, tier=tier, pad=PAD)


def refused(model: Any, tier: Tier, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=re.escape(words)):
        verify_support(model, tier=tier, pad=PAD)


@each_tier
def test_a_model_that_sees_the_future_is_refused_with_figures(tier: Tier) -> None:
    model = BertLMHeadModel(BertConfig(**SIZE))
    with pytest.raises(
        UnsupportedModel, match=r"bert: logits in tier .* are [\d.]+ of their spread"
    ):
        verify_support(model, tier=tier, pad=PAD)


@each_tier
def test_a_configuration_that_sees_the_future_is_refused(tier: Tier) -> None:
    model = tiny("llama")
    model.config.is_causal = False
    refused(model, tier, "of their spread away from those of plain passes")


def test_a_cache_that_is_not_enough_is_refused_with_figures() -> None:
    """Jamba starts its recurrence anew where more than one token follows."""
    layers = {"attn_layer_period": 2, "attn_layer_offset": 1}
    model = made("jamba", **layers, num_experts=2, mamba_d_state=8, mamba_dt_rank=4)
    verify_support(model, tier=Tier.FULL, pad=PAD)
    refused(model, Tier.FROZEN_CONTEXT, "of their spread away from those of plain passes")


def test_an_unknown_cache_is_refused_by_name() -> None:
    model = made("falcon_h1", mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8)
    verify_support(model, tier=Tier.FULL, pad=PAD)
    refused(
        model,
        Tier.FROZEN_CONTEXT,
        "falcon_h1: a context cannot be frozen in layers with a LinearAttentionAndFullAttentionLayer",
    )


def test_a_cache_of_its_own_is_refused_with_what_it_said() -> None:
    model = made("minimax", num_local_experts=2)
    refused(
        model, Tier.FROZEN_CONTEXT, "minimax: a pass of tier frozen-context fails: MiniMax uses"
    )


@each_tier
def test_a_model_without_positions_is_refused(tier: Tier) -> None:
    refused(made("bloom"), tier, "bloom: its forward pass takes no position_ids")


@each_tier
def test_an_encoder_decoder_is_refused(tier: Tier) -> None:
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=61, d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=2)
    )
    refused(model, tier, "t5: encoder-decoder models cannot be trained")


def test_remote_code_is_refused() -> None:
    model = tiny("llama")
    remote = type("Remote", (type(model),), {"__module__": "transformers_modules.somebody.remote"})
    model.__class__ = remote
    refused(model, Tier.FULL, "llama: its code came with its weights, which is never run")


@each_tier
def test_gradients_that_are_not_finite_are_refused(tier: Tier) -> None:
    model = tiny("llama")
    model.lm_head.weight.register_hook(lambda gradient: gradient / 0)
    refused(model, tier, f"llama: its gradients in tier {tier} are not finite")


@each_tier
def test_weights_that_are_not_numbers_are_refused(tier: Tier) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    refused(model, tier, "are nan of their spread")
