"""Tiny random models of each kind that vLLM serves, written by transformers itself.

Head sizes are ones that vLLM's attention has on a CPU, and gated delta nets have the only one that
its kernels work with there. Weights are large enough that the next token is no toss-up.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

__all__ = ["MAKERS", "VOCABULARY", "open_model", "write_tiny", "write_tuned"]

VOCABULARY: Final = 256

_SIZE: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TEXT: Final = _SIZE | {"num_key_value_heads": 2, "head_dim": 32}
_EXPERTS: Final[dict[str, Any]] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
_DELTA: Final[dict[str, Any]] = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "initializer_range": 0.1,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "head_dim": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_VISION: Final[dict[str, Any]] = {
    "depth": 1,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 128,
    "num_position_embeddings": 16,
}


def _llama(**options: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_TEXT | options))


def _mistral(**options: Any) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**_TEXT | {"sliding_window": None} | options))


def _qwen2(**options: Any) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_SIZE | {"num_key_value_heads": 2} | options))


def _qwen3(**options: Any) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**_TEXT | options))


def _qwen3_moe(**options: Any) -> PreTrainedModel:
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**_TEXT | _EXPERTS | options))


def _qwen3_next(**options: Any) -> PreTrainedModel:
    shared = {"shared_expert_intermediate_size": 64}
    return Qwen3NextForCausalLM(Qwen3NextConfig(**_SIZE | _EXPERTS | shared | _DELTA | options))


def _qwen3_5(**options: Any) -> PreTrainedModel:
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**_SIZE | _DELTA | options))


def _qwen3_5_vision(**options: Any) -> PreTrainedModel:
    config = Qwen3_5Config(
        text_config=_SIZE | _DELTA | options,
        vision_config=_VISION,
        image_token_id=252,
        video_token_id=253,
        vision_start_token_id=254,
        vision_end_token_id=255,
        **options,
    )
    return Qwen3_5ForConditionalGeneration(config)


def _gemma3(**options: Any) -> PreTrainedModel:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
    scale = {"query_pre_attn_scalar": 32}
    return Gemma3ForCausalLM(Gemma3TextConfig(**_TEXT | layers | scale | options))


def _bert(**options: Any) -> PreTrainedModel:
    return BertModel(BertConfig(**_SIZE | options))


MAKERS: Final[Mapping[str, Callable[..., PreTrainedModel]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3-moe": _qwen3_moe,
    "qwen3-next": _qwen3_next,
    "qwen3.5": _qwen3_5,
    "qwen3.5-vision": _qwen3_5_vision,
    "gemma3": _gemma3,
    "bert": _bert,
}
"""Kind → makes a random model of it; options are those of the configuration."""


CLASSES: Final[Mapping[str, type[PreTrainedModel]]] = {
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "qwen3-moe": Qwen3MoeForCausalLM,
    "qwen3-next": Qwen3NextForCausalLM,
    "qwen3.5": Qwen3_5ForCausalLM,
    "qwen3.5-vision": Qwen3_5ForConditionalGeneration,
    "gemma3": Gemma3ForCausalLM,
    "bert": BertModel,
}
"""Kind → the class that its config.json names."""

_IMAGES: Final[dict[str, Any]] = {
    "preprocessor_config.json": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 1024, "longest_edge": 4096},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "video_preprocessor_config.json": {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 1024, "longest_edge": 4096},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
}


def write_tiny(
    folder: Path, kind: str, *, dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """Write a random model of a kind.

    Args:
        folder: Where.
        kind: A key of `MAKERS`.
        dtype: Of its weights.
        options: Settings of its configuration that differ from those above.
    """
    torch.manual_seed(1)
    model = MAKERS[kind](**options)
    spread(model, seed=2, scale=0.05)
    save(model.to(dtype), folder)
    return folder


def spread(model: PreTrainedModel, *, seed: int, scale: float) -> None:
    """Add normal noise to every weight: norms and biases that are all 1 or 0 hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += (scale * noise).to(parameter.dtype)


def write_tuned(base: Path, folder: Path, kind: str, *, seed: int, scale: float = 0.02) -> Path:
    """Write a fine-tune of a model: every weight moved a little, at random."""
    model = open_model(base, kind, dtype="auto")
    spread(model, seed=seed, scale=scale)
    save(model, folder)
    return folder


def open_model(folder: Path, kind: str, *, dtype: torch.dtype | str) -> PreTrainedModel:
    """Load a model with transformers as the class that it is, to compute with in `dtype`."""
    cls: Any = CLASSES[kind]
    return cls.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a model with what vLLM wants beside: a tokenizer, and how images are cut up."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if "vision_config" in model.config.to_dict():
        for name, text in _IMAGES.items():
            (folder / name).write_text(json.dumps(text))


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words: `w7` is 7, but for the few that are special."""
    words = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>"])}
    words |= {f"w{number}": number for number in range(4, 252)}
    images = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    words |= {word: 252 + number for number, word in enumerate(images)}
    raw = Tokenizer(WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=images,
    )
