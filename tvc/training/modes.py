"""What a model is switched to for one pass, and back.

Absent: the passes themselves (tvc/training/tiers.py).
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from torch import nn
from torch.utils.checkpoint import (
    checkpoint,  # pyright: ignore[reportUnknownVariableType] (no stubs)
)
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["can_checkpoint", "checkpointing", "evaluating"]

_CHECKPOINTED: Final[dict[str, Any]] = {
    "gradient_checkpointing": True,
    "_gradient_checkpointing_func": partial(checkpoint, use_reentrant=False),
    # transformers drops a cache here, since computing a layer twice would write to it twice.
    # What is used here is a `Prefix`, which nothing writes to.
    "_can_checkpoint_with_cache": True,
}


def can_checkpoint(model: nn.Module) -> bool:
    """Say whether a model has layers that can be computed again in the backward pass."""
    return any(isinstance(module, GradientCheckpointingLayer) for module in model.modules())


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Switch every module to evaluation, and those that were in training back at the end."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def checkpointing(model: nn.Module) -> Generator[None]:
    """Let layers keep their inputs only, and compute the rest again in the backward pass.

    Only a forward pass has to be inside; and only modules in training are affected, by the rule
    of transformers. The cache that is passed, if any, has to be a `Prefix`.
    """
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    before = [{name: vars(layer).get(name) for name in _CHECKPOINTED} for layer in layers]
    for layer in layers:
        vars(layer).update(_CHECKPOINTED)
    try:
        yield
    finally:
        for layer, values in zip(layers, before, strict=True):
            for name, value in values.items():
                if value is None:
                    del vars(layer)[name]
                else:
                    vars(layer)[name] = value
