"""A context that was encoded before: keys, values and states that are read and never written.

transformers' own caches grow with every use, write over what autograd saved, and keep a graph alive
between steps. A `Prefix` does none of this: each use starts from the same context, so that one
context serves several decisions, and a checkpointed layer may ask twice.

Absent: encoding the context, and what is computed on top of it (tvc/training/tiers.py).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, cache_utils
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from tvc.domain.errors import InputError

__all__ = ["Prefix", "UnsupportedModel", "freeze", "new_cache"]


class UnsupportedModel(InputError):
    """A model is of a kind that this way of training is not known to be right for."""


class Prefix(Cache):
    """A cache of a context, for reading.

    Its layers answer like those of a cache that holds the context, whatever was asked before.
    """


class _Attention(DynamicLayer):
    """Keys and values of full attention, each (contexts, heads, length, width)."""

    def __init__(self, layer: DynamicLayer, rows: Tensor | None) -> None:
        super().__init__()
        self.keys: Tensor = _stored(layer.keys)
        self.values: Tensor = _stored(layer.values)
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True
        self._rows = rows

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the context's keys and values with those of the new tokens behind them."""
        # Repeated only here: what attention saves is the only repetition that is kept.
        keys, values = (_chosen(each, self._rows) for each in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class _Sliding(_Attention):
    """The keys and values that a window still sees: the last `window - 1` of the context."""

    is_sliding = True

    def __init__(self, layer: DynamicSlidingWindowLayer, rows: Tensor | None) -> None:
        super().__init__(layer, rows)
        # Of their own: a view would keep the whole context's alive.
        self.keys, self.values = self.keys.clone(), self.values.clone()
        self._length = layer.get_seq_length()

    def get_seq_length(self) -> int:
        """Return the tokens of the context, also those that the window has passed."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys `update` returns, and the position of the first of them."""
        kept = self.keys.shape[-2]
        return kept + query_length, self._length - kept


class _Linear(LinearAttentionLayer):
    """The inputs that a convolution still sees, and the state of the recurrence."""

    def __init__(self, layer: LinearAttentionLayer, rows: Tensor | None) -> None:
        super().__init__(number_of_states=layer.number_of_states)
        self._inputs = {i: _chosen(_stored(x), rows) for i, x in layer.conv_states.items()}
        self.conv_states = {**self._inputs}
        # Convolutions without a recurrence have none.
        self.recurrent_states = {
            i: None if x is None else _chosen(x, rows) for i, x in layer.recurrent_states.items()
        }
        self.conv_kernel_size = dict(layer.conv_kernel_size)
        self.is_conv_states_initialized = dict(layer.is_conv_states_initialized)
        self.is_recurrent_states_initialized = dict(layer.is_recurrent_states_initialized)
        self.has_previous_state = dict(layer.has_previous_state)
        self.dtype, self.device = layer.dtype, layer.device
        # Models ask this, and keep off the convolution that writes into the state it was given.
        self.record_past = True

    def update_conv_state(
        self,
        conv_states: Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,  # noqa: ARG002 (known since the context)
        **_kwargs: Any,
    ) -> Tensor:
        """Return the inputs that the convolution still sees with the new ones behind them."""
        return torch.cat([self._inputs[state_idx], conv_states], dim=-1)

    def update_recurrent_state(
        self,
        recurrent_states: Tensor,
        state_idx: int = 0,  # noqa: ARG002 (nothing is stored)
        **_kwargs: Any,
    ) -> Tensor:
        """Return what was given, and forget it."""
        return recurrent_states


# By the exact class of transformers' layer: a subclass may hold more than these know of.
_LAYERS: Final[dict[type, Callable[[Any, Tensor | None], Any]]] = {
    DynamicLayer: _Attention,
    DynamicSlidingWindowLayer: _Sliding,
    LinearAttentionLayer: _Linear,
}
if hasattr(cache_utils, "DummyLayer"):  # of layers without attention, since 5.23: it holds nothing
    _LAYERS[cache_utils.DummyLayer] = lambda layer, _rows: layer


def new_cache(config: PretrainedConfig) -> DynamicCache:
    """Return an empty cache for contexts, all of whose layers can be frozen.

    Raises:
        UnsupportedModel: A layer is of another kind than full attention, sliding windows or linear
            attention.
    """
    try:
        cache = DynamicCache(config=config)
    except KeyError as error:
        _unfreezable(config, f"layers of kind {error}, which have no known cache")
    for layer in cast("list[Any]", cache.layers):
        if layer.__class__ not in _LAYERS:
            _unfreezable(config, f"layers with a {layer.__class__.__name__}")
    return cache


def freeze(cache: DynamicCache, *, rows: Sequence[int]) -> Prefix:
    """Return what a cache holds, for reading, with its contexts repeated.

    Args:
        cache: Made by `new_cache`, filled by one forward pass without gradient, and not used
            after this.
        rows: For each row of the batch that will read it, the row of its context in the cache;
            each of these at least once.

    Raises:
        UnsupportedModel: The model left a layer of the cache empty.
    """
    chosen = None if list(rows) == list(range(len(rows))) else torch.tensor(rows)
    layers = cast("list[Any]", cache.layers)
    return Prefix(layers=[_LAYERS[layer.__class__](layer, chosen) for layer in layers])


def _unfreezable(config: PretrainedConfig, what: str) -> NoReturn:
    raise UnsupportedModel(
        f"{config.model_type}: a context cannot be frozen in {what}",
        hint="--tier full and --tier checkpointed need no cache",
    )


def _stored(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise UnsupportedModel("its forward pass leaves layers of its cache empty")
    return tensor


def _chosen(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows.to(tensor.device))
