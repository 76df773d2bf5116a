"""The tensors of the parts that models are made of, and how sizes are read from a `config.json`.

Nothing in a configuration is trusted: a size that is left out, no number, or beyond any model, ends
the naming (`Unsaid`), because a guess would name tensors that are not there. Absent on purpose:
which model has which parts (architectures.py), and values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

__all__ = [
    "AROUND",
    "SANDWICH",
    "Reading",
    "Shape",
    "Shapes",
    "Unsaid",
    "attention",
    "decoder",
    "delta_net",
    "experts",
    "linear",
    "mlp",
    "vision_tower",
]

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
"""Tensor name → shape."""

_MOST_MODULES: Final = 100_000
"""More layers times experts than any model has: a configuration that says more is not believed."""


class Unsaid(Exception):
    """A configuration leaves something out, or says what makes no sense."""


@dataclass(frozen=True)
class Reading:
    """One level of a `config.json`, read with the defaults that its class has in transformers."""

    said: Mapping[str, Any]

    def size(self, key: str, default: int | None = None) -> int:
        """Return a count; where it is left out, or null, `default`."""
        value = self.said.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
            raise Unsaid(key)
        return value

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return a choice; where it is left out, or null, `default`."""
        value = self.said.get(key)
        if value is not None and not isinstance(value, bool):
            raise Unsaid(key)
        return default if value is None else value

    def items(self, key: str) -> list[Any]:
        """Return a list; where it is left out, or null, an empty one."""
        value = self.said.get(key)
        if value is not None and not isinstance(value, list):
            raise Unsaid(key)
        return cast("list[Any]", value or [])

    def inner(self, key: str) -> "Reading":
        """Return the configuration of a part."""
        value = self.said.get(key)
        if not isinstance(value, dict):
            raise Unsaid(key)
        return Reading(cast("dict[str, Any]", value))

    @property
    def hidden(self) -> int:
        """The size of a hidden state."""
        return self.size("hidden_size")

    @property
    def heads(self) -> int:
        """The number of queries at a position."""
        return self.size("num_attention_heads")

    @property
    def experts(self) -> int:
        """The number of experts, by either of the names that transformers has given it."""
        return self.size("num_experts" if "num_experts" in self.said else "num_local_experts")

    def layers(self, modules_each: int = 1) -> range:
        """Return the numbers of the layers, if so many modules in each are not beyond reason."""
        count = self.size("num_hidden_layers")
        if count * modules_each > _MOST_MODULES:
            raise Unsaid("num_hidden_layers")
        return range(count)


def linear(at: str, out: int, into: int, *, bias: bool = False) -> Shapes:
    """Name the tensors of a matrix product, with the sizes that come out and go in."""
    weight = {f"{at}.weight": (out, into)}
    return weight | {f"{at}.bias": (out,)} if bias else weight


