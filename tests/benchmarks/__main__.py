"""Benchmarks: `python -m tests.benchmarks [--small] [--write]`.

Everything is a ratio against a named other thing, measured in the same run in turns with it. No
figure is asserted anywhere; kept results are in RESULTS.md beside this file.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.measuring import TVC, Measured, Sample, in_turns, run

RESULTS = Path(__file__).with_name("RESULTS.md")

STEPS = {"light": 1e-5, "strong": 1e-4}
"""Standard deviation of what a fine-tune adds to weights with one of 0.02. The first leaves nine of
ten bf16 weights as they were, the second one of three."""

Row = tuple[str, str, str]
"""What was measured, the ratio, and the figures behind it."""


class Bench:
    """Models and a repository to measure with, in one folder.

    Args:
        folder: Empty; everything is made in it.
        megabytes: Size of the model.
        runs: How often each command is measured.
    """

    def __init__(self, folder: Path, megabytes: int, runs: int) -> None:
        self.folder = folder
        self.runs = runs
        self.largest = int(models("base", "base", megabytes, folder=folder))
        for seed, (name, step) in enumerate(STEPS.items(), start=1):
            models("tuned", "base", name, step, seed, folder=folder)
        self.raw = size_of(folder / "light")
        run([*TVC, "init", "empty", "--base", "base"], folder)

    def commit(self, name: str, number: int) -> Sample:
        """Commit a fine-tune to a copy of the empty repository."""
        repository = self.folder / f"commit_{name}"
        shutil.rmtree(repository, ignore_errors=True)
        shutil.copytree(self.folder / "empty", repository, symlinks=True)
        return run([*TVC, "-q", "commit", f"../{name}", "-m", name, "--name", name], repository)

    def checkout(self, revision: str) -> Sample:
        """Check a revision of the full repository out."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        return run([*TVC, "-q", "checkout", revision, "-o", "../out"], self.folder / "full")

    def announced(self, revision: str) -> int:
        """Return the bytes of memory that `--dry-run` announces for a checkout."""
        command = [*TVC, "checkout", revision, "--dry-run", "--json"]
        done = subprocess.run(command, cwd=self.folder / "full", capture_output=True, check=True)
        return json.loads(done.stdout)["peak_bytes"]

    def copy(self, name: str) -> Sample:
        """Copy a model folder and wait until the disk has it, as tvc does."""
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        return run(["sh", "-c", f"cp -r {name} copy && sync copy/* copy"], self.folder)

    def fill(self) -> None:
        """Make the repository with both fine-tunes on branches, and merges of them."""
        full = self.folder / "full"
        shutil.copytree(self.folder / "empty", full, symlinks=True)
        for name in STEPS:
            run([*TVC, "switch", "-c", name, "main"], full)
            run([*TVC, "-q", "commit", f"../{name}", "-m", name, "--name", name], full)
        for scope in ("tensor", "vector"):
            run([*TVC, "switch", "-c", f"ties_{scope}", "main"], full)
            merge = ["merge", "--ties", *STEPS, "--scope", scope, "--density", "0.2", "-m", scope]
            run([*TVC, "-q", *merge], full)


def models(*arguments: object, folder: Path) -> str:
    """Run tests/benchmarks/models.py in a folder, and return what it prints."""
    script = Path(__file__).with_name("models.py")
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def against(what: str, ours: Measured, theirs: Measured, peer: str) -> Row:
    """Return a row: how many times as long as the peer."""
    return (
        f"{what}, time against {peer}",
        f"{ours.seconds[0] / theirs.seconds[0]:.2f}",
        f"{_seconds(ours)} against {_seconds(theirs)}",
    )


def share(what: str, ours: float, theirs: float) -> Row:
    """Return a row: how many times as many bytes."""
    return what, f"{ours / theirs:.3f}", f"{_megabytes(ours)} against {_megabytes(theirs)}"


def _seconds(measured: Measured) -> str:
    median, least, greatest = measured.seconds
    return f"{median:.2f} s ({least:.2f} to {greatest:.2f})"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


