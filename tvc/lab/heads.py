"""Where each head's weights lie, and what each head adds to the stream.

Heads of attention (q, k, v and o projections; grouped keys and values have heads of their own) and
of gated delta nets. Absent: models, and what changed them.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tvc.domain.errors import InputError

__all__ = ["HeadLayer", "NoHeads", "Part", "added", "head_layers", "listening", "relative_changes"]

_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")


class NoHeads(InputError):
    """A model has no heads that are known."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a parameter that belongs to one head.

    Args:
        parameter: Name in the model.
        dim: Along which it is cut, 0 or 1.
        start: First index.
        stop: Behind the last.
        kind: What it does: q, k, v, o, and others.
        head: Number of the head, among those of its kind.
    """

    parameter: str
    dim: int
    start: int
    stop: int
    kind: str
    head: int


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """The heads of one layer.

    Args:
        layer: Its number.
        kind: `attention` or `gated delta net`.
        heads: Heads that have an output of their own.
        parts: All parts of their weights.
        output: The module whose input is the heads' outputs side by side.
    """

    layer: int
    kind: str
    heads: int
    parts: tuple[Part, ...]
    output: nn.Linear

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return f"{self.layer} {'delta' if self.kind != 'attention' else 'attention'}"


def head_layers(model: PreTrainedModel) -> list[HeadLayer]:
    """Return the layers of a model that have heads, in order.

    Raises:
        NoHeads: None has heads whose weights can be told apart.
    """
    found: list[HeadLayer] = []
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    for name, module in named:
        if type(module).__name__.endswith("GatedDeltaNet"):
            found.append(_delta_layer(name, module))
        elif _is_attention(module):
            found.append(_attention_layer(name, module))
    if not found:
        raise NoHeads(
            f"{model.config.model_type} has no layers with separate q, k, v and o projections",
            hint="fused projections are not taken apart",
        )
    return sorted(found, key=lambda each: each.layer)


def _is_attention(module: nn.Module) -> bool:
    projected = all(isinstance(getattr(module, each, None), nn.Linear) for each in _PROJECTIONS)
    return projected and hasattr(module, "head_dim") and hasattr(module, "layer_idx")


def _attention_layer(name: str, module: Any) -> HeadLayer:
    width: int = module.head_dim
    heads, groups = module.o_proj.in_features // width, module.k_proj.out_features // width
    # A gated attention's rows are a head's queries and then its gates.
    parts = [*_rows(name, module, "q_proj", [("q", heads, module.q_proj.out_features // heads)])]
    parts += _rows(name, module, "k_proj", [("k", groups, width)])
    parts += _rows(name, module, "v_proj", [("v", groups, width)])
    parts += _stretches(f"{name}.o_proj.weight", 1, [("o", heads, width)])
    return HeadLayer(module.layer_idx, "attention", heads, tuple(parts), module.o_proj)


def _delta_layer(name: str, module: Any) -> HeadLayer:
    keys, values = module.num_k_heads, module.num_v_heads
    wide, high = module.head_k_dim, module.head_v_dim
    mixed = [("q", keys, wide), ("k", keys, wide), ("v", values, high)]
    parts: list[Part] = []
    if hasattr(module, "in_proj_qkvz"):
        each = values // keys
        parts += _grouped(
            f"{name}.in_proj_qkvz.weight",
            keys,
            [("q", 1, wide), ("k", 1, wide), ("v", each, high), ("z", each, high)],
        )
        parts += _grouped(f"{name}.in_proj_ba.weight", keys, [("b", each, 1), ("a", each, 1)])
    else:
        parts += _stretches(f"{name}.in_proj_qkv.weight", 0, mixed)
        for kind, width in (("z", high), ("b", 1), ("a", 1)):
            parts += _stretches(f"{name}.in_proj_{kind}.weight", 0, [(kind, values, width)])
    convolved = [(f"conv {kind}", count, width) for kind, count, width in mixed]
    parts += _stretches(f"{name}.conv1d.weight", 0, convolved)
    for kind in ("A_log", "dt_bias"):
        parts += _stretches(f"{name}.{kind}", 0, [(kind, values, 1)])
    parts += _stretches(f"{name}.out_proj.weight", 1, [("o", values, high)])
    return HeadLayer(module.layer_idx, "gated delta net", values, tuple(parts), module.out_proj)


_Kinds = list[tuple[str, int, int]]
"""Kind, how many heads, and how wide each is, in the order in which they lie."""


def _rows(name: str, module: Any, projection: str, kinds: _Kinds) -> Iterator[Part]:
    yield from _stretches(f"{name}.{projection}.weight", 0, kinds)
    if getattr(module, projection).bias is not None:
        yield from _stretches(f"{name}.{projection}.bias", 0, kinds)


def _stretches(
    parameter: str, dim: int, kinds: _Kinds, *, first: int = 0, group: int = 0
) -> Iterator[Part]:
    """Yield the heads' parts of a parameter, one behind the other."""
    at = first
    for kind, count, width in kinds:
        for head in range(count):
            yield Part(parameter, dim, at, at + width, kind, group * count + head)
            at += width


def _grouped(parameter: str, groups: int, kinds: _Kinds) -> Iterator[Part]:
    """Yield the parts of rows in which each group of heads has all kinds side by side."""
    size = sum(count * width for _, count, width in kinds)
    for group in range(groups):
        yield from _stretches(parameter, 0, kinds, first=group * size, group=group)


def relative_changes(
    layer: HeadLayer, weights: Mapping[str, Tensor], change: Mapping[str, Tensor]
) -> dict[str, list[float]]:
    """Return how much each head's weights changed: length of the change over that of the weights.

    Args:
        layer: Whose heads.
        weights: By name of parameter.
        change: Differences by name; what is not there did not change.

    Returns:
        For each kind of weight, a number for each of its heads, 0 or more.
    """
    squares: dict[tuple[str, int], list[float]] = {}
    for part in layer.parts:
        total = squares.setdefault((part.kind, part.head), [0.0, 0.0])
        for place, tensors in enumerate((change, weights)):
            if part.parameter in tensors:
                total[place] += _square(tensors[part.parameter], part)
    found: dict[str, list[float]] = {}
    for (kind, _), (changed, whole) in sorted(squares.items()):
        found.setdefault(kind, []).append((changed / whole) ** 0.5 if whole else 0.0)
    return found


def _square(tensor: Tensor, part: Part) -> float:
    piece = tensor.narrow(part.dim, part.start, part.stop - part.start)
    return float(piece.double().square().sum())


@contextmanager
def listening(layers: list[HeadLayer], hear: Callable[[int, Tensor], None]) -> Generator[None]:
    """Tell what heads say before they are mixed, in every forward pass while the context lasts.

    Args:
        layers: Whose.
        hear: Told of the place in `layers` and of the heads' outputs side by side,
            (rows, length, heads * width).
    """

    def told(place: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, inputs: hear(place, inputs[0])

    handles = [
        each.output.register_forward_pre_hook(told(place)) for place, each in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def added(said: Tensor, output: Tensor, heads: int) -> Tensor:
    """Return what each head adds to the stream.

    Args:
        said: The heads' outputs side by side, (tokens, heads * width).
        output: The weight that mixes them, (hidden, heads * width).
        heads: How many.

    Returns:
        (tokens, heads, hidden); summed over heads it is `said @ output.T`.
    """
    width = said.shape[-1] // heads
    return torch.einsum(
        "thw,dhw->thd", said.unflatten(-1, (heads, width)), output.unflatten(-1, (heads, width))
    )
