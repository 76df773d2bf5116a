"""Steps of one tier, in a process of their own, so that their peak of memory is theirs alone.

    python -m tests.benchmarks.tier_step MODEL CONTEXT DECISIONS TIER RUNS

TIER is a tier, or `frozen-context+` for one whose decision is checkpointed. Prints as JSON: the
seconds of CPU of each step, in one thread, which other work on the machine changes little; the peak
of resident memory during the first step, above what was resident before it (the kernel's VmHWM, set
back by /proc/self/clear_refs; gradients were there before); and the bytes that the forward pass
keeps for the backward pass, weights not counted.
"""

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig, Qwen3Config, Qwen3ForCausalLM

from tvc.dialogues.example import Example
from tvc.training.tiers import Tier, decision_loss

VOCABULARY = 8192
DECISION = 64

SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
SMALL = SIZE | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 8}
DELTA = {
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
    "num_hidden_layers": 8,
}


def model_of(name: str) -> Any:
    """Return a random model: `qwen3` or `qwen3.5`, of some 35 M parameters, or `small-` before it."""
    torch.manual_seed(0)
    size = SMALL if name.startswith("small-") else SIZE
    if name.endswith("qwen3"):
        return Qwen3ForCausalLM(Qwen3Config(**size, num_hidden_layers=10)).train()
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**size | DELTA)).train()


def example_of(context: int, decisions: int) -> Example:
    """Return random tokens: a context, and decisions of 64 tokens."""
    count = context + decisions * DECISION
    tokens = tuple(torch.randint(VOCABULARY, (count,)).tolist())
    parts = [tokens[i : i + DECISION] for i in range(context, count, DECISION)]
    return Example(tokens[:context], tuple(parts), "random")


def main(name: str, context: int, decisions: int, tier: str, runs: int) -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    model = model_of(name)

    def loss(example: Example) -> torch.Tensor:
        twice = tier.endswith("+")
        chosen = Tier(tier.removesuffix("+"))
        made = decision_loss(model, [example], tier=chosen, pad=0, checkpoint_decisions=twice)
        return made.total / made.tokens

    def step(example: Example) -> float:
        began = time.process_time()
        loss(example).backward()
        return time.process_time() - began

    step(example_of(8, 1))  # makes the gradients, and loads what is loaded once
    example = example_of(context, decisions)
    ctypes.CDLL(None).malloc_trim(0)  # or what that left free would count as the model's
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    seconds = [step(example)]
    peak = _resident("VmHWM") - before
    seconds += [step(example) for _ in range(runs - 1)]
    kept = _kept(model, lambda: loss(example))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = {"seconds": seconds, "peak": peak, "kept": kept, "parameters": parameters}
    print(json.dumps(found))


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _kept(model: Any, forward: Any) -> int:
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = forward()  # held, so that no storage is freed and its address used again
    del graph
    return sum(sizes.values())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
