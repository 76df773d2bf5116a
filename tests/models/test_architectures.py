"""The names and shapes that follow from a configuration are those that transformers writes."""

import json
from itertools import product

import pytest
import torch
import transformers as hf
from safetensors import safe_open

from tvc.models.architectures import ARCHITECTURES, expected_tensors, family_of

TEXT = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 6}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
SHARED = EXPERTS | {"shared_expert_intermediate_size": 10}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 6,
}
HYBRID = HEADS | DELTA | {"layer_types": ["linear_attention", "full_attention"]}
SPARSE_HYBRID = {k: v for k, v in (HYBRID | SHARED).items() if k != "intermediate_size"}
VISION = {
    "depth": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_heads": 2,
    "out_hidden_size": 16,
    "num_position_embeddings": 16,
    "patch_size": 4,
}
TOKENS = {f"{name}_token_id": 20 for name in ("image", "video", "vision_start", "vision_end")}

TIES = [{"tie_word_embeddings": tied} for tied in (False, True)]
BIASES = [{"attention_bias": bias} for bias in (False, True)]


def every(config, sizes, *choices, **fixed):
    """Return a case for each combination of choices."""
    options = [{k: v for part in parts for k, v in part.items()} for parts in product(*choices)]
    return [(config, sizes | option | fixed) for option in options]


CASES = [
    *every(hf.LlamaConfig, GROUPED, TIES, BIASES, [{"mlp_bias": b} for b in (False, True)]),
    (hf.LlamaConfig, TEXT),
    (hf.LlamaConfig, HEADS),
    *every(hf.MistralConfig, HEADS, TIES),
    (hf.MistralConfig, GROUPED),
    *every(hf.Qwen2Config, GROUPED, TIES),
    *every(hf.Qwen3Config, HEADS, TIES, BIASES),
    *every(hf.Qwen3MoeConfig, GROUPED | EXPERTS, TIES, BIASES),
    (hf.Qwen3MoeConfig, HEADS | EXPERTS | {"decoder_sparse_step": 2}),
    (hf.Qwen3MoeConfig, HEADS | EXPERTS | {"mlp_only_layers": [1]}),
    *every(hf.Qwen3NextConfig, HYBRID | SHARED, TIES, BIASES),
    (hf.Qwen3NextConfig, HEADS | SHARED | DELTA | {"num_hidden_layers": 5}),
    (hf.Qwen3NextConfig, HYBRID | SHARED | {"decoder_sparse_step": 2}),
    (hf.Qwen3NextConfig, HYBRID | SHARED | {"mlp_only_layers": [0], "linear_conv_kernel_dim": 3}),
    *every(hf.Qwen3_5TextConfig, HYBRID, TIES, BIASES),
    *every(hf.Qwen3_5MoeTextConfig, SPARSE_HYBRID, TIES),
    *every(hf.Qwen3_5Config, TOKENS, TIES, text_config=HYBRID, vision_config=VISION),
    *every(hf.Qwen3_5MoeConfig, TOKENS, TIES, text_config=SPARSE_HYBRID, vision_config=VISION),
    *every(hf.GemmaConfig, HEADS, TIES, BIASES),
    *every(hf.Gemma2Config, HEADS, TIES, BIASES),
    *every(hf.Gemma3TextConfig, HEADS, TIES, BIASES),
    (hf.BertConfig, TEXT),
    (hf.BertConfig, TEXT | {"type_vocab_size": 3}),
]
CLASSES = {
    "bert": hf.BertModel,
    "gemma": hf.GemmaForCausalLM,
    "gemma2": hf.Gemma2ForCausalLM,
    "gemma3_text": hf.Gemma3ForCausalLM,
    "llama": hf.LlamaForCausalLM,
    "mistral": hf.MistralForCausalLM,
    "qwen2": hf.Qwen2ForCausalLM,
    "qwen3": hf.Qwen3ForCausalLM,
    "qwen3_5": hf.Qwen3_5ForConditionalGeneration,
    "qwen3_5_moe": hf.Qwen3_5MoeForConditionalGeneration,
    "qwen3_5_moe_text": hf.Qwen3_5MoeForCausalLM,
    "qwen3_5_text": hf.Qwen3_5ForCausalLM,
    "qwen3_moe": hf.Qwen3MoeForCausalLM,
    "qwen3_next": hf.Qwen3NextForCausalLM,
}


