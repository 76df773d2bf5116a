"""Every numbered example runs, ends well, and shows what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERED = sorted(EXAMPLES.glob("[0-9]*.sh")) + sorted(EXAMPLES.glob("[0-9]*.py"))

SHOWN = {
    "00_story": ["../composed and ../reverted: 35 tensors, the same bit for bit"],
    "01_commit_and_restore": [
        "../models/listen and ../restored: 35 tensors, the same bit for bit",
        "0 copied from the base, 35 restored, 0 computed",
        "verified",
    ],
    "02_add_scale_negate": ["recipe: base + listen - 1/3 * hedging"],
    "03_ties_or_plain_merge": [
        "base + brief + listen",
        "base + 1.3 * ties(brief, listen; density=0.2)",
    ],
    "04_adapters": ["the same bit for bit"],
    "05_conflict_and_undo": ["<<<<<<< less", "(exit code 4)", "back to before the merge"],
    "06_your_own_merge_method": [
        "median(listen, brief, hedging)",
        "error: no merge method 'median'",
    ],
    "07_load_and_train_on": ["restored: 35 tensors, the same bit for bit"],
    "08_behaviours": [
        "so it is: accept shows its behaviour more often than the base",
        "so it is: the recipe before and after has one id",
        "so it is: the bytes are the same",
    ],
}
"""Lines without which an example has not shown what it is for, by its name."""

ARGUMENTS = {"08_behaviours": ["--short"]}
"""Of examples that take more than a folder."""


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models, which every example finds there."""
    folder = tmp_path_factory.mktemp("examples")
    run([sys.executable, EXAMPLES / "tiny_models.py", "make", folder / "models"])
    return folder


def run(command: list[str | Path]) -> str:
    # The tvc beside this interpreter is the one that is tested, not one that happens to be found.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_every_example_is_known() -> None:
    assert [path.stem for path in sorted(NUMBERED)] == list(SHOWN)


@pytest.mark.slow
@pytest.mark.parametrize("script", NUMBERED, ids=lambda path: path.stem)
def test_example(script: Path, work: Path) -> None:
    interpreter = [sys.executable] if script.suffix == ".py" else ["bash"]
    shown = run([*interpreter, script, work, *ARGUMENTS.get(script.stem, [])])
    for line in SHOWN[script.stem]:
        assert line in shown
