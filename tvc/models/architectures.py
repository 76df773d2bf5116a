"""Which tensors a model has, as its `config.json` says: for the architectures that are listed here.

Names are those of transformers, which vLLM expects too; where vLLM takes others as well, or has no
place for one, that is said (found by reading and running vLLM 0.31 to 0.33). Absent on purpose:
what is done about a model that differs, and every guess: an architecture that is not listed, a
quantized model, and a configuration that leaves a size out, are not known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, cast

from tvc.models.layers import (
    AROUND,
    SANDWICH,
    Reading,
    Shape,
    Shapes,
    Unsaid,
    attention,
    decoder,
    delta_net,
    experts,
    linear,
    mlp,
    vision_tower,
)

__all__ = ["ARCHITECTURES", "Expected", "expected_tensors", "family_of"]

_UNUSED: Final = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
"""Ends of names that old models hold, and everybody computes."""

# What a class of vLLM makes no place for, whatever `attention_bias` says.
_OUTPUT_BIAS: Final = (".o_proj.bias",)
_ATTENTION_BIASES: Final = (".q_proj.bias", ".k_proj.bias", ".v_proj.bias", ".o_proj.bias")


@dataclass(frozen=True)
class Expected:
    """The tensors that follow from a configuration.

    Args:
        shapes: Tensor name → shape, as transformers names and vLLM expects them.
        tied: Name → the tensor it is tied to. It may be absent; where it is there, it is the same.
        unserved: Ends of names that transformers uses and vLLM has no place for.
        unused: Beginnings of names that a served model may have beside, and does not use.
        untied: Those of `tied` that vLLM does not tie: it has to find them, with this shape.
        others: The same model under other names that vLLM takes just as well.
    """

    shapes: Mapping[str, Shape]
    tied: Mapping[str, str] = field(default_factory=dict[str, str])
    unserved: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    untied: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    others: tuple["Expected", ...] = ()

    def is_unused(self, name: str) -> bool:
        """Say whether a tensor beside `shapes` is one that nobody misses."""
        return name.startswith(self.unused) or name.endswith(_UNUSED)

    def is_unserved(self, name: str) -> bool:
        """Say whether a tensor is one that vLLM would drop."""
        return name.endswith(self.unserved)


def expected_tensors(config: Mapping[str, Any]) -> Expected | None:
    """Return what tensors a model has; None where that is not known.

    Args:
        config: A parsed `config.json`; nothing in it is trusted.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or len(cast("list[object]", names)) != 1:
        return None
    build = ARCHITECTURES.get(str(cast("list[object]", names)[0]))
    if build is None or config.get("quantization_config"):
        return None
    try:
        return build(Reading(config))
    except Unsaid:
        return None


def family_of(config: Mapping[str, Any]) -> str | None:
    """Return the architecture that a configuration without `architectures` is most likely of.

    Args:
        config: A parsed `config.json`.

    Returns:
        A key of `ARCHITECTURES`, or None.
    """
    return _MODEL_TYPES.get(str(config.get("model_type")))


def _head(c: Reading) -> Shapes:
    return {"lm_head.weight": (c.size("vocab_size"), c.hidden)}


