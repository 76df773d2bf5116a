"""What lies between two models' weights, and random changes of the same size: the control.

Absent: what a change does (tvc/lab/states.py, tvc/lab/heads.py).
"""

import hashlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tvc.domain.errors import InputError
from tvc.domain.names import printable

__all__ = ["change_between", "moved", "random_change"]


def change_between(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """Return what was added to the weights of one model to make another.

    Args:
        before: In float32.
        after: In float32, of the same architecture.

    Returns:
        Differences by name of parameter, float32, of the parameter's shape; of those alone that
        differ.

    Raises:
        InputError: They have different parameters, or nothing differs.
    """
    old, new = (dict(each.named_parameters()) for each in (before, after))
    other = [name for name in {**old, **new} if not _same_shape(old.get(name), new.get(name))]
    if other:
        name = printable(other[0])
        raise InputError(f"the models are of different shapes: {name} is not the same in both")
    with torch.no_grad():
        found = {name: new[name] - old[name] for name in old}
    changed = {name: each for name, each in found.items() if bool(each.any())}
    if not changed:
        raise InputError("the models have the same weights: there is no change to look at")
    return changed


def _same_shape(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape


def random_change(change: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Return a random change whose tensors are as long as those of another.

    Normal numbers, drawn on the CPU from seed and name, scaled to the length (2-norm) of each
    tensor.

    Args:
        change: Differences by name.
        seed: Of the draw.
    """
    return {name: _random_like(name, each, seed) for name, each in change.items()}


def _random_like(name: str, tensor: Tensor, seed: int) -> Tensor:
    key = hashlib.sha256(f"tvc lab random change {seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8]) >> 1)
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.device)
    ratio = tensor.double().square().sum() / drawn.double().square().sum()
    return drawn * ratio.sqrt().to(drawn.dtype)


@contextmanager
def moved(model: nn.Module, change: Mapping[str, Tensor]) -> Generator[None]:
    """Add a change to a model's weights while the context lasts; then they are what they were.

    Args:
        model: In float32.
        change: Differences by name of parameter.
    """
    weights = {name: each for name, each in model.named_parameters() if name in change}
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.add_(change[name])
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])
