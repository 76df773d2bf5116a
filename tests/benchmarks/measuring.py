"""Running commands against each other: in turns, many times, with what the kernel says of them.

Imports nothing that is large: the kernel counts the memory of the process that starts a command as
the command's own peak.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.benchmarks.table import Row

__all__ = [
    "TVC",
    "Measured",
    "Sample",
    "Work",
    "command_in",
    "in_turns",
    "megabytes",
    "ratio_row",
    "run",
]

TVC: Final = [str(Path(sys.executable).with_name("tvc"))]
"""The command as it is installed, beside the interpreter that runs this."""

ENVIRONMENT: Final = os.environ | {
    "GIT_AUTHOR_NAME": "Benchmark",
    "GIT_AUTHOR_EMAIL": "benchmark@example.org",
    "GIT_COMMITTER_NAME": "Benchmark",
    "GIT_COMMITTER_EMAIL": "benchmark@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "HF_HUB_OFFLINE": "1",
}
_SAID_AT_MOST: Final = 300
_NAMES: Final = {"cpu": "CPU", "wall": "wall"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a command.

    Args:
        wall: Seconds from its start to its end.
        cpu: Seconds of user and system time, of it and of all its children that ended.
        peak: Largest resident memory, in bytes, of it or of one of its children.
    """

    wall: float
    cpu: float
    peak: int


Work = Callable[[], Sample]
"""Runs something once and says what it took."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All runs of a command, at least one."""

    samples: tuple[Sample, ...]

    @property
    def wall(self) -> float:
        """Least seconds from start to end."""
        return min(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> float:
        """Least seconds of user and system time."""
        return min(sample.cpu for sample in self.samples)

    @property
    def peak(self) -> int:
        """Largest resident memory of all runs, in bytes."""
        return max(sample.peak for sample in self.samples)


def run(command: Sequence[str], folder: Path) -> Sample:
    """Run a command to its end and say what it took.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            text = said.read()[-_SAID_AT_MOST:]
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {text}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def in_turns(
    commands: Mapping[str, Work], *, runs: int, once: Collection[str] = ()
) -> dict[str, Measured]:
    """Run commands A B A B …, so that what else the machine does meets all of them alike.

    Args:
        commands: By name.
        runs: How often each is measured. With more than one, each is run once more before that,
            to warm the page cache.
        once: Those that take too long to be repeated: measured once, in the first turn.
    """
    if runs > 1:
        for name, command in commands.items():
            if name not in once:
                command()
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    for number in range(runs):
        for name, command in commands.items():
            if number == 0 or name not in once:
                samples[name].append(command())
    return {name: Measured(tuple(each)) for name, each in samples.items()}


def command_in(folder: Path, command: Sequence[str]) -> Work:
    """Return the work of running a command in a folder."""
    return lambda: run(command, folder)


def ratio_row(
    what: str,
    over: Measured,
    under: Measured,
    measure: Literal["cpu", "wall"],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """Return how many times as long one takes as another.

    Args:
        what: What is compared, after the word CPU or wall.
        over: What is divided.
        under: What it is divided by.
        measure: CPU or wall seconds.
        at_most: Target of the ratio.
        at_least: Likewise.
    """
    sides = [[getattr(sample, measure) for sample in side.samples] for side in (over, under)]
    return Row(
        f"{_NAMES[measure]}: {what}",
        min(sides[0]) / min(sides[1]),
        f"{_spread(sides[0])} against {_spread(sides[1])}",
        at_most=at_most,
        at_least=at_least,
    )


def _spread(values: Sequence[float]) -> str:
    least, greatest = min(values), max(values)
    return _seconds(least) + (f" (to {_seconds(greatest)})" if len(values) > 1 else "")


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def megabytes(count: float) -> str:
    """Return bytes as text."""
    return f"{count / 1e6:.1f} MB" if abs(count) < 1e8 else f"{count / 1e6:.0f} MB"
