"""Several processes that train one model: started by torchrun, weights shared by FSDP2.

A process that torchrun did not start is alone, and none of this costs it anything. Absent: the loop
that runs in every one of them, and several machines.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

__all__ = ["Group", "joined", "whole"]


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a training.

    Args:
        rank: Number of this one.
        size: How many they are.
        device: Where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, model: PreTrainedModel) -> PreTrainedModel:
        """Put a model on the device and, among several, shard its weights.

        Layer by layer, then the rest, so that only one layer is whole at a time.
        """
        model.to(self.device)  # pyright: ignore[reportArgumentType] -- its decorator hides the type
        if self.size == 1:
            return model
        mesh = init_device_mesh(self.device.type, (self.size,))
        shard: Any = fully_shard
        for layer in _layers(model):
            shard(layer, mesh=mesh)
        return shard(model, mesh=mesh)

    def summed(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item()


@contextmanager
def joined(size: int, device: str) -> Generator[Group]:
    """Join the processes of a training, as torchrun's variables say, and leave them afterwards.

    Args:
        size: How many there are to be.
        device: `cpu` or `cuda`.
    """
    if size == 1:
        yield Group(0, 1, torch.device(device))
        return
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        rank = dist.get_rank()
        place = torch.device("cuda", rank) if device == "cuda" else torch.device(device)
        if device == "cuda":
            torch.cuda.set_device(place)
        assert dist.get_world_size() == size, "torchrun started as many as the run wants"
        yield Group(rank, size, place)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whose parts other processes hold; all of them have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    asked: Any = model  # transformers' word for what accelerate keeps together, too
    names: set[str] = set(asked._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]
