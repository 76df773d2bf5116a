"""What a vector says of the training that made it: enough to repeat it, and to know what it cost.

Text and numbers only, one line each in `vectors/NAME.toml`. Absent: the data themselves.
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from tvc import __version__
from tvc.domain.names import printable
from tvc.domain.vector import Scalar
from tvc.training.settings import Settings

__all__ = ["measured", "provenance_after", "provenance_before", "versions"]

_POINTS: Final = 32
"""Of the loss curve."""
_SHARE: Final = 10
"""The first and the last tenth of the steps say what the loss was and became."""


def versions() -> str:
    """Return what a figure depends on besides its settings: versions of what computes."""
    found = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    return ", ".join([f"tvc {__version__}", *found, f"python {platform.python_version()}"])


def provenance_before(settings: Settings, command: str) -> dict[str, Scalar]:
    """Return what is known before the first step.

    Args:
        settings: Of the training.
        command: What repeats it.
    """
    return {
        "made_by": "tvc train",
        "command": command,
        "tier": settings.tier,
        "optimizer": settings.optimizer,
        **_numbers(settings),
        "seed": settings.seed,
        "steps": settings.steps,
        "batch": settings.batch,
        "device": _device(settings),
        "versions": versions(),
    }


def provenance_after(log: Sequence[Mapping[str, Any]]) -> dict[str, Scalar]:
    """Return what the steps were: tokens and the curve of the loss.

    Args:
        log: A record of each step, in order.
    """
    every = max(1, -(-len(log) // _POINTS))
    shown = [*log[::every], log[-1]] if (len(log) - 1) % every else log[::every]
    return {
        "trained_tokens": sum(int(step["tokens"]) for step in log),
        "context_tokens": sum(int(step["context_tokens"]) for step in log),
        "seconds": round(sum(float(step["seconds"]) for step in log), 1),
        "loss_curve": " ".join(f"{step['step']}:{step['loss']:.4g}" for step in shown),
    }


def measured(log: Sequence[Mapping[str, Any]]) -> dict[str, Scalar]:
    """Return what is measured of a training: the loss before and after, where the gradient went.

    Args:
        log: A record of each step, in order.
    """
    part = max(1, len(log) // _SHARE)
    losses = [float(step["loss"]) for step in log]
    facts: dict[str, Scalar] = {
        "loss_first": float(f"{sum(losses[:part]) / part:.5g}"),
        "loss_last": float(f"{sum(losses[-part:]) / part:.5g}"),
    }
    squares = Counter[str]()
    for step in log:
        squares.update(step["gradient"])
    total = sum(squares.values()) or 1.0
    for kind, square in squares.most_common():
        facts[f"gradient_{kind}"] = float(f"{square / total:.3g}")
    return facts


def _numbers(settings: Settings) -> dict[str, Scalar]:
    facts: dict[str, Scalar] = {
        "lr": settings.lr,
        "schedule": f"{settings.schedule}, {settings.warmup} steps of warm-up",
        "weight_decay": settings.weight_decay,
    }
    if settings.clip:
        facts["clip"] = settings.clip
    if settings.optimizer.startswith("apollo"):
        facts["rank"] = settings.rank if settings.optimizer == "apollo" else 1
        facts["multiplier"] = settings.multiplier
    return facts


def _device(settings: Settings) -> str:
    many = f"{settings.processes} processes, " if settings.processes > 1 else ""
    if settings.device == "cuda":
        return f"{many}{torch.cuda.get_device_name()}"
    threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    return f"{many}{threads}, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return printable(names[0]) if names else platform.machine()
