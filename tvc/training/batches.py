"""Examples as padded batches: token ids, masks and positions.

Contexts and whole sequences are padded on the left, so that all of them end together: linear
attention would let its state decay over padding that follows. Decisions are padded on the right,
directly after the context's last token.

Absent: reading examples, and choosing which of them make a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvc.dialogues.example import Example

__all__ = ["Batch", "Decisions", "decisions_of", "frozen_contexts", "live_segments", "whole_rows"]

_LEAST = 2
"""Columns of a pass with a cache: of one, the fused kernels of linear attention have no backward
pass, and transformers takes it for a token whatever the mask says."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model is given.

    Args:
        tokens: Ids, (rows, width), int64.
        mask: 1 where there is a token, (rows, width of all that attention sees), int64; its last
            columns are those of `tokens`.
        positions: Of each token in its own row, (rows, width), int64.
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True)
class Decisions:
    """Every decision of some examples, a row each.

    Args:
        rows: For each decision, the number of its example.
        contexts: For each decision, its context.
        decisions: Their tokens.
    """

    rows: tuple[int, ...]
    contexts: tuple[tuple[int, ...], ...]
    decisions: tuple[tuple[int, ...], ...]

    @property
    def targets(self) -> list[int]:
        """All tokens that are trained on, row after row."""
        return [token for decision in self.decisions for token in decision]

    @property
    def longest(self) -> int:
        """Tokens of the longest decision."""
        return max(map(len, self.decisions))


def decisions_of(examples: Sequence[Example]) -> Decisions:
    """Return the decisions of examples, in order."""
    found = [(i, each.context, d) for i, each in enumerate(examples) for d in each.decisions]
    rows, contexts, decisions = zip(*found, strict=True)
    return Decisions(rows, contexts, decisions)


def frozen_contexts(examples: Sequence[Example], *, pad: int, device: torch.device) -> Batch:
    """Return all of each context but its last token, a row an example, padded on the left.

    The last token is what the first token of a decision is predicted from, so it is not frozen.
    A context of one token becomes a row of padding: a pass is made for every batch, since processes
    that share a model out have to make the same number of passes.

    Args:
        examples: At least one.
        pad: Id of any token, for padding.
        device: Of the tensors.
    """
    frozen = [example.context[:-1] for example in examples]
    return _left_padded(frozen, least=_LEAST, pad=pad, device=device)


def whole_rows(decisions: Decisions, *, pad: int, device: torch.device) -> tuple[Batch, Tensor]:
    """Return each decision behind its context, padded on the left.

    Args:
        decisions: At least one.
        pad: Id of any token, for padding.
        device: Of the tensors.

    Returns:
        The batch, without the last token of each row, which predicts nothing that is trained on;
        and which of its last `decisions.longest` columns predict a decision's token, (rows,
        longest), bool.
    """
    pairs = zip(decisions.contexts, decisions.decisions, strict=True)
    batch = _left_padded([c + d[:-1] for c, d in pairs], least=1, pad=pad, device=device)
    lengths = _lengths(decisions, device)
    column = torch.arange(decisions.longest, device=device)
    return batch, column >= decisions.longest - lengths[:, None]


def live_segments(
    decisions: Decisions, contexts: Batch, *, pad: int, device: torch.device
) -> tuple[Batch, Tensor]:
    """Return the last token of each context and its decision, padded on the right.

    Args:
        decisions: At least one.
        contexts: What precedes them: `frozen_contexts` of the same examples.
        pad: Id of any token, for padding.
        device: Of the tensors.

    Returns:
        The batch, without the last token of each decision; its mask covers the contexts too. And
        which of its columns predict a decision's token, (rows, width), bool.
    """
    pairs = zip(decisions.contexts, decisions.decisions, strict=True)
    width = max(decisions.longest, _LEAST)
    live = [[c[-1], *d[:-1]] + [pad] * (width - len(d)) for c, d in pairs]
    starts = torch.tensor([len(c) - 1 for c in decisions.contexts], device=device)
    column = torch.arange(width, device=device)
    there = column < _lengths(decisions, device)[:, None]
    rows = torch.tensor(decisions.rows, device=device)
    mask = torch.cat([contexts.mask[rows], there.long()], dim=1)
    return Batch(torch.tensor(live, device=device), mask, starts[:, None] + column), there


def _lengths(decisions: Decisions, device: torch.device) -> Tensor:
    return torch.tensor([len(decision) for decision in decisions.decisions], device=device)


def _left_padded(
    sequences: Sequence[tuple[int, ...]], *, least: int, pad: int, device: torch.device
) -> Batch:
    width = max(least, *map(len, sequences))
    tokens = [[pad] * (width - len(each)) + list(each) for each in sequences]
    padding = torch.tensor([width - len(each) for each in sequences], device=device)[:, None]
    positions = torch.arange(width, device=device) - padding
    return Batch(
        torch.tensor(tokens, device=device), (positions >= 0).long(), positions.clamp(min=0)
    )
