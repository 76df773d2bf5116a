"""What a model is given: padding, masks and positions, token by token."""

import pytest
import torch

from tvc.dialogues.example import Example
from tvc.training.batches import Batch, decisions_of, frozen_contexts, live_segments, whole_rows

CPU = torch.device("cpu")
PAD = 9
EXAMPLES = [
    Example((1, 2, 3), ((11, 12, 13), (14,)), "a:1"),
    Example((5,), ((21, 22),), "a:2"),
]


def rows(tensor: torch.Tensor) -> list[list[int]]:
    return tensor.int().tolist()


def test_contexts_end_together() -> None:
    batch = frozen_contexts(EXAMPLES, pad=PAD, device=CPU)
    assert rows(batch.tokens) == [[1, 2], [PAD, PAD]]
    assert rows(batch.mask) == [[1, 1], [0, 0]]
    assert rows(batch.positions) == [[0, 1], [0, 0]]


def test_decisions_start_together_at_their_contexts_last_token() -> None:
    contexts = frozen_contexts(EXAMPLES, pad=PAD, device=CPU)
    batch, predicting = live_segments(decisions_of(EXAMPLES), contexts, pad=PAD, device=CPU)
    assert rows(batch.tokens) == [[3, 11, 12], [3, PAD, PAD], [5, 21, PAD]]
    assert rows(batch.mask) == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert rows(batch.positions) == [[2, 3, 4], [2, 3, 4], [0, 1, 2]]
    assert rows(predicting) == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


def test_whole_rows_end_together() -> None:
    batch, predicting = whole_rows(decisions_of(EXAMPLES), pad=PAD, device=CPU)
    assert rows(batch.tokens) == [[1, 2, 3, 11, 12], [PAD, PAD, 1, 2, 3], [PAD, PAD, PAD, 5, 21]]
    assert rows(batch.mask) == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert rows(batch.positions) == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [0, 0, 0, 0, 1]]
    assert rows(predicting) == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("context", [(5,), (5, 6)])
def test_passes_with_a_cache_are_two_columns_wide(context: tuple[int, ...]) -> None:
    """Kernels for one token have no backward pass, and a mask of one column is not looked at."""
    examples = [Example(context, ((7,),), "a:1")]
    contexts = frozen_contexts(examples, pad=PAD, device=CPU)
    batch, _ = live_segments(decisions_of(examples), contexts, pad=PAD, device=CPU)
    assert widths(contexts) == (2, 2)
    assert widths(batch) == (2, 4)


def widths(batch: Batch) -> tuple[int, int]:
    return batch.tokens.shape[1], batch.mask.shape[1]
