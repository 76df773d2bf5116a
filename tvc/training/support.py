"""Whether a model can be trained in a tier: asked of its configuration, then of the model itself.

Nothing is decided by a list of known architectures: it is the kinds of layers in the model's cache
that say whether a context can be frozen, and a comparison of figures on this very model, with the
kernels of this machine, that says whether it was done right. That also catches what cannot be seen
from outside: models that see the future, or positions that are not taken as given.

Absent: what is checked of weights and files (tvc/dialogues/loading.py).
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from tvc.dialogues.example import Example
from tvc.training.modes import can_checkpoint, evaluating
from tvc.training.prefix import UnsupportedModel, new_cache
from tvc.training.tiers import Tier, decision_logits, decision_loss

__all__ = ["verify_support"]

_NEEDED: Final = ("attention_mask", "position_ids", "past_key_values", "logits_to_keep")
_BOUNDS: Final[Mapping[torch.dtype, float]] = {torch.float64: 1e-4, torch.float32: 1e-3}
_BOUND_ROUNDED: Final = 0.1
"""Right passes in bf16 are 0.001 to 0.01 apart; a lost context shows as 0.3 or more."""

_LENGTHS: Final = ((21, (3, 2)), (13, (1,)), (1, (2,)))
"""Of contexts and their decisions: padding, one-token decisions, and nothing to freeze."""


def verify_support(model: PreTrainedModel, *, tier: Tier, pad: int) -> None:
    """Refuse a model whose decisions cannot be trained right in a tier.

    Makes a few passes over a few dozen random tokens, one of them backward, with whatever wraps the
    model; on many processes, all have to call it. Gradients are cleared.

    Args:
        model: A causal language model, as it will be trained.
        tier: The one it will be trained in.
        pad: Id of any token of the vocabulary, for padding.

    Raises:
        UnsupportedModel: It is of a kind that is known not to work, or its logits in this tier are
            not those of plain passes, or its backward pass fails. The message has the figures.
    """
    name = model.config.model_type
    _check_kind(model, name)
    if tier is Tier.FROZEN_CONTEXT:
        new_cache(model.config)
    if tier is Tier.CHECKPOINTED and not can_checkpoint(model):
        raise UnsupportedModel(f"{name}: none of its layers can be checkpointed")
    examples = _random_examples(model)
    try:
        with torch.no_grad(), evaluating(model):
            expected = _plain_logits(model, examples)
            found, _ = decision_logits(model, examples, tier=tier, pad=pad)
        decision_loss(model, examples, tier=tier, pad=pad).total.backward()
    except UnsupportedModel:
        raise
    except Exception as error:
        says = (str(error) or type(error).__name__).splitlines()[0]
        raise UnsupportedModel(f"{name}: a pass of tier {tier} fails: {says}") from error
    finite = all(_is_finite(each.grad) for each in model.parameters() if each.grad is not None)
    model.zero_grad(set_to_none=True)
    _check_figures(name, tier, _difference(found, expected), _bound(found), finite=finite)


def _check_kind(model: PreTrainedModel, name: str) -> None:
    if any(base.__module__.startswith("transformers_modules") for base in type(model).__mro__):
        raise UnsupportedModel(f"{name}: its code came with its weights, which is never run")
    if model.config.is_encoder_decoder:
        raise UnsupportedModel(f"{name}: encoder-decoder models cannot be trained")
    taken = inspect.signature(model.forward).parameters
    missing = [each for each in _NEEDED if each not in taken]
    if missing:
        raise UnsupportedModel(
            f"{name}: its forward pass takes no {', '.join(missing)}",
            hint="causal language models with an ordinary cache can be trained",
        )


def _random_examples(model: PreTrainedModel) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    ids = _ordinary_ids(model.config)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(ids[int(i)] for i in torch.randint(len(ids), (count,), generator=generator))

    return [
        Example(tokens(context), tuple(tokens(each) for each in decisions), "verify_support")
        for context, decisions in _LENGTHS
    ]


def _ordinary_ids(config: Any) -> Sequence[int]:
    """Return ids of tokens that mean nothing to the model's code, such as a place for an image."""
    known = {**config.to_dict(), **config.get_text_config().to_dict()}
    special: set[Any] = set()
    for key, value in known.items():
        if key.endswith(("token_id", "token_index")):
            special.update(cast("list[Any]", value) if isinstance(value, list) else [value])
    size = cast("int", config.get_text_config().vocab_size)
    return [i for i in range(min(size, 1000)) if i not in special] or range(size)


def _plain_logits(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Return what predicts each token of the decisions, one plain pass each: (tokens, vocabulary).

    Without cache, masks or positions, and with the last token of the decision, which no tier gives
    to the model: one that looks ahead will not come to the same logits.
    """
    found: list[Tensor] = []
    for example in examples:
        for decision in example.decisions:
            ids = torch.tensor([example.context + decision], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0]
            start = len(example.context) - 1
            found.append(logits[start : start + len(decision)])
    return torch.cat(found)


def _is_finite(gradient: Tensor) -> bool:
    local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    return bool(local.isfinite().all())


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return how far logits are apart, over how far those of one token are from another's.

    What all tokens share (that some words are frequent) would hide a context that was lost.
    """
    found, expected = found.double(), expected.double()
    spread = expected - expected.mean(dim=0)
    return float(((found - expected).square().sum() / spread.square().sum()).sqrt())


def _bound(logits: Tensor) -> float:
    return _BOUNDS.get(logits.dtype, _BOUND_ROUNDED)


def _check_figures(name: str, tier: Tier, difference: float, bound: float, *, finite: bool) -> None:
    if not difference <= bound:  # also where it is not a number
        raise UnsupportedModel(
            f"{name}: logits in tier {tier} are {difference:.2g} of their spread away from those "
            f"of plain passes, and may be {bound:g}",
            hint="another --tier may be right for it",
        )
    if not finite:
        raise UnsupportedModel(f"{name}: its gradients in tier {tier} are not finite")
