"""Apollo on weights sharded by FSDP2 over two processes, against one; run by test_sharded.py.

`python two_processes.py RANK FOLDER`: both processes compute the same and check it themselves.
"""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

from tvc.domain.errors import InputError
from tvc.optimizers.apollo import Apollo
from tvc.optimizers.building import make_optimizer
from tvc.optimizers.differences import Differences

STEPS = 25
TOLERANCE = 1e-6


class Toy(nn.Module):
    """Tall, wide and square weights, in uneven parts, experts, a convolution, vectors, a table."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 7)
        self.up = nn.Linear(7, 13)
        self.down = nn.Linear(13, 5, bias=False)
        self.square = nn.Linear(5, 5)
        self.experts = nn.Parameter(torch.randn(3, 5, 6) * 0.4)
        self.across = nn.Parameter(torch.randn(6, 12) * 0.4)  # sharded by columns
        self.conv1d = nn.Conv1d(12, 12, 2, groups=12)
        self.head = nn.Linear(12, 1)  # of one row: the second process has none of it

    def forward(self, tokens):
        """Return (batch, length - 1, 1)."""
        hidden = torch.tanh(self.up(self.embed(tokens)))
        hidden = torch.tanh(self.square(self.down(hidden)))
        hidden = torch.einsum("bth,ehk->btk", hidden, self.experts)
        hidden = torch.tanh(hidden @ self.across)
        return self.head(self.conv1d(hidden.mT).mT)


def toy(*, sharded):
    torch.manual_seed(0)
    model = Toy()
    if sharded:
        across = model.across
        fully_shard(model, shard_placement_fn=lambda p: Shard(1) if p is across else None)
    return model


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 9, (4, 6), generator=generator)


def train(model, optimizer, steps, *, rank=None, differences=None):
    """Train; a process of two sees its half of every batch."""
    for step in steps:
        tokens = batch(step) if rank is None else batch(step)[2 * rank : 2 * rank + 2]
        model(tokens).square().mean().backward()
        if differences is not None:
            differences.collect_gradients()
        optimizer.step()
        optimizer.zero_grad()
        model.zero_grad()
        if differences is not None:
            differences.write_weights()


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def compare(what, ours, reference):
    wanted = dict(reference)
    worst = max((whole(each) - wanted[name]).abs().max().item() for name, each in ours)
    assert worst <= TOLERANCE, (what, worst)
    if dist.get_rank() == 0:
        print(f"{what}: {worst:.1e}")


def check_steps(rank, name, options):
    alone, shared = toy(sharded=False), toy(sharded=True)
    start = {key: each.detach().clone() for key, each in alone.named_parameters()}
    train(alone, make_optimizer(name, alone.named_parameters(), lr=0.02, **options), range(STEPS))
    optimizer = make_optimizer(name, shared.named_parameters(), lr=0.02, **options)
    train(shared, optimizer, range(STEPS), rank=rank)
    assert all(not torch.equal(start[key], each) for key, each in alone.named_parameters())
    compare(f"{name} {options}", shared.named_parameters(), alone.named_parameters())


def check_differences():
    """Differences of sharded weights are sharded, and the same."""
    alone, shared = toy(sharded=False).bfloat16(), toy(sharded=False).bfloat16()
    fully_shard(shared)
    deltas = {}
    for model in (alone, shared):
        differences = Differences(model.named_parameters())
        optimizer = Apollo(differences.named_parameters(), lr=0.02, rank=2)
        generator = torch.Generator().manual_seed(3)
        for _ in range(
            5
        ):  # equal gradients: those of a model in bfloat16 are too coarse to compare
            for _, weight in model.named_parameters():
                grad = torch.randn(weight.shape, generator=generator).bfloat16()
                if isinstance(weight, DTensor):
                    grad = distribute_tensor(grad, weight.device_mesh, weight.placements)
                weight.grad = grad
            differences.collect_gradients()
            optimizer.step()
            optimizer.zero_grad()
            differences.write_weights()
        deltas[model] = differences.state_dict()
    compare("differences", deltas[shared].items(), deltas[alone].items())
    for name, weight in shared.named_parameters():
        assert isinstance(deltas[shared][name], DTensor), name
        assert weight.dtype == torch.bfloat16
        assert deltas[shared][name].placements == weight.placements, name


def check_resuming(rank, folder):
    """A distributed checkpoint resumes to identical steps."""
    model = toy(sharded=True)
    optimizer = Apollo(model.named_parameters(), lr=0.02, rank=2, refresh=4)
    train(model, optimizer, range(10), rank=rank)
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder / "checkpoint")
    train(model, optimizer, range(10, 20), rank=rank)

    other = toy(sharded=True)
    again = Apollo(other.named_parameters(), lr=0.02, rank=2, refresh=4)
    weights, state = get_state_dict(other, again)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder / "checkpoint")
    set_state_dict(other, again, model_state_dict=weights, optim_state_dict=state)
    train(other, again, range(10, 20), rank=rank)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(whole(one), whole(two)), name


def check_refusal():
    mesh = init_device_mesh("cpu", (1, 2))
    weight = nn.Parameter(distribute_tensor(torch.ones(4, 6), mesh, [Shard(0), Shard(1)]))
    with pytest.raises(InputError, match="cannot train w"):
        Apollo([("w", weight)], lr=0.1)
    for places in ([Replicate(), Shard(0)], [Shard(0), Replicate()], [Replicate(), Replicate()]):
        weight = nn.Parameter(distribute_tensor(torch.ones(6, 4), mesh, places))
        weight.grad = distribute_tensor(torch.ones(6, 4), mesh, places)
        Apollo([("w", weight)], lr=0.1, rank=2).step()


def main():
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    decay = {"weight_decay": 0.1}
    check_steps(rank, "apollo", {"rank": 3} | decay)
    check_steps(rank, "apollo", {"rank": 64})
    check_steps(rank, "apollo-mini", decay)
    check_differences()
    check_resuming(rank, folder)
    check_refusal()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
