"""Models to measure with: random bf16 weights, and fine-tunes that moved them by random steps.

    python models.py base FOLDER MEGABYTES    prints the bytes of the largest tensor
    python models.py tuned BASE FOLDER STEP SEED
    python models.py xor BASE TUNED           prints the bytes of XOR, then zstd-3

Runs apart from the benchmarks: the kernel counts the memory of a process that starts a command as
the command's own peak.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import zstandard
from safetensors import safe_open
from safetensors.torch import save_file

__all__ = ["main", "make_base", "make_tuned", "xor_then_zstd"]

_WIDTH = 2048
_FRAME = 4 << 20


def shapes_of(megabytes: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a model: an embedding of an eighth, the rest matrices and norms."""
    total = (megabytes << 20) // 2
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (total // 8 // _WIDTH, _WIDTH)}
    matrix = (_WIDTH, _WIDTH) if total >= 64 * _WIDTH * _WIDTH else (_WIDTH // 4, _WIDTH)
    count = (total - total // 8) // (matrix[0] * matrix[1])
    for layer in range(count):
        shapes[f"layers.{layer}.weight"] = matrix
        shapes[f"layers.{layer}.norm.weight"] = (_WIDTH,)
    return shapes


def make_base(folder: Path, megabytes: int) -> int:
    """Write a model folder of about `megabytes` MiB; return the bytes of its largest tensor."""
    generator = torch.Generator().manual_seed(0)
    shapes = shapes_of(megabytes)
    _save(
        folder,
        (
            (name, torch.randn(shape, generator=generator).mul_(0.02))
            for name, shape in shapes.items()
        ),
    )
    return max(2 * math.prod(shape) for shape in shapes.values())


def make_tuned(base: Path, folder: Path, *, step: float, seed: int) -> None:
    """Write a fine-tune: every weight moved by a random step, and rounded."""
    generator = torch.Generator().manual_seed(seed)
    with safe_open(base / "model.safetensors", "pt") as file:
        _save(
            folder,
            (
                (name, torch.randn(tensor.shape, generator=generator).mul_(step).add_(tensor))
                for name in file.keys()  # noqa: SIM118 -- not a dict
                for tensor in [file.get_tensor(name)]
            ),
        )


def _save(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    folder.mkdir()
    stored = {name: tensor.to(torch.bfloat16) for name, tensor in tensors}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "random", "dtype": "bfloat16"}))


def xor_then_zstd(base: Path, tuned: Path) -> int:
    """Return the bytes of a fine-tune stored as others do: XOR with the base, zstd-3, by 4 MiB."""
    compressor = zstandard.ZstdCompressor(level=3)
    total = 0
    with (
        safe_open(base / "model.safetensors", "pt") as before,
        safe_open(tuned / "model.safetensors", "pt") as after,
    ):
        for name in before.keys():  # noqa: SIM118 -- not a dict
            left, right = (
                file.get_tensor(name).reshape(-1).view(torch.uint8).numpy()
                for file in (before, after)
            )
            mixed = np.bitwise_xor(left, right)
            for start in range(0, len(mixed), _FRAME):
                total += len(compressor.compress(mixed[start : start + _FRAME].tobytes()))
    return total


def main(command: str, first: str, second: str, *more: str) -> None:
    """Run what the command line asks for."""
    if command == "base":
        print(make_base(Path(first), int(second)))
    elif command == "tuned":
        make_tuned(Path(first), Path(second), step=float(more[0]), seed=int(more[1]))
    else:
        print(xor_then_zstd(Path(first), Path(second)))


if __name__ == "__main__":
    main(*sys.argv[1:])