def commits(bench: Bench) -> list[Row]:
    """Commits against copying the same folder, and what they store against others."""
    rows: list[Row] = []
    for name, step in STEPS.items():
        works = {
            "ours": lambda n, name=name: bench.commit(name, n),
            "cp": lambda _: bench.copy("light"),
        }
        got = in_turns(works, runs=bench.runs)
        rows.append(against(f"commit, steps of {step:g}", got["ours"], got["cp"], "cp -r and sync"))
        stored = size_of(bench.folder / f"commit_{name}" / ".tvc" / "objects")
        stored -= size_of(bench.folder / "empty" / ".tvc" / "objects")
        others = int(models("xor", "base", name, folder=bench.folder))
        what = f"stored, steps of {step:g}, size against"
        rows.append(share(f"{what} the raw fine-tune", stored, bench.raw))
        rows.append(share(f"{what} XOR and zstd-3", stored, others))
    return rows


def checkouts(bench: Bench) -> list[Row]:
    """Checkouts against copying the same folder, and the memory that they take."""
    bench.fill()
    revisions = {
        "restoring, steps of 1e-05": "light",
        "restoring, steps of 0.0001": "strong",
        "TIES of two, by tensor": "ties_tensor",
        "TIES of two, by vector": "ties_vector",
    }
    works: dict[str, Callable[[int], Sample]] = {
        what: lambda _, revision=revision: bench.checkout(revision)
        for what, revision in revisions.items()
    }
    got = in_turns({**works, "cp": lambda _: bench.copy("light")}, runs=bench.runs)
    torch = [sys.executable, "-c", "import torch"]
    bare = in_turns({"bare": lambda _: run(torch, bench.folder)}, runs=3)["bare"]
    times = [against(f"checkout, {what}", got[what], got["cp"], "cp -r and sync") for what in works]
    sizes: list[Row] = []
    for what, revision in revisions.items():
        above = got[what].peak[2] - bare.peak[0]
        memory = f"checkout, {what}, memory above a bare torch against"
        sizes.append(share(f"{memory} the largest tensor", above, bench.largest))
        sizes.append(share(f"{memory} what --dry-run says", above, bench.announced(revision)))
    return times + sizes


def startup(bench: Bench) -> list[Row]:
    """Commands that only look against importing what they stand on."""
    peer = "import click, git, rich"
    full = bench.folder / "full"
    commands: dict[str, Callable[[int], Sample]] = {
        "log": lambda _: run([*TVC, "log"], full),
        "status": lambda _: run([*TVC, "status"], full),
        "diff": lambda _: run([*TVC, "diff", "light", "strong"], full),
        "show": lambda _: run([*TVC, "show"], full),
        peer: lambda _: run([sys.executable, "-c", peer], full),
    }
    got = in_turns(commands, runs=3 * bench.runs)
    return [
        against(f"tvc {name}", got[name], got[peer], f'python -c "{peer}"')
        for name in commands
        if name != peer
    ]


def machine() -> list[str]:
    """Say what this was measured on; no names of hosts or folders."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(
        (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "unknown"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("tvc", "torch", "numpy", "zstandard")
    )
    return [
        f"- {datetime.datetime.now(datetime.UTC).date()}; load {os.getloadavg()[0]:.1f} before the run",
        f"- {cpu}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}",
        f"- Python {platform.python_version()}, {versions}, {git.strip()}",
    ]


def table(rows: list[Row]) -> list[str]:
    """Return rows as a table in Markdown."""
    return ["| what | ratio | figures, median (least to greatest) |", "|---|---|---|"] + [
        f"| {what} | {ratio} | {behind} |" for what, ratio, behind in rows
    ]


def main() -> None:
    """Measure, print, and keep the results where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="48 MiB and 3 runs, in a minute or two"
    )
    parser.add_argument("--megabytes", type=int, default=512, help="size of the model, in MiB")
    parser.add_argument("--write", action="store_true", help=f"keep the results in {RESULTS.name}")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    asked = parser.parse_args()
    megabytes, runs = (48, 3) if asked.small else (asked.megabytes, 5)
    lines = ["# Results", "", *machine(), ""]
    lines.append(
        f"A model of {megabytes} MiB in bf16, fine-tunes by random steps, {runs} runs in turns."
    )
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        bench = Bench(Path(folder), megabytes, runs)
        lines += ["", *table(commits(bench) + checkouts(bench) + startup(bench)), ""]
    print("\n".join(lines))
    if asked.write:
        RESULTS.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
