"""One of several processes that share a model out with FSDP2: run by test_shared_out.py.

    torchrun … shared_out.py ARCHITECTURE FOLDER

Each process has half of the examples. What the first process finds of the whole goes into a file a tier.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_models import PAD, example, tiny
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tvc.training.gradients import GradientReport
from tvc.training.support import verify_support
from tvc.training.tiers import Tier, decision_loss

# The second process has nothing to freeze, and has to make as many passes nevertheless.
BATCHES = [[example(20, 5, 3, seed=1), example(9, 1, seed=2)], [example(1, 4, seed=3)]]


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = tiny(name)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for tier in Tier:
        verify_support(model, tier=tier, pad=PAD)
        batch = BATCHES[dist.get_rank()]
        loss = decision_loss(model, batch, tier=tier, pad=PAD, checkpoint_decisions=True)
        # FSDP averages over processes, where the sum is wanted.
        (loss.total * dist.get_world_size()).backward()
        found = results(model)
        if dist.get_rank() == 0:
            torch.save(found, folder / f"{tier}.pt")
    dist.barrier()
    dist.destroy_process_group()


def results(model: Any) -> Any:
    """Return the gradients of the whole model, and the report of them; all processes have to ask."""
    report = GradientReport()
    report.add(model.named_parameters())
    parameters = [
        (key, each.grad) for key, each in model.named_parameters() if each.grad is not None
    ]
    whole = {
        key: grad.full_tensor() if isinstance(grad, DTensor) else grad for key, grad in parameters
    }
    return whole, report.to_json()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