def attention(
    c: Reading,
    at: str,
    *,
    bias: bool = False,
    out_bias: bool = False,
    head_dim: int | None = None,
    default_heads: int | None = None,
    norms: bool = False,
    gated: bool = False,
) -> Shapes:
    """Name the tensors of softmax attention.

    Args:
        c: The configuration.
        at: The module.
        bias: Of queries, keys and values.
        out_bias: Of the output.
        head_dim: What it is where the configuration does not say; None for hidden size ÷ heads.
        default_heads: Key heads where it does not say; None for as many as there are queries.
        norms: Whether queries and keys have a norm each.
        gated: Whether queries bring a gate of their size.
    """
    if head_dim is None and c.said.get("head_dim") is None and not c.heads:
        raise Unsaid("num_attention_heads")
    dim = c.size("head_dim", head_dim if head_dim is not None else c.hidden // max(c.heads, 1))
    width = c.heads * dim
    keys = c.size("num_key_value_heads", default_heads or c.heads) * dim
    found = linear(f"{at}.q_proj", width * (2 if gated else 1), c.hidden, bias=bias)
    for name in ("k_proj", "v_proj"):
        found |= linear(f"{at}.{name}", keys, c.hidden, bias=bias)
    found |= linear(f"{at}.o_proj", c.hidden, width, bias=out_bias)
    if norms:
        found |= {f"{at}.q_norm.weight": (dim,), f"{at}.k_norm.weight": (dim,)}
    return found


def mlp(c: Reading, at: str, width: int, *, bias: bool = False) -> Shapes:
    """Name the tensors of a gated perceptron of a width."""
    return (
        linear(f"{at}.gate_proj", width, c.hidden, bias=bias)
        | linear(f"{at}.up_proj", width, c.hidden, bias=bias)
        | linear(f"{at}.down_proj", c.hidden, width, bias=bias)
    )


def experts(c: Reading, at: str, *, shared: bool, fused: bool = False) -> Shapes:
    """Name the tensors of a mixture of experts, with one that is shared, or all in one tensor."""
    count, width = c.experts, c.size("moe_intermediate_size")
    found = linear(f"{at}.gate", count, c.hidden)
    if fused:
        found[f"{at}.experts.gate_up_proj"] = (count, 2 * width, c.hidden)
        found[f"{at}.experts.down_proj"] = (count, c.hidden, width)
    else:
        for number in range(count):
            found |= mlp(c, f"{at}.experts.{number}", width)
    if shared:
        found |= mlp(c, f"{at}.shared_expert", c.size("shared_expert_intermediate_size"))
        found |= linear(f"{at}.shared_expert_gate", 1, c.hidden)
    return found


def delta_net(c: Reading, at: str, *, fused: bool) -> Shapes:
    """Name the tensors of a gated delta net; `fused` is how Qwen3-Next has its projections."""
    heads = c.size("linear_num_value_heads")
    keys = c.size("linear_num_key_heads") * c.size("linear_key_head_dim")
    values = heads * c.size("linear_value_head_dim")
    channels = 2 * keys + values
    found: Shapes = {
        f"{at}.A_log": (heads,),
        f"{at}.dt_bias": (heads,),
        f"{at}.conv1d.weight": (channels, 1, c.size("linear_conv_kernel_dim", 4)),
        f"{at}.norm.weight": (c.size("linear_value_head_dim"),),
        f"{at}.out_proj.weight": (c.hidden, values),
    }
    if fused:
        rows = {"in_proj_qkvz": channels + values, "in_proj_ba": 2 * heads}
    else:
        rows = {"in_proj_qkv": channels, "in_proj_z": values}
        rows |= {"in_proj_b": heads, "in_proj_a": heads}
    for name, count in rows.items():
        found |= linear(f"{at}.{name}", count, c.hidden)
    return found


def _norms(c: Reading, at: str, *names: str) -> Shapes:
    return {f"{at}.{name}.weight": (c.hidden,) for name in names}


AROUND: Final = ("input_layernorm", "post_attention_layernorm")
"""The norms of a layer in most models."""

SANDWICH: Final = (*AROUND, "pre_feedforward_layernorm", "post_feedforward_layernorm")
"""The norms of a layer that norms what comes out of its parts too."""


def decoder(
    c: Reading,
    layer: Callable[[int, str], Shapes],
    *,
    at: str = "model",
    norms: tuple[str, ...] = AROUND,
    modules_each: int = 1,
) -> Shapes:
    """Name the tensors of a decoder without its head; `layer` those of one layer but its norms."""
    found: Shapes = {
        f"{at}.embed_tokens.weight": (c.size("vocab_size"), c.hidden),
        f"{at}.norm.weight": (c.hidden,),
    }
    for number in c.layers(modules_each):
        here = f"{at}.layers.{number}"
        found |= _norms(c, here, *norms) | layer(number, here)
    return found


def vision_tower(c: Reading) -> Shapes:
    """Name the tensors of the vision tower that Qwen3.5 has."""
    at, width, patch = "model.visual", c.hidden, c.size("patch_size", 16)
    kernel = (c.size("temporal_patch_size", 2), patch, patch)
    joined = width * c.size("spatial_merge_size", 2) ** 2
    found: Shapes = {
        f"{at}.patch_embed.proj.weight": (width, c.size("in_channels", 3), *kernel),
        f"{at}.patch_embed.proj.bias": (width,),
        f"{at}.pos_embed.weight": (c.size("num_position_embeddings"), width),
        f"{at}.merger.norm.weight": (width,),
        f"{at}.merger.norm.bias": (width,),
    }
    found |= linear(f"{at}.merger.linear_fc1", joined, joined, bias=True)
    found |= linear(f"{at}.merger.linear_fc2", c.size("out_hidden_size"), joined, bias=True)
    depth = c.size("depth")
    if depth > _MOST_MODULES:
        raise Unsaid("depth")
    for number in range(depth):
        here = f"{at}.blocks.{number}"
        for norm in ("norm1", "norm2"):
            found |= {f"{here}.{norm}.weight": (width,), f"{here}.{norm}.bias": (width,)}
        found |= linear(f"{here}.attn.qkv", 3 * width, width, bias=True)
        found |= linear(f"{here}.attn.proj", width, width, bias=True)
        found |= linear(f"{here}.mlp.linear_fc1", c.size("intermediate_size"), width, bias=True)
        found |= linear(f"{here}.mlp.linear_fc2", width, c.size("intermediate_size"), bias=True)
    return found
