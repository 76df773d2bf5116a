"""Commands that only look, and completion, load no torch and nothing else that is slow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

SLOW = {"huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "transformers", "yaml"}
"""Libraries that take longer to import than the command takes to answer."""

LOOKING = {
    "log": ["log", "--graph", "--all"],
    "log --json": ["log", "--json"],
    "status": ["status"],
    "diff": ["diff", "HEAD~1", "HEAD"],
    "diff of the working tree": ["diff"],
    "show": ["show"],
    "branch": ["branch"],
    "tag": ["tag"],
    "op log": ["op", "log"],
    "help": ["--help"],
    "version": ["--version"],
    "a mistake": ["comit"],
}


def run(folder: Path, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tvc, with the time of every import on standard error."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tvc", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert "tvc" in names
    return names


WORKING = (
    "commit ../tuned -m Ones --name again",
    "checkout -o ../out",
    "checkout HEAD~1 -o ../base-again --verify",
    "checkout -o ../out --force --dtype float16",
    "scale again 0.5",
    "commit -m Half",
    "checkout -o ../half",
    "merge --linear half other -m Both",
)
"""Work on weights; only the last needs a merge method, and so torch."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    for name, value in (("base", 0), ("tuned", 1)):
        (folder / name).mkdir()
        weights = {"a.weight": np.full((4, 4), value, np.float32)}
        save_file(weights, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    assert run(folder, ["init", "repository", "--base", "base"]).returncode == 0
    root = folder / "repository"
    done = run(root, ["commit", "../tuned", "-m", "Ones", "--name", "ones"])
    assert done.returncode == 0
    assert "numpy" in imported(done), "a commit reads weights: else this test sees nothing"
    assert run(root, ["scale", "ones", "0.5"]).returncode == 0
    return root


@pytest.mark.parametrize("arguments", LOOKING.values(), ids=list(LOOKING))
def test_looking_is_light(repository: Path, arguments: list[str]) -> None:
    done = run(repository, arguments)
    assert done.returncode == (1 if arguments == ["comit"] else 0), done.stderr[-2000:]
    assert not imported(done) & SLOW


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("tvc sw", "switch"),
        ("tvc switch ma", "main"),
        ("tvc show m", "main"),
        ("tvc diff ma", "main"),
        ("tvc add on", "ones"),
        ("tvc scale on", "ones"),
        ("tvc log --gr", "--graph"),
        ("tvc merge ma", "main"),
        ("tvc revert ma", "main"),
        ("tvc commit --allow-m", "--allow-missing"),
        ("tvc checkout --dr", "--dry-run"),
    ],
)
def test_completing_is_light(repository: Path, words: str, answer: str) -> None:
    count = str(len(words.split()) - 1)
    environment = {"_TVC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    done = run(repository, [], **environment)
    if answer not in done.stdout:
        pytest.fail(f"{answer} is not offered: {done.stdout}")
    assert not imported(done) & SLOW


def test_only_merge_methods_load_torch(tmp_path: Path, repository: Path) -> None:
    for name in ("base", "tuned"):
        shutil.copytree(repository.parent / name, tmp_path / name)
    done = run(tmp_path, ["init", "repository", "--base", "base"])
    found = {"init": "torch" in imported(done)}
    for line in WORKING:
        done = run(tmp_path / "repository", line.split(" "))
        assert done.returncode == 0 or line == WORKING[-1], done.stderr[-2000:]
        found[line] = "torch" in imported(done)
    assert found == {"init": False} | {line: line == WORKING[-1] for line in WORKING}
