"""Which tensors of a model are one tensor under two names.

Only what `config.json` says in so many words counts: where `tie_word_embeddings` is absent, the
default depends on the class that transformers would pick, and nothing is taken as tied.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, cast

__all__ = ["tied_names", "ties_embeddings"]

_HEADS: Final = (
    "lm_head.weight",
    "language_model.lm_head.weight",
    "model.language_model.lm_head.weight",
    "embed_out.weight",
    "lm_head.decoder.weight",
    "cls.predictions.decoder.weight",
    "vocab_projector.weight",
)
_ENCODER_DECODER: Final = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
)
# The first that is present is what the heads are tied to: a shared table comes before its copies.
_EMBEDDINGS: Final = (
    "shared.weight",
    "model.shared.weight",
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "transformer.wte.weight",
    "transformer.word_embeddings.weight",
    "gpt_neox.embed_in.weight",
    "backbone.embeddings.weight",
    "bert.embeddings.word_embeddings.weight",
    "roberta.embeddings.word_embeddings.weight",
    "distilbert.embeddings.word_embeddings.weight",
)
_BIASES: Final = {
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.decoder.bias": "lm_head.bias",
}
_TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config")


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Say whether a configuration ties the output layer to the embedding in so many words.

    Args:
        config: A parsed `config.json`; its own word goes before that of a nested text model.
    """
    nested = (config.get(key) for key in _TEXT_CONFIGS)
    inner = (cast("Mapping[str, Any]", value) for value in nested if isinstance(value, Mapping))
    words = (found.get("tie_word_embeddings") for found in (config, *inner))
    return next((word for word in words if isinstance(word, bool)), False)


def tied_names(config: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Return tied name → the name it is tied to, both out of `names`.

    For one model, these are the names that must hold equal bytes. For two models of one
    architecture, give the union of their names: a tied name that one of them omits is no mismatch.

    Args:
        config: A parsed `config.json`.
        names: Names of tensors.
    """
    if not ties_embeddings(config):
        return {}
    known = set(names)
    source = next((name for name in _EMBEDDINGS if name in known), None)
    tables = _ENCODER_DECODER if source in ("shared.weight", "model.shared.weight") else ()
    found = {name: source for name in (*_HEADS, *tables) if source and name in known}
    return found | {name: bias for name, bias in _BIASES.items() if name in known and bias in known}
