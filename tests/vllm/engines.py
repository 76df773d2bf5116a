"""What a model says, by vLLM and by transformers: every log-probability, at every position.

An engine is a fresh load of a folder in this process. The first costs the import of vLLM and a look
at the model's class, later ones seconds, so every model of these tests is loaded anew.
"""

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import makers
import torch

__all__ = [
    "PROMPTS",
    "divergence",
    "embedded",
    "fresh_engine",
    "generated",
    "in_checkpoint",
    "loaded_values",
    "pooled",
    "recomputed",
]

PROMPTS = ([1, 17, 95, 4, 201], [1] + [4 + (37 * n * n + 11 * n) % 240 for n in range(40)])
"""A short and a long one, as token ids."""

GENERATED = 8
"""Tokens that are generated after a prompt."""


@contextmanager
def fresh_engine(folder: Path, **options: Any) -> Generator[Any]:
    """Yield vLLM with a model that it loaded from a folder just now, and let go of it."""
    from vllm import LLM

    usual: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 128,
        "max_num_seqs": 4,
        "max_logprobs": -1,
        "enable_prefix_caching": False,
        "disable_log_stats": True,
    }
    engine = LLM(model=str(folder), **usual | options)
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


def generated(engine: Any) -> list[tuple[list[int], torch.Tensor]]:
    """Let vLLM go on with each prompt, greedily.

    Returns:
        Per prompt, all its tokens, and [tokens - 1, vocabulary] the log-probabilities of the next
        one, F64.
    """
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=GENERATED, logprobs=-1, prompt_logprobs=-1, ignore_eos=True
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    found = []
    for prompt, said in zip(
        PROMPTS, engine.generate(prompts, sampling, use_tqdm=False), strict=True
    ):
        rows = [*said.prompt_logprobs[1:], *said.outputs[0].logprobs]
        found.append(([*prompt, *said.outputs[0].token_ids], torch.stack([_row(r) for r in rows])))
    return found


def _row(said: dict[int, Any]) -> torch.Tensor:
    return torch.tensor(
        [said[token].logprob for token in range(makers.VOCABULARY)], dtype=torch.float64
    )


def recomputed(
    folder: Path, kind: str, texts: Sequence[list[int]], *, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """Return what transformers says of the same tokens: [tokens - 1, vocabulary], F64."""
    model = makers.open_model(folder, kind, dtype=dtype)
    with torch.inference_mode():
        return [
            model(torch.tensor([text])).logits[0, :-1].double().log_softmax(-1) for text in texts
        ]


def divergence(exact: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean over positions of KL(exact ‖ other), in nats; both are log-probabilities."""
    return (exact.exp() * (exact - other)).sum(-1).mean().item()


def embedded(engine: Any) -> torch.Tensor:
    """Return vLLM's embeddings of the prompts, [prompts, hidden size], F64."""
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    found = engine.embed(prompts, use_tqdm=False)
    return torch.tensor([one.outputs.embedding for one in found], dtype=torch.float64)


def pooled(folder: Path, kind: str) -> torch.Tensor:
    """Return transformers' embeddings of the prompts: the first token's state, of length 1."""
    model = makers.open_model(folder, kind, dtype=torch.float32)
    with torch.inference_mode():
        states = [model(torch.tensor([p])).last_hidden_state[0, 0].double() for p in PROMPTS]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1)


def loaded_values(engine: Any) -> dict[str, torch.Tensor]:
    """Return every parameter that vLLM loaded by vLLM's name, but experts, which it may pack.

    Linear layers are packed on some processors, and the original freed; what they hold is read back
    by multiplying with the identity, which rounds nothing.
    """
    (found,) = engine.apply_model(_values)
    return found


def _values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for at, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            value = parameter.detach()
            if ".experts." in f".{at}.":
                continue
            if hasattr(module, "_cpu_unpacked_conv_weight"):
                value = module._cpu_unpacked_conv_weight
            elif name == "weight" and hasattr(module, "cpu_linear"):
                identity = torch.eye(module.input_size, dtype=value.dtype)
                bias = getattr(module, "bias", None)
                unbiased = torch.zeros_like(bias) if isinstance(bias, torch.Tensor) else None
                value = module.cpu_linear(identity, module.weight, unbiased).T
            found[f"{at}.{name}"] = value.clone()
    return found


_PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
_PREFIXES = {"language_model.model.": "model.language_model.", "visual.": "model.visual."}


def in_checkpoint(name: str, checkpoint: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what a parameter of vLLM should hold: a tensor of a file, or several one on another."""
    name = name.replace("language_model.lm_head.", "lm_head.")
    for ours, theirs in _PREFIXES.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    if name in checkpoint:
        return checkpoint[name]
    if name == "lm_head.weight":
        (table,) = (name for name in checkpoint if name.endswith("embed_tokens.weight"))
        return checkpoint[table]
    at, module, kind = name.rsplit(".", 2)
    return torch.cat([checkpoint[f"{at}.{part}.{kind}"] for part in _PARTS[module]])
