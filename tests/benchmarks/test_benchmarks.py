"""The benchmarks run, and print a figure for everything that they are asked for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ASKED = [
    "commit, steps of 1e-05, time against cp -r and sync",
    "stored, steps of 0.0001, size against the raw fine-tune",
    "stored, steps of 0.0001, size against XOR and zstd-3",
    "checkout, restoring, steps of 1e-05, time against cp -r and sync",
    "checkout, TIES of two, by tensor, time against cp -r and sync",
    "checkout, TIES of two, by vector, memory above a bare torch against the largest tensor",
    'tvc status, time against python -c "import click, git, rich"',
]


@pytest.mark.slow
def test_the_small_form_prints_every_ratio(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--small", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratios = dict(re.findall(r"^\| (.*?) \| ([0-9.]+) \|", done.stdout, re.MULTILINE))
    assert set(ASKED) <= set(ratios)
    # Sizes are exact, unlike times: differences of weights are smaller than weights, and than XOR.
    assert 0 < float(ratios[ASKED[1]]) < 0.5
    assert 0 < float(ratios[ASKED[2]]) < 1
    assert not list(tmp_path.iterdir())


def test_the_kept_results_are_of_this_table() -> None:
    kept = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text()
    assert all(f"| {what} |" in kept for what in ASKED)
