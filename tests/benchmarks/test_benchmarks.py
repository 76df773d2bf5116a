"""The benchmarks run, print a figure for everything that they are asked for, and clean up."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import (
    save_file,  # pyright: ignore[reportUnknownVariableType]  # no stubs
)

from tests.benchmarks.models import SIZES, make_base, make_tuned
from tests.benchmarks.peers import environment

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TINY = SIZES["tiny"]

ASKED = {
    "coding": ["FM-Delta"],
    "commit": ["wall: commit of a fine-tune", "stored bytes of that fine-tune"],
    "checkout": ["wall: checkout of a committed fine-tune"],
    "ties": [
        "CPU: ties of 3 (density 0.2), base and each 7.7 MB, against reading the four",
        "wall: ties of 3 (density 0.2), base and each 7.7 MB, trimmed over whole vectors again",
    ],
    "methods": ["slerp of 2 (t 0.5)", "model_stock of 3", "dare_ties of 3 (density 0.5)"],
    "memory": ["peak memory of commit, tiny", "peak memory of checkout, ties by vector, above"],
    "growth": ["8 fine-tunes of 7.7 MB: stored bytes of each", "CPU: tvc log --all, 8"],
    "startup": ["wall: tvc status against python"],
    "tiers": [
        "CPU: a step, qwen3 of 1 M, context of 128: frozen context over full",
        "peak memory of a step, qwen3.5 of 2 M, context of 128: frozen context over checkpointed",
    ],
    "apollo": ["state bytes: Apollo, rank 256", "CPU: Apollo, rank 1, against AdamW, foreach"],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.mark.slow
@pytest.mark.parametrize("group", ASKED)
def test_the_small_form_prints_every_ratio(group: str, work: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--small", "--only", group]
    done = subprocess.run(
        [*command, "--work", str(work)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([0-9.]+|n/a) \| .*?\| (.*?) \| (.*?) \|$", done.stdout, re.MULTILINE)
    for asked in ASKED[group]:
        assert any(what.startswith(asked) for _, what, _ in rows), done.stdout
    for ratio, what, behind in rows:
        # Peers are not installed here, or not to be had; nothing else may lack a figure.
        missing = re.search("is not installed|source only", behind)
        assert ratio != "n/a" or missing, f"{what}: {behind}"
    assert not list((work / "scratch").glob("*"))


def test_an_unknown_group_is_refused() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no group ['nothing']" in done.stderr


def test_a_peer_that_is_not_there_is_said(tmp_path: Path) -> None:
    peer = environment(tmp_path, "mergekit", install=False)
    assert peer.folder is None
    assert "mergekit==0.1.5 is not installed" in peer.says
    with pytest.raises(RuntimeError, match="not installed"):
        peer.program("python")


def test_models_are_those_of_transformers(tmp_path: Path) -> None:
    make_base(tmp_path / "base", TINY)
    weights = load_patterns(tmp_path / "base")
    assert {name: weight.shape for name, weight in weights.items()} == TINY.shapes()
    assert json.loads((tmp_path / "base" / "config.json").read_text())["model_type"] == "llama"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_fine_tunes_are_like_real_ones(tmp_path: Path) -> None:
    make_base(tmp_path / "base", TINY)
    for folder, seed in (("t1", 1), ("again", 1), ("t2", 2)):
        make_tuned(tmp_path / "base", tmp_path / folder, step=1.3e-4, seed=seed)
    base, first, again, second = (
        load_patterns(tmp_path / name) for name in ("base", "t1", "again", "t2")
    )
    name = "model.layers.1.mlp.up_proj.weight"
    unchanged = float((base[name] == first[name]).mean())
    assert 0.25 < unchanged < 0.35
    assert np.array_equal(first[name], again[name])
    assert not np.array_equal(first[name], second[name])


def test_comparing_tells_rounding_from_more(tmp_path: Path) -> None:
    one = np.full((4, 4), 0x3F80, np.uint16)
    near, far = one.copy(), one.copy()
    near[0, 0] += 1
    far[0, :2] += np.array([1, 2], np.uint16)
    for name, weights in (("base", one), ("near", near), ("far", far)):
        save_patterns(tmp_path / name, weights)
    facts = {"elements": 16, "at_limit": 0}
    assert compared(tmp_path, "near", "base") == {**facts, "differ": 1, "beyond_rounding": 0}
    assert compared(tmp_path, "far", "base") == {**facts, "differ": 2, "beyond_rounding": 1}


def test_comparing_sets_equal_magnitudes_apart(tmp_path: Path) -> None:
    base = np.full((1, 8), 0x3F80, np.uint16)
    tuned = base + np.array([[8, 4, 4, 4, 0, 0, 0, 0]], np.uint16)
    ours, theirs = tuned.copy(), tuned.copy()
    theirs[0, 2:4] = base[0, 2:4]  # keeps two of the four that are largest, by accident of a sort
    for name, weights in (("base", base), ("t", tuned), ("ours", ours), ("theirs", theirs)):
        save_patterns(tmp_path / name, weights)
    found = compared(tmp_path, "ours", "theirs", "magnitude", "0.25", str(tmp_path / "t"))
    assert found == {"elements": 8, "differ": 2, "at_limit": 2, "beyond_rounding": 0}


def compared(folder: Path, ours: str, theirs: str, *more: str) -> dict[str, int]:
    folders = [str(folder / name) for name in (ours, theirs, "base")]
    command = [sys.executable, str(HERE / "comparing.py"), *folders, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def save_patterns(folder: Path, weights: np.ndarray) -> None:
    """Write bf16 patterns as what NumPy has in place of bf16; who compares reads no types."""
    folder.mkdir()
    save_file({"w": weights}, folder / "model.safetensors")


def load_patterns(folder: Path) -> dict[str, np.ndarray]:
    body = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(body[:8], "little")
    found: dict[str, np.ndarray] = {}
    for name, facts in json.loads(body[8 : 8 + length]).items():
        if name != "__metadata__":
            start, stop = (8 + length + offset for offset in facts["data_offsets"])
            found[name] = np.frombuffer(body[start:stop], np.uint16).reshape(facts["shape"])
    return found
