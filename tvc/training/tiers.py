"""The loss of decisions on their contexts, in three tiers of gradient.

| tier | the context | the gradient |
|---|---|---|
| `full` | is part of one pass | of everything |
| `frozen-context` | is encoded once, without gradient | of the decision's own tokens |
| `checkpointed` | is part of one pass | of everything, layers computed twice |

The first and the third are the same numbers. The second is the same loss with another gradient:
what a weight does to the context's keys, values and states is left out of it. On random weights it
differs from the full one by 0.4 to 0.7 of its length: another estimator, not an approximation.

Absent: the loop, the optimizer, and the losses that balance experts.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from tvc.dialogues.example import Example
from tvc.training.batches import (
    Batch,
    Decisions,
    decisions_of,
    frozen_contexts,
    live_segments,
    whole_rows,
)
from tvc.training.modes import checkpointing, evaluating
from tvc.training.prefix import Prefix, freeze, new_cache

__all__ = ["Loss", "Tier", "choose_tier", "decision_logits", "decision_loss"]


class Tier(StrEnum):
    """How far the gradient goes."""

    FULL = "full"
    FROZEN_CONTEXT = "frozen-context"
    CHECKPOINTED = "checkpointed"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a model made of some decisions.

    Args:
        total: Negative log likelihood of all tokens of the decisions, in nats, summed; a float32
            scalar with its graph.
        tokens: How many they were.
    """

    total: Tensor
    tokens: int


def choose_tier(examples: Iterable[Example], *, short: int = 512) -> Tier:
    """Return the tier for `--tier auto`.

    Short examples are trained on in full; where only contexts are long they are frozen; where
    decisions are long too, freezing would save little, so layers are computed twice.

    Args:
        examples: At least one; the longest decides.
        short: The most tokens that one pass with gradient is wanted for.
    """
    longest = decision = 0
    for example in examples:
        longest = max(longest, example.length)
        decision = max(decision, example.length - len(example.context))
    if longest <= short:
        return Tier.FULL
    return Tier.FROZEN_CONTEXT if decision <= short else Tier.CHECKPOINTED


def decision_loss(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    tier: Tier,
    pad: int,
    checkpoint_decisions: bool = False,
) -> Loss:
    """Return the negative log likelihood of the decisions of some examples.

    The model is only ever called as a whole, so that what wraps it (FSDP2) sees every pass: once,
    or twice with a frozen context. It should be in training mode for layers to be checkpointed.

    Args:
        model: A causal language model that `verify_support` has accepted.
        examples: One batch of at least one example.
        tier: How far the gradient goes.
        pad: Id of any token of the vocabulary, for padding.
        checkpoint_decisions: With a frozen context, compute the layers of the decision twice, to
            keep less of them for the backward pass.

    Raises:
        UnsupportedModel: The model's cache cannot be frozen.
    """
    logits, targets = decision_logits(
        model, examples, tier=tier, pad=pad, checkpoint_decisions=checkpoint_decisions
    )
    total = functional.cross_entropy(logits.float(), targets, reduction="sum")
    return Loss(total, len(targets))


def decision_logits(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    tier: Tier,
    pad: int,
    checkpoint_decisions: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return what predicts each token of the decisions, and these tokens.

    Args:
        model: As for `decision_loss`, like everything else.
        examples: Likewise.
        tier: Likewise.
        pad: Likewise.
        checkpoint_decisions: Likewise.

    Returns:
        Logits, (tokens, vocabulary), of the model's dtype; and ids, (tokens,), int64. Example
        after example, decision after decision, token after token.

    Raises:
        UnsupportedModel: The model's cache cannot be frozen.
    """
    device = model.device
    decisions = decisions_of(examples)
    if tier is Tier.FROZEN_CONTEXT:
        contexts = frozen_contexts(examples, pad=pad, device=device)
        batch, predicting = live_segments(decisions, contexts, pad=pad, device=device)
        prefix, last, twice = _encode(model, contexts, decisions), 0, checkpoint_decisions
    else:
        batch, predicting = whole_rows(decisions, pad=pad, device=device)
        prefix, last, twice = None, decisions.longest, tier is Tier.CHECKPOINTED
    with checkpointing(model) if twice else nullcontext():
        output = _forward(model, batch, cache=prefix, last=last)
    return output.logits[predicting], torch.tensor(decisions.targets, device=device)


def _encode(model: PreTrainedModel, contexts: Batch, decisions: Decisions) -> Prefix:
    """Run contexts through the model without gradient.

    Not under `inference_mode`: its tensors cannot be saved for a backward pass.
    """
    cache = new_cache(model.config)
    with torch.no_grad(), evaluating(model):
        _forward(model, contexts, cache=cache, last=1)
    return freeze(cache, rows=decisions.rows)


def _forward(model: PreTrainedModel, batch: Batch, *, cache: Cache | None, last: int) -> Any:
    """Run a batch through the model, with logits of the last columns (of all for 0)."""
    balancing = getattr(model.config.get_text_config(), "output_router_logits", False)
    # Balancing experts is no part of this loss, and would take the mask of contexts for its own.
    without = {"output_router_logits": False} if balancing else {}
    return model(
        input_ids=batch.tokens,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        past_key_values=cache,
        use_cache=isinstance(cache, DynamicCache),  # a `Prefix` is read whatever this says
        logits_to_keep=last,
        **without,
    )
