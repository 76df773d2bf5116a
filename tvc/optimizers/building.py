"""Optimizers by the names that users know them by. Schedules and gradient clipping are absent."""

import math
from collections.abc import Iterable
from typing import Final

from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from tvc.domain.errors import InputError
from tvc.domain.names import nearest
from tvc.optimizers.apollo import Apollo

__all__ = ["OPTIMIZERS", "make_optimizer"]

OPTIMIZERS: Final = ("adamw", "apollo", "apollo-mini", "sgd")
"""The names that `make_optimizer` knows."""


def make_optimizer(
    name: str,
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float,
    rank: int = 256,
    seed: int = 0,
    weight_decay: float = 0.0,
    multiplier: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Make an optimizer over parameters, whose names it keeps.

    Args:
        name: One of `OPTIMIZERS`. `apollo-mini` is Apollo of rank 1, whatever `rank` says; `sgd`
            has no momentum.
        named_parameters: `(name, parameter)` pairs.
        lr: Learning rate.
        rank: Of Apollo's projections.
        seed: Of Apollo's projections.
        weight_decay: Decoupled for all but `sgd`, where it makes no difference.
        multiplier: Of the scale of Apollo's updates.
        betas: Decay of the moments; `sgd` has none.

    Raises:
        InputError: There is no optimizer of this name, or a number is out of its range.
    """
    for option, value in {"lr": lr, "weight_decay": weight_decay}.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{option} cannot be {value}", hint="it is a number from 0")
    if name == "sgd":
        return SGD(named_parameters, lr=lr, weight_decay=weight_decay)
    if name == "adamw":
        return AdamW(named_parameters, lr=lr, betas=betas, weight_decay=weight_decay)
    if name in {"apollo", "apollo-mini"}:
        return Apollo(
            named_parameters,
            lr=lr,
            rank=rank if name == "apollo" else 1,
            multiplier=multiplier,
            betas=betas,
            weight_decay=weight_decay,
            seed=seed,
        )
    hint = nearest(name, OPTIMIZERS) or f"there are {', '.join(OPTIMIZERS)}"
    raise InputError(f"there is no optimizer {name!r}", hint=hint)
