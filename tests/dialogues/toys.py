"""Tiny models that can chat: a tokenizer of whole words, a template, and a folder with weights."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

SPECIAL = ("<pad>", "<unk>", "<bos>", "<end>", "<system>", "<user>", "<assistant>", "<tool>")
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %} <{{ message['role'] }}> {{ message['content'] }} <end>"
    "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
)
WORDS = (
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "yes",
    "no",
    "ok",
    "lets",
    "go",
    "sell",
    "buy",
    "the",
    "red",
    "blue",
    "boat",
    "house",
)


def word_tokenizer(
    words: Iterable[str] = WORDS, chat_template: str | None = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words between spaces; unknown words are `<unk>`."""
    names = dict.fromkeys([*SPECIAL, *words])
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(names)}, "<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<end>",
        additional_special_tokens=list(SPECIAL[4:]),
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def toy_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> Qwen3ForCausalLM:
    """A Qwen3 of a few thousand parameters with random weights that are far from uniform."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def toy_hybrid(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> Qwen3NextForCausalLM:
    """A Qwen3-Next, three of whose four layers are gated delta nets."""
    torch.manual_seed(seed)
    config = Qwen3NextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen3NextForCausalLM(config).eval()


def toy_folder(
    folder: Path,
    *,
    words: Iterable[str] = WORDS,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
) -> Path:
    """Write a model folder with tokenizer and template, as `save_pretrained` does."""
    tokenizer = word_tokenizer(words, chat_template)
    toy_model(tokenizer, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