def _with_head(
    c: Reading,
    body: Shapes,
    *,
    tied: bool,
    others: tuple[Shapes, ...] = (),
    unserved: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> Expected:
    """Add the output layer, in its own right or as what the embedding is under another name."""
    embedding = next(name for name in body if name.endswith("embed_tokens.weight"))
    ties = dict.fromkeys(_head(c), embedding) if tied else {}
    shapes = body if tied else body | _head(c)
    return Expected(
        shapes,
        tied=ties,
        unserved=unserved,
        unused=unused,
        others=tuple(
            _with_head(c, other, tied=tied, unserved=unserved, unused=unused) for other in others
        ),
    )


def _llama(c: Reading) -> Expected:
    bias = c.flag("attention_bias")
    body = decoder(
        c,
        lambda _, at: (
            attention(c, f"{at}.self_attn", bias=bias, out_bias=bias)
            | mlp(c, f"{at}.mlp", c.size("intermediate_size"), bias=c.flag("mlp_bias"))
        ),
    )
    return _with_head(c, body, tied=c.flag("tie_word_embeddings"))


def _mistral(c: Reading) -> Expected:
    body = decoder(
        c,
        lambda _, at: (
            attention(c, f"{at}.self_attn", default_heads=8)
            | mlp(c, f"{at}.mlp", c.size("intermediate_size"))
        ),
    )
    return _with_head(c, body, tied=c.flag("tie_word_embeddings"))


def _qwen2(c: Reading) -> Expected:
    body = decoder(
        c,
        lambda _, at: (
            attention(c, f"{at}.self_attn", bias=True, default_heads=32)
            | mlp(c, f"{at}.mlp", c.size("intermediate_size"))
        ),
    )
    return _with_head(c, body, tied=c.flag("tie_word_embeddings"))


def _qwen3(c: Reading) -> Expected:
    bias = c.flag("attention_bias")
    body = decoder(
        c,
        lambda _, at: (
            attention(
                c,
                f"{at}.self_attn",
                bias=bias,
                out_bias=bias,
                head_dim=128,
                default_heads=32,
                norms=True,
            )
            | mlp(c, f"{at}.mlp", c.size("intermediate_size"))
        ),
    )
    tied = c.flag("tie_word_embeddings")
    return _with_head(c, body, tied=tied, unserved=_OUTPUT_BIAS)


def _is_sparse(c: Reading, number: int) -> bool:
    step = c.size("decoder_sparse_step", 1)
    dense = number in c.items("mlp_only_layers")
    return not dense and c.experts > 0 and step > 0 and (number + 1) % step == 0


def _qwen3_moe(c: Reading) -> Expected:
    bias = c.flag("attention_bias")

    def layer(number: int, at: str) -> Shapes:
        found = attention(
            c, f"{at}.self_attn", bias=bias, out_bias=bias, default_heads=4, norms=True
        )
        if _is_sparse(c, number):
            return found | experts(c, f"{at}.mlp", shared=False)
        return found | mlp(c, f"{at}.mlp", c.size("intermediate_size"))

    body = decoder(c, layer, modules_each=c.experts)
    tied = c.flag("tie_word_embeddings")
    return _with_head(c, body, tied=tied, unserved=_OUTPUT_BIAS)


def _kinds_of_layers(c: Reading) -> list[Any]:
    """Return what each layer attends with: every fourth is softmax attention if it is not said."""
    count = len(c.layers())
    every = c.size("full_attention_interval", 4) or 4
    kinds = c.items("layer_types") or [
        "linear_attention" if (number + 1) % every else "full_attention" for number in range(count)
    ]
    if len(kinds) != count or not set(map(str, kinds)) <= {"linear_attention", "full_attention"}:
        raise Unsaid("layer_types")
    return kinds


def _hybrid_attention(c: Reading, at: str, kind: str, *, fused: bool, heads: int) -> Shapes:
    if kind == "linear_attention":
        return delta_net(c, f"{at}.linear_attn", fused=fused)
    bias = c.flag("attention_bias")
    return attention(
        c,
        f"{at}.self_attn",
        bias=bias,
        out_bias=bias,
        head_dim=256,
        default_heads=heads,
        norms=True,
        gated=True,
    )


def _qwen3_next(c: Reading) -> Expected:
    kinds = _kinds_of_layers(c)

    def layer(number: int, at: str) -> Shapes:
        found = _hybrid_attention(c, at, kinds[number], fused=True, heads=2)
        if _is_sparse(c, number):
            return found | experts(c, f"{at}.mlp", shared=True)
        return found | mlp(c, f"{at}.mlp", c.size("intermediate_size"))

    body = decoder(c, layer, modules_each=c.experts)
    tied = c.flag("tie_word_embeddings")
    found = _with_head(c, body, tied=tied, unserved=_ATTENTION_BIASES, unused=("mtp.",))
    # vLLM's class does not look at what ties the output layer: it has to be there.
    return replace(found, untied=_head(c) if tied else {})


def _qwen3_5_body(c: Reading, at: str, *, sparse: bool, fused: bool = False) -> Shapes:
    kinds = _kinds_of_layers(c)
    heads = 2 if sparse else 4

    def layer(number: int, here: str) -> Shapes:
        found = _hybrid_attention(c, here, kinds[number], fused=False, heads=heads)
        if sparse:
            return found | experts(c, f"{here}.mlp", shared=True, fused=fused)
        return found | mlp(c, f"{here}.mlp", c.size("intermediate_size"))

    return decoder(c, layer, at=at, modules_each=c.experts if sparse else 1)


def _qwen3_5(c: Reading, *, sparse: bool) -> Expected:
    body = _qwen3_5_body(c, "model", sparse=sparse)
    # Text models cut out of ones with a vision tower may keep the names of those.
    others = [("model.language_model", False)]
    others += [("model", True), ("model.language_model", True)] if sparse else []
    return _with_head(
        c,
        body,
        tied=c.flag("tie_word_embeddings"),
        others=tuple(_qwen3_5_body(c, at, sparse=sparse, fused=fused) for at, fused in others),
        unserved=_ATTENTION_BIASES,
        unused=("mtp.",),
    )


def _qwen3_5_vision(c: Reading, *, sparse: bool) -> Expected:
    text, tower = c.inner("text_config"), vision_tower(c.inner("vision_config"))
    at = "model.language_model"
    body = _qwen3_5_body(text, at, sparse=sparse) | tower
    others = (_qwen3_5_body(text, at, sparse=sparse, fused=True) | tower,) if sparse else ()
    return _with_head(
        text,
        body,
        tied=c.flag("tie_word_embeddings"),
        others=others,
        unserved=_ATTENTION_BIASES,
        unused=("mtp.",),
    )


def _gemma(c: Reading, *, norms: tuple[str, ...], heads: int, head_norms: bool) -> Expected:
    bias = c.flag("attention_bias")
    body = decoder(
        c,
        lambda _, at: (
            attention(
                c,
                f"{at}.self_attn",
                bias=bias,
                out_bias=bias,
                head_dim=256,
                default_heads=heads,
                norms=head_norms,
            )
            | mlp(c, f"{at}.mlp", c.size("intermediate_size"))
        ),
        norms=norms,
    )
    return _with_head(c, body, tied=c.flag("tie_word_embeddings", default=True))


def _gemma1(c: Reading) -> Expected:
    found = _gemma(c, norms=AROUND, heads=16, head_norms=False)
    return replace(found, unserved=_ATTENTION_BIASES)


def _gemma2(c: Reading) -> Expected:
    found = _gemma(c, norms=SANDWICH, heads=4, head_norms=False)
    # vLLM has no output layer of its own for it.
    return replace(found, unserved=("lm_head.weight",))


def _bert(c: Reading) -> Expected:
    width, inner = c.hidden, c.size("intermediate_size")

    def norm(at: str) -> Shapes:
        return {f"{at}.LayerNorm.weight": (width,), f"{at}.LayerNorm.bias": (width,)}

    found = norm("embeddings")
    for table, key, usual in (
        ("word", "vocab_size", None),
        ("position", "max_position_embeddings", 512),
        ("token_type", "type_vocab_size", 2),
    ):
        found[f"embeddings.{table}_embeddings.weight"] = (c.size(key, usual), width)
    for number in c.layers():
        at = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            found |= linear(f"{at}.attention.self.{name}", width, width, bias=True)
        found |= linear(f"{at}.attention.output.dense", width, width, bias=True)
        found |= linear(f"{at}.intermediate.dense", inner, width, bias=True)
        found |= linear(f"{at}.output.dense", width, inner, bias=True)
        found |= norm(f"{at}.attention.output") | norm(f"{at}.output")
    # An embedding is taken before the pooler, and positions are counted.
    unused = ("pooler.dense.", "embeddings.position_ids")
    return Expected(found, unused=unused, others=(Expected(_as_once(found), unused=unused),))


def _as_once(shapes: Shapes) -> Shapes:
    """Return BERT's names as they were before there was PyTorch."""
    words = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    found: Shapes = {}
    for name, shape in shapes.items():
        now = next((word for word in words if name.endswith(word)), "")
        found[name.removesuffix(now) + words.get(now, "")] = shape
    return found


ARCHITECTURES: Final[Mapping[str, Callable[[Reading], Expected]]] = MappingProxyType(
    {
        "BertModel": _bert,
        "Gemma2ForCausalLM": _gemma2,
        "Gemma3ForCausalLM": lambda c: _gemma(c, norms=SANDWICH, heads=4, head_norms=True),
        "GemmaForCausalLM": _gemma1,
        "LlamaForCausalLM": _llama,
        "MistralForCausalLM": _mistral,
        "Qwen2ForCausalLM": _qwen2,
        "Qwen3ForCausalLM": _qwen3,
        "Qwen3MoeForCausalLM": _qwen3_moe,
        "Qwen3NextForCausalLM": _qwen3_next,
        "Qwen3_5ForCausalLM": lambda c: _qwen3_5(c, sparse=False),
        "Qwen3_5ForConditionalGeneration": lambda c: _qwen3_5_vision(c, sparse=False),
        "Qwen3_5MoeForCausalLM": lambda c: _qwen3_5(c, sparse=True),
        "Qwen3_5MoeForConditionalGeneration": lambda c: _qwen3_5_vision(c, sparse=True),
    }
)
"""The architectures that are known, as `config.json` names them."""

_MODEL_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bert": "BertModel",
        "gemma": "GemmaForCausalLM",
        "gemma2": "Gemma2ForCausalLM",
        "gemma3_text": "Gemma3ForCausalLM",
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "qwen3_5": "Qwen3_5ForConditionalGeneration",
        "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
        "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
        "qwen3_5_text": "Qwen3_5ForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
        "qwen3_next": "Qwen3NextForCausalLM",
    }
)
