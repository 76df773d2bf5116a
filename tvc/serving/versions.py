"""The versions of vLLM that tvc's plugin was tried with; apart, so that it imports nothing."""

from typing import Final

__all__ = ["SUPPORTED", "TRIED", "is_supported"]

SUPPORTED: Final = ("0.31", "0.32", "0.33")
"""Served on a CPU: 0.31.0 and 0.32.0. Of 0.33.0 loading and changing weights, without a server."""


TRIED: Final = frozenset({
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen3NextForCausalLM",
    "Qwen3_5ForCausalLM",
    "Qwen3_5ForConditionalGeneration",
})  # fmt: skip
"""Architectures that were changed while they were served, and said what a fresh load says.

Of others vLLM may compute with something that it made of the weights when it loaded them (as of the
latent projections of DeepSeek's attention): a change would read back well there, and do nothing.
"""


def is_supported(version: str) -> bool:
    """Say whether a version of vLLM was tried."""
    return ".".join(version.split(".")[:2]) in SUPPORTED
