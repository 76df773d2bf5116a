"""Apollo's steps against those of torch's AdamW: time, and bytes of state.

The weights are those of attention and MLP, which Apollo projects; an embedding, which AdamW updates
in either case, would only bring the ratios nearer to 1.
"""

import resource
import time
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from tests.benchmarks.measuring import Sample, Work, in_turns, megabytes, ratio_row
from tests.benchmarks.table import Row
from tvc.optimizers.apollo import Apollo

__all__ = ["rows"]

RANKS: Final = (256, 64, 16, 1)


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure steps; see tests/benchmarks/__main__.py."""
    weights = _weights(width=64, layers=2) if small else _weights(width=768, layers=13)
    count = sum(weight.numel() for _, weight in weights)
    optimizers: dict[str, Optimizer] = {
        "AdamW, foreach": AdamW(weights, lr=1e-5, foreach=True),
        "AdamW, fused": AdamW(weights, lr=1e-5, fused=True),
    }
    optimizers |= {f"Apollo, rank {rank}": Apollo(weights, lr=1e-5, rank=rank) for rank in RANKS}
    what = f"{count / 1e6:.1f} M weights, float32, one thread, one step"
    torch.set_num_threads(1)  # threads that wait for others of a busy machine measure that machine
    works = {name: _step(optimizer) for name, optimizer in optimizers.items()}
    got = in_turns(works, runs=3 if small else 7)
    state = {name: _state_bytes(optimizer) for name, optimizer in optimizers.items()}
    base = "AdamW, foreach"
    found: list[Row] = []
    for name in optimizers:
        if name == base:
            continue
        behind = f"{megabytes(state[name])} against {megabytes(state[base])}"
        if name != "AdamW, fused":
            found.append(
                Row(f"state bytes: {name}, against AdamW", state[name] / state[base], behind)
            )
        row = f"{name}, against {base}, {what}"
        found += [ratio_row(row, got[name], got[base], "wall")]
        found += [ratio_row(row, got[name], got[base], "cpu")]
    return found


def _weights(*, width: int, layers: int) -> list[tuple[str, nn.Parameter]]:
    """Make the weights of attention and MLP of a Llama, with gradients."""
    kinds = {f"attention.{kind}": (width, width) for kind in "qkvo"}
    kinds |= {"mlp.gate": (3 * width, width), "mlp.up": (3 * width, width)}
    kinds |= {"mlp.down": (width, 3 * width), "norm": (width,)}
    torch.manual_seed(0)
    found: list[tuple[str, nn.Parameter]] = []
    for layer in range(layers):
        for kind, shape in kinds.items():
            weight = nn.Parameter(torch.randn(shape) * 0.02)
            weight.grad = torch.randn(shape) * 1e-3
            found.append((f"layers.{layer}.{kind}.weight", weight))
    return found


def _step(optimizer: Optimizer) -> Work:
    def measure() -> Sample:
        began, used = time.perf_counter(), time.process_time()
        optimizer.step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Sample(time.perf_counter() - began, time.process_time() - used, peak)

    return measure


def _state_bytes(optimizer: Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values)