def label(case):
    config, options = case
    said = [f"{k}={v}" for k, v in options.items() if isinstance(v, bool)]
    return "-".join([config.model_type, *said])


def written(folder, config_class, options):
    """Return the configuration and the shapes that transformers writes for a random model."""
    torch.manual_seed(0)
    CLASSES[config_class.model_type](config_class(**options)).save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 -- it is no dict
    return json.loads((folder / "config.json").read_text()), shapes


@pytest.mark.parametrize("case", CASES, ids=label)
def test_names_and_shapes_are_those_of_transformers(case, tmp_path):
    config, shapes = written(tmp_path, *case)
    expected = expected_tensors(config)
    assert expected is not None
    used = {name: shape for name, shape in shapes.items() if not expected.is_unused(name)}
    assert used == expected.shapes
    tied = (
        {"lm_head.weight"}
        if config.get("tie_word_embeddings") and "bert" not in str(case)
        else set()
    )
    assert set(expected.tied) == tied
    assert set(expected.tied.values()) <= set(shapes)
    for other in expected.others:
        assert len(other.shapes) <= len(shapes)
        assert sorted(other.shapes) != sorted(expected.shapes)
        assert set(other.tied.values()) <= set(other.shapes)


def test_every_known_architecture_is_compared():
    assert {cls.__name__ for cls in CLASSES.values()} == set(ARCHITECTURES)
    assert {config.model_type for config, _ in CASES} == set(CLASSES)


def test_a_configuration_without_architectures_is_known_by_its_type():
    for model_type, cls in CLASSES.items():
        assert family_of({"model_type": model_type}) == cls.__name__
    assert family_of({"model_type": "test"}) is None
    assert family_of({}) is None


def test_what_a_class_ties_by_default_is_tied_where_nothing_is_said():
    sizes = HEADS | {"architectures": ["Gemma2ForCausalLM"]}
    assert set(expected_tensors(sizes).tied) == {"lm_head.weight"}
    llama = expected_tensors(HEADS | {"architectures": ["LlamaForCausalLM"]})
    assert not llama.tied
    assert "lm_head.weight" in llama.shapes


@pytest.mark.parametrize(
    "changed",
    [
        {"architectures": ["T5ForConditionalGeneration"]},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": ["LlamaForCausalLM", "LlamaForCausalLM"]},
        {"architectures": None},
        {"quantization_config": {"quant_method": "fp8"}},
        {"hidden_size": None},
        {"hidden_size": -1},
        {"hidden_size": "16"},
        {"hidden_size": True},
        {"hidden_size": 1 << 60},
        {"num_hidden_layers": 1 << 30},
        {"num_attention_heads": 0},
        {"attention_bias": "yes"},
        {"tie_word_embeddings": 1},
    ],
    ids=str,
)
def test_what_is_not_said_is_not_guessed(changed):
    config = GROUPED | {"architectures": ["LlamaForCausalLM"]}
    assert expected_tensors(config) is not None
    assert expected_tensors(config | changed) is None


def test_experts_are_counted_before_they_are_listed():
    config = HEADS | EXPERTS | {"architectures": ["Qwen3MoeForCausalLM"]}
    assert expected_tensors(config) is not None
    assert expected_tensors(config | {"num_experts": 1 << 30}) is None
    assert expected_tensors(config | {"mlp_only_layers": 3}) is None


@pytest.mark.parametrize(
    "kinds", [["full_attention"], ["full_attention", "mamba"], "full", [[], {}]]
)
def test_layers_of_another_kind_are_not_known(kinds):
    config = HYBRID | {"architectures": ["Qwen3_5ForCausalLM"]}
    assert expected_tensors(config) is not None
    assert expected_tensors(config | {"layer_types": kinds}) is None


def test_a_tower_beyond_reason_is_not_known():
    config = TOKENS | {"text_config": HYBRID, "architectures": ["Qwen3_5ForConditionalGeneration"]}
    assert expected_tensors(config | {"vision_config": VISION}) is not None
    assert expected_tensors(config | {"vision_config": VISION | {"depth": 1 << 30}}) is None
    assert expected_tensors(config) is None
