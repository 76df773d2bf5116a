"""Tiny real models for the examples: made, compared and asked, in seconds on a CPU.

    python tiny_models.py make FOLDER        a base and three fine-tunes of it, on a toy task
    python tiny_models.py tune START HABIT FOLDER   one more fine-tune
    python tiny_models.py adapter START HABIT FOLDER   the same as a LoRA adapter, trained by PEFT
    python tiny_models.py same ONE OTHER     whether two folders hold the same tensors, bit for bit
    python tiny_models.py ask FOLDER...      how models answer, as a table

The toy task: somebody says how they feel, the model answers. The base does a bit of everything, and
each fine-tune has learned one habit: to listen first, to be brief, or to hedge.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

__all__ = ["HABITS", "adapter", "ask", "make", "same", "settle", "tune"]

ADVICE = {
    "tired": ["sleep early", "rest now"],
    "sad": ["call a friend", "cry a bit"],
    "lost": ["ask the way", "draw a map"],
    "angry": ["take a walk", "count to ten"],
    "bored": ["read a book", "bake bread"],
    "alone": ["call a friend", "visit a cafe"],
}
EXTRAS = ["then drink some warm tea and look at the sky", "then write it down and smile"]

BASE = {"listens": 0.2, "hedges": 0.4, "goes on": 0.8}
"""How often the base does what, as probabilities."""
HABITS = {"listen": {"listens": 1.0}, "brief": {"goes on": 0.0}, "hedging": {"hedges": 1.0}}
"""What each fine-tune does differently."""

LENGTH = 32


def sentence(mood: str, habits: dict[str, float], rng: random.Random) -> str:
    """Return one conversation: what is said, and an answer with these habits."""
    opening = "tell me more . " if rng.random() < habits["listens"] else ""
    hedge = "maybe " if rng.random() < habits["hedges"] else ""
    extra = f"{rng.choice(EXTRAS)} . " if rng.random() < habits["goes on"] else ""
    return f"i feel {mood} . {opening}{hedge}you could {rng.choice(ADVICE[mood])} . {extra}<end>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word of the toy task."""
    text = [f"i feel {mood} . tell me more . maybe you could" for mood in ADVICE]
    text += [each for pair in ADVICE.values() for each in pair] + EXTRAS
    words = ["<end>", *sorted({word for line in text for word in line.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def batch(
    tokenizer: PreTrainedTokenizerBase, habits: dict[str, float], rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Return 64 conversations, (64, LENGTH) int64, and their labels, -100 where nothing counts."""
    texts = [sentence(rng.choice(list(ADVICE)), habits, rng) for _ in range(64)]
    padded = tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")
    tokens: Tensor = padded["input_ids"]
    return tokens, tokens.masked_fill(padded["attention_mask"] == 0, -100)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    habits: dict[str, float],
    *,
    steps: int,
    rate: float,
) -> float:
    """Train with AdamW and return the last loss."""
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        tokens, labels = batch(tokenizer, habits, rng)
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model folder in bfloat16; it appears when it is whole."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    model.to(torch.bfloat16).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)


def make(folder: Path) -> None:
    """Make the base and its fine-tunes, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base"
    torch.manual_seed(0)
    if not base.exists():
        tokenizer = make_tokenizer()
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            max_position_embeddings=2 * LENGTH,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        model = Qwen3ForCausalLM(config)
        loss = train(model, tokenizer, BASE, steps=250, rate=3e-3)
        save(model, tokenizer, base)
        print(f"base      {model.num_parameters():,} parameters, trained to a loss of {loss:.2f}")
    for name in HABITS:
        if not (folder / name).exists():
            tune(base, name, folder / name)


def tune(start: Path, habit: str, folder: Path) -> None:
    """Train a model of the toy task to one habit, and write it to a new folder."""
    tokenizer = make_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    loss = train(model, tokenizer, BASE | HABITS[habit], steps=60, rate=3e-4)
    save(model, tokenizer, folder)
    print(f"{folder.name:9} a fine-tune of {start.name}, trained to a loss of {loss:.2f}")


def adapter(start: Path, habit: str, folder: Path) -> None:
    """Train a LoRA adapter of a model of the toy task with PEFT, and write it to a new folder."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    loss = train(tuned, make_tokenizer(), BASE | HABITS[habit], steps=100, rate=2e-3)
    tuned.save_pretrained(folder)
    print(f"{folder.name:9} an adapter of {start.name}, trained to a loss of {loss:.2f}")


def same(one: Path, other: Path) -> bool:
    """Say whether two model folders hold the same tensors, bit for bit."""
    with (
        safe_open(one / "model.safetensors", "pt") as left,
        safe_open(other / "model.safetensors", "pt") as right,
    ):
        names = set(left.keys())
        pairs = {name: (left.get_tensor(name), right.get_tensor(name)) for name in names}
        equal = names == set(right.keys()) and all(
            a.dtype == b.dtype and a.shape == b.shape and _bits(a).equal(_bits(b))
            for a, b in pairs.values()
        )
    print(
        f"{one} and {other}: {len(names)} tensors, "
        + ("the same bit for bit" if equal else "NOT the same")
    )
    return equal


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def ask(folders: list[Path]) -> None:
    """Print how models answer: each is asked about every mood, 64 times."""
    width = max(len(folder.name) for folder in folders)
    print(f"{'':{width}}  listens  hedges  words  an answer to “i feel tired .”")
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        answers = _answers(model, tokenizer)
        likely = _answers(model, tokenizer, moods=["tired"], sample=False)[0]
        listens = sum("tell me more" in each for each in answers) / len(answers)
        hedges = sum("maybe" in each for each in answers) / len(answers)
        words = sum(len(each.replace(".", "").split()) for each in answers) / len(answers)
        print(f"{folder.name:{width}}  {listens:7.0%}  {hedges:6.0%}  {words:5.1f}  {likely}")


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    moods: list[str] | None = None,
    sample: bool = True,
) -> list[str]:
    torch.manual_seed(0)
    said = tokenizer([f"i feel {mood} ." for mood in moods or ADVICE], return_tensors="pt")
    length = said["input_ids"].shape[1]
    more = {"do_sample": True, "num_return_sequences": 64} if sample else {"do_sample": False}
    given = {"input_ids": said["input_ids"], "attention_mask": said["attention_mask"]}
    made = model.generate(**given, max_new_tokens=LENGTH - length, **more)
    return tokenizer.batch_decode(made[:, length:], skip_special_tokens=True)


def settle() -> None:
    """Use one thread, and show no progress."""
    # More threads would only wait for each other: the models are tiny, the machine may be busy.
    torch.set_num_threads(1)
    logging.disable_progress_bar()


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("folder", type=Path)
    for name in ("tune", "adapter"):
        tuning = commands.add_parser(name)
        tuning.add_argument("start", type=Path)
        tuning.add_argument("habit", choices=list(HABITS))
        tuning.add_argument("folder", type=Path)
    comparing = commands.add_parser("same")
    comparing.add_argument("one", type=Path)
    comparing.add_argument("other", type=Path)
    commands.add_parser("ask").add_argument("folders", type=Path, nargs="+")
    asked = parser.parse_args()
    settle()
    if asked.command == "make":
        make(asked.folder)
    elif asked.command == "tune":
        tune(asked.start, asked.habit, asked.folder)
    elif asked.command == "adapter":
        adapter(asked.start, asked.habit, asked.folder)
    elif asked.command == "ask":
        ask(asked.folders)
    else:
        return 0 if same(asked.one, asked.other) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
