"""Recurrent states of gated delta nets at the end of contexts, and how alike their changes are.

Absent: whose states, and what is made of them (tvc/lab/state_direction.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tvc.dialogues.example import Example
from tvc.domain.errors import InputError
from tvc.training.batches import decisions_of, whole_rows
from tvc.training.modes import evaluating
from tvc.training.prefix import new_cache

__all__ = ["NoDeltaNets", "cosines", "delta_nets", "mean_cosine", "states_after"]

_ROWS: Final = 8
"""Contexts at a time."""


class NoDeltaNets(InputError):
    """A model has no layers whose states could be looked at."""


def delta_nets(model: PreTrainedModel) -> dict[int, nn.Module]:
    """Return the gated delta nets of a model by number of their layer.

    Raises:
        NoDeltaNets: There are none.
    """
    found = {
        cast("int", module.layer_idx): module
        for module in model.modules()
        if type(module).__name__.endswith("GatedDeltaNet")
    }
    if not found:
        raise NoDeltaNets(
            f"{model.config.model_type} has no gated-delta-net layers",
            hint="their states are what this looks at: Qwen3-Next and Qwen3.5 have them",
        )
    return dict(sorted(found.items()))


def states_after(
    model: PreTrainedModel,
    contexts: Sequence[tuple[int, ...]],
    *,
    pad: int,
    on_row: Callable[[], None] = lambda: None,
) -> dict[int, Tensor]:
    """Return the recurrent state of each gated delta net after each context.

    Args:
        model: With gated delta nets.
        contexts: Token ids, each at least one.
        pad: Id of any token, for padding on the left.
        on_row: Told of each context.

    Returns:
        By number of the layer: (contexts, heads * key width * value width), float32, on the CPU.

    Raises:
        NoDeltaNets: The model has none.
    """
    layers = delta_nets(model)
    order = sorted(range(len(contexts)), key=lambda n: len(contexts[n]))
    parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for start in range(0, len(order), _ROWS):
        chosen = [contexts[n] for n in order[start : start + _ROWS]]
        for layer, state in _states(model, layers, chosen, pad).items():
            parts[layer].append(state)
        for _ in chosen:
            on_row()
    back = torch.tensor(order).argsort()
    return {layer: torch.cat(each)[back] for layer, each in parts.items()}


def _states(
    model: PreTrainedModel,
    layers: Mapping[int, nn.Module],
    contexts: Sequence[tuple[int, ...]],
    pad: int,
) -> dict[int, Tensor]:
    # A row is a context and a decision without its last token: of a decision of one token, nothing.
    examples = [Example(context, ((pad,),), "") for context in contexts]
    batch, _ = whole_rows(decisions_of(examples), pad=pad, device=model.device)
    cache = new_cache(model.config)
    with torch.no_grad(), evaluating(model):
        model(
            input_ids=batch.tokens,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    found: dict[int, Tensor] = {}
    for layer in layers:
        state = cast("Tensor", cache.layers[layer].recurrent_states[0])  # pyright: ignore[reportAttributeAccessIssue] -- a layer of linear attention
        found[layer] = state.flatten(1).float().cpu()
    return found


def cosines(changes: Tensor) -> Tensor:
    """Return how alike changes are, pair by pair.

    Args:
        changes: (contexts, width).

    Returns:
        Cosines, (contexts, contexts), float64; NaN for what did not change at all.
    """
    lengths = changes.double().square().sum(1, keepdim=True).sqrt()
    directions = changes.double() / lengths  # 0 / 0 is NaN
    return directions @ directions.T


def mean_cosine(found: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the mean of cosines of different contexts.

    Args:
        found: Cosines, (contexts, contexts).
        counts: How often each context counts, (draws, contexts), float64; None for once each. A
            context that was drawn twice is no pair with itself.

    Returns:
        One mean for each draw, (draws,), float64; NaN where there is no pair.
    """
    size = len(found)
    counts = torch.ones(1, size, dtype=torch.float64) if counts is None else counts
    there = (found.isfinite() & ~torch.eye(size, dtype=torch.bool)).double()
    total = ((counts @ (found.nan_to_num() * there)) * counts).sum(1)
    return total / ((counts @ there) * counts).sum(1)
