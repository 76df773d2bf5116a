"""Running commands against each other: in turns, many times, with what the kernel says of them."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TVC", "Measured", "Sample", "in_turns", "run"]

TVC = [str(Path(sys.executable).with_name("tvc"))]
"""The command as it is installed, beside the interpreter that runs this."""

ENVIRONMENT = os.environ | {
    "GIT_AUTHOR_NAME": "Benchmark",
    "GIT_AUTHOR_EMAIL": "benchmark@example.org",
    "GIT_COMMITTER_NAME": "Benchmark",
    "GIT_COMMITTER_EMAIL": "benchmark@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Sample:
    """One run of a command.

    Args:
        seconds: From its start to its end.
        peak: Largest resident memory, in bytes, of it or of one of its children.
    """

    seconds: float
    peak: int


@dataclass(frozen=True)
class Measured:
    """All runs of a command."""

    samples: tuple[Sample, ...]

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Median, least, greatest."""
        return _spread([sample.seconds for sample in self.samples])

    @property
    def peak(self) -> tuple[float, float, float]:
        """Median, least, greatest, in bytes."""
        return _spread([sample.peak for sample in self.samples])


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def run(command: Sequence[str], folder: Path) -> Sample:
    """Run a command to its end and say how long it took and how much memory it held.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {said.read()}")
    return Sample(seconds, usage.ru_maxrss * 1024)


def in_turns(commands: Mapping[str, Callable[[int], Sample]], *, runs: int) -> dict[str, Measured]:
    """Run commands A B A B …, so that what else the machine does meets all of them alike.

    Args:
        commands: By name; each is given the number of the run, from 0, and is run once more before
            that, as number -1, to warm the page cache.
        runs: How often each is measured.
    """
    for command in commands.values():
        command(-1)
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    for number in range(runs):
        for name, command in commands.items():
            samples[name].append(command(number))
    return {name: Measured(tuple(each)) for name, each in samples.items()}
