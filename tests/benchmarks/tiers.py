"""A frozen context against a full pass, and against one that is checkpointed.

Every figure is of one example with a decision of 64 tokens (or four of them on one context), in
float32, each tier in a process of its own: see tier_step.py for what is measured there.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.measuring import ENVIRONMENT, megabytes
from tests.benchmarks.table import Row

__all__ = ["rows"]

_ROOT: Final = Path(__file__).parents[2]
_FROZEN, _FROZEN_TWICE = "frozen-context", "frozen-context+"
_WORDS: Final[Mapping[str, str]] = {
    "full": "full",
    "checkpointed": "checkpointed",
    _FROZEN: "frozen context",
    _FROZEN_TWICE: "frozen context with a checkpointed decision",
}
_PAIRS: Final = (
    (_FROZEN, "full"),
    (_FROZEN, "checkpointed"),
    ("checkpointed", "full"),
    (_FROZEN_TWICE, "checkpointed"),
)


@dataclass(frozen=True, slots=True)
class _Steps:
    """What one process found; see tier_step.py."""

    seconds: list[float]
    peak: int
    kept: int
    parameters: int


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure tiers of gradient; see tests/benchmarks/__main__.py."""
    contexts = (128,) if small else (1024, 4096)
    names = ("small-qwen3", "small-qwen3.5") if small else ("qwen3", "qwen3.5")
    runs = 1 if small else 2
    found: list[Row] = []
    for name in names:
        for context in contexts:
            found += _of_context(name, context, runs)
        # Only on the shorter one: four full passes over the longer take a dozen GB.
        found += _of_decisions(name, contexts[0], 4, runs)
    return found


def _of_context(name: str, context: int, runs: int) -> list[Row]:
    steps = {tier: _measured(name, context, 1, tier, runs) for tier in _WORDS}
    where = _where(name, steps["full"], context)
    return [
        row
        for over, under in _PAIRS
        for row in _compared(
            f"{where}: {_WORDS[over]} over {_WORDS[under]}", steps[over], steps[under]
        )
    ]


def _of_decisions(name: str, context: int, count: int, runs: int) -> list[Row]:
    frozen, full = (_measured(name, context, count, tier, runs) for tier in (_FROZEN, "full"))
    where = _where(name, full, context)
    return _compared(f"{where}, {count} decisions on it: frozen context over full", frozen, full)


def _where(name: str, steps: _Steps, context: int) -> str:
    size = f"{steps.parameters / 1e6:.0f} M"
    return f"{name.removeprefix('small-')} of {size}, context of {context}"


def _measured(name: str, context: int, decisions: int, tier: str, runs: int) -> _Steps:
    command = [sys.executable, "-m", "tests.benchmarks.tier_step", name]
    more = [str(context), str(decisions), tier, str(runs)]
    done = subprocess.run(
        [*command, *more], cwd=_ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join([*command, *more])}: {done.stderr[-300:]}")
    return _Steps(**json.loads(done.stdout))


def _compared(what: str, over: _Steps, under: _Steps) -> list[Row]:
    least, most = min(over.seconds), min(under.seconds)
    peaks, kept = (over.peak, under.peak), (over.kept, under.kept)
    return [
        Row(f"CPU: a step, {what}", least / most, f"{least:.2f} s against {most:.2f} s"),
        Row(
            f"peak memory of a step, {what}",
            peaks[0] / peaks[1],
            f"above the model {megabytes(peaks[0])} against {megabytes(peaks[1])}; "
            f"kept for the backward pass {megabytes(kept[0])} against {megabytes(kept[1])}",
        ),
    ]
