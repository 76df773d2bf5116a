"""What a frozen context should give, computed in one pass without freezing anything in advance.

One full forward pass, in which everything that later tokens take from the context is detached where
they take it: keys and values; inputs of the convolution; and what the gated delta rule makes its
state of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, LinearAttentionLayer
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe
from transformers.models.qwen3_next import modeling_qwen3_next

from tvc.dialogues.example import Example

_DELTA_RULES = (modeling_qwen3_5, modeling_qwen3_5_moe, modeling_qwen3_next)


def whole_logits(model: Any, context: tuple[int, ...], decision: tuple[int, ...]) -> Tensor:
    """Return what predicts a decision's tokens, by a plain pass over all tokens: (tokens, vocabulary)."""
    tokens = torch.tensor([context + decision])
    return model(input_ids=tokens, use_cache=False).logits[0, len(context) - 1 : -1]


def detached_loss(model: Any, example: Example) -> Tensor:
    """Return the loss of all decisions, with all of the context but its last token detached."""
    total = torch.zeros(())
    frozen = len(example.context) - 1
    for decision in example.decisions:
        tokens = torch.tensor([example.context + decision[:-1]])
        with _detached_delta_rule(frozen):
            output = model(input_ids=tokens, past_key_values=_detaching(model, frozen))
        logits = output.logits[0, frozen:]
        total = total + functional.cross_entropy(logits, torch.tensor(decision), reduction="sum")
    return total


def _start_detached(tensor: Tensor, frozen: int, dim: int) -> Tensor:
    parts = tensor.tensor_split([frozen], dim=dim)
    return torch.cat([parts[0].detach(), parts[1]], dim=dim)


class _Passing(CacheLayerMixin):
    """Holds nothing, and gives keys and values back with their first tokens detached."""

    def __init__(self, frozen: int, *, sliding: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self.is_sliding = sliding

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (_start_detached(each, self.frozen, -2) for each in (key_states, value_states))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    def lazy_initialization(self, *args: Any) -> None: ...


class _PassingLinear(LinearAttentionLayer):
    def __init__(self, frozen: int) -> None:
        super().__init__()
        self.frozen = frozen

    def update_conv_state(self, conv_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _start_detached(conv_states, self.frozen, -1)

    def update_recurrent_state(self, recurrent_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return recurrent_states


def _detaching(model: Any, frozen: int) -> Cache:
    layers = DynamicCache(config=model.config).layers
    return Cache(
        layers=[
            _PassingLinear(frozen)
            if isinstance(layer, LinearAttentionLayer)
            else _Passing(frozen, sliding=layer.is_sliding)
            for layer in layers
        ]
    )


@contextmanager
def _detached_delta_rule(frozen: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in _DELTA_RULES:
            rule = module.torch_chunk_gated_delta_rule
            patch.setattr(module, "torch_chunk_gated_delta_rule", _detached_rule(rule, frozen))
        yield


def _detached_rule(rule: Any, frozen: int) -> Any:
    def detached(q: Tensor, k: Tensor, v: Tensor, *, g: Tensor, beta: Tensor, **kwargs: Any) -> Any:
        q, k, v, g, beta = (_start_detached(each, frozen, 1) for each in (q, k, v, g, beta))
        return rule(q, k, v, g=g, beta=beta, **kwargs)

    return detached
