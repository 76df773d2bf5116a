"""Trains the tiny model from scratch, and writes the data of the story.

    python pretrain.py FOLDER [--short]

FOLDER/base is a hybrid as Qwen3.5's models are, gated-delta-net layers and full attention in turns,
of 0.7 million parameters; beside it lie the data to train and to measure behaviours with. Absent:
behaviours, which `tvc train` teaches (../08_behaviours.sh).
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random

import language
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3_5ForCausalLM, Qwen3_5TextConfig
from transformers.utils import logging

__all__ = ["make_model", "make_tokenizer", "pretrain", "write_data"]

BATCH = 48
RATE = 2e-3
WARMUP = 20
DECAY = 0.4
"""Of the learning rate: steps in which it rises, and the share of all in which it falls to 0."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word, and the chat template."""
    words = {word: number for number, word in enumerate(language.vocabulary())}
    inner = Tokenizer(WordLevel(words, "<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<end>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
    )
    tokenizer.chat_template = language.TEMPLATE
    return tokenizer


def make_model() -> Qwen3_5ForCausalLM:
    """Return a hybrid with random weights."""
    torch.manual_seed(0)
    words = language.vocabulary()
    config = Qwen3_5TextConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=words.index("<bos>"),
        eos_token_id=words.index("<end>"),
        pad_token_id=words.index("<pad>"),
    )
    return Qwen3_5ForCausalLM(config)


def batch(ids: dict[str, int], rng: Random) -> tuple[Tensor, Tensor]:
    """Return documents, (BATCH, length) int64, and labels, -100 where nothing counts."""
    documents = [list(language.rendered(language.document(rng))) for _ in range(BATCH)]
    width = max(map(len, documents))
    tokens = torch.full((BATCH, width), ids["<pad>"])
    labels = torch.full((BATCH, width), -100)
    for row, words in enumerate(documents):
        known = torch.tensor([ids[word] for word, _ in words])
        tokens[row, : len(words)] = known
        said = torch.tensor([mine for _, mine in words])
        labels[row, : len(words)] = known.where(said, torch.tensor(-100))
    return tokens, labels


def pretrain(folder: Path, *, steps: int) -> None:
    """Train a model from scratch and write its folder, which appears when it is whole."""
    tokenizer = make_tokenizer()
    ids = {word: number for number, word in enumerate(language.vocabulary())}
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1.0, (steps - step) / (DECAY * steps))
    )
    rng, began, loss = Random(0), time.monotonic(), torch.tensor(0.0)
    for step in range(1, steps + 1):
        tokens, labels = batch(ids, rng)
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            print(f"  step {step}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
    print(
        f"base: {model.num_parameters():,} parameters, {steps} steps of {BATCH} documents, "
        f"loss {loss.item():.2f}"
    )
    print(f"  ({time.monotonic() - began:.0f} s)", file=sys.stderr)


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prompt(rng: Random, *, held_out: bool = False) -> dict[str, object]:
    """Return a row that has no answer yet."""
    asked = str(language.proposal(rng, held_out=held_out))
    return {"messages": [{"role": "user", "content": asked}]}


def write_data(folder: Path, *, proposals: int, prompts: int) -> None:
    """Write what behaviours are trained on, and what they are measured with."""
    here, rng = Path(__file__).parent, Random(1)
    for name in ("language.py", "rates.toml", "control.toml"):
        shutil.copy(here / name, folder / name)
    write_lines(folder / "proposals.jsonl", (prompt(rng) for _ in range(proposals)))
    write_lines(folder / "general.jsonl", (language.general_row(rng) for _ in range(512)))
    held_out = [prompt(rng, held_out=True) for _ in range(prompts)]
    write_lines(folder / "held_out.jsonl", held_out)
    others = [language.general_row(rng, held_out=True) for _ in range(prompts)]
    write_lines(folder / "general_held_out.jsonl", others)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the tiny model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--short", action="store_true", help="train less, and ask fewer prompts")
    asked = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.short:
        write_data(asked.folder, proposals=192, prompts=64)
        pretrain(asked.folder / "base", steps=220)
    else:
        write_data(asked.folder, proposals=384, prompts=256)
        pretrain(asked.folder / "base", steps=600)


if __name__ == "__main__":
    main()
