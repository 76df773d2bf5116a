"""A tiny world to crash in: models, a repository, what it should be, and whether it is."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
from crash.fork_server import ForkServer, Outcome

from tvc.models.writer import ModelWriter, plan_shards
from tvc.repository.layout import Layout
from tvc.repository.repository import Repository
from tvc.repository.state import State, documents_at
from tvc_store.dtypes import TensorSpec

ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A. Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "A. Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
}
SPECS = {
    "a.weight": TensorSpec("BF16", (16, 12)),
    "b.weight": TensorSpec("F32", (5,)),
    "c": TensorSpec("I32", ()),
}


def make_models(folder: Path) -> None:
    """Make a base and three fine-tunes that change different parts of it."""
    rng = np.random.default_rng(0)
    wide = rng.standard_normal(192).astype(np.float32) * np.float32(0.02)
    base = {
        "a.weight": (wide.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8),
        "b.weight": rng.standard_normal(5).astype(np.float32).view(np.uint8),
        "c": np.array([7], np.int32).view(np.uint8),
    }
    _write(folder / "base", base)
    for seed, name in enumerate(("listen", "brief", "hedge"), 1):
        rng = np.random.default_rng(seed)
        steps = rng.integers(-4, 5, 192) * (rng.random(192) < 0.5)
        a = (base["a.weight"].view(np.uint16).astype(np.int64) + steps).astype(np.uint16)
        tuned = base | {"a.weight": a.view(np.uint8)}
        if name == "listen":
            b = base["b.weight"].view(np.float32) + np.float32(0.01)
            tuned["b.weight"] = b.view(np.uint8)
        _write(folder / name, tuned, chat_template=name if name == "listen" else "base")


def _write(folder: Path, data: dict, chat_template: str = "base") -> None:
    folder.mkdir(parents=True)
    writer = ModelWriter(folder, plan_shards(SPECS, shard_size=1 << 30), SPECS)
    for name in SPECS:
        writer.write(name, data[name])
    writer.finish()
    (folder / "config.json").write_text('{"model_type": "test"}')
    (folder / "chat_template.jinja").write_text(f"{chat_template}: {{{{ messages }}}}\n" * 20)


def build(server: ForkServer, world: Path) -> Path:
    """Make a repository with branches listen, brief and hedge over main, and return its root."""
    make_models(world / "models")
    ok(server.run("init", "repo", "--base", world / "models/base", cwd=world))
    root = world / "repo"
    for name in ("listen", "brief", "hedge"):
        ok(server.run("switch", "-c", name, "main", cwd=root))
        model = world / "models" / name
        ok(server.run("commit", model, "-m", f"Teach {name}", "--name", name, cwd=root))
    ok(server.run("switch", "main", cwd=root))
    return root


def ok(outcome: Outcome, code: int = 0) -> Outcome:
    assert outcome.code == code, outcome
    return outcome


def copy(source: Path, target: Path) -> Path:
    """Copy a folder with all times, in place of one that may be there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


def fingerprint(root: Path) -> object:
    """Say where a repository stands, without what differs from run to run (times, and so hashes)."""
    repository = Repository(Layout(root))
    position = repository.position()
    refs = {ref: _history(repository, sha) for ref, sha in position.refs.items()}
    head = position.head if position.branch else _history(repository, position.head)
    overlay = {path: text and _timeless(text) for path, text in position.overlay.items()}
    merging = position.merging and json.loads(position.merging)["message"]
    git = repository.git.text("status", "--porcelain").splitlines()
    return json.loads(json.dumps([head, refs, overlay, merging, git]))


def _history(repository: Repository, sha: str) -> object:
    lines = repository.git.text("log", "--topo-order", "--format=%s/%P", sha).splitlines()
    subjects = [(s.rpartition("/")[0], len(s.rpartition("/")[2].split())) for s in lines]
    documents = documents_at(repository.git, sha)
    State.parse(documents)
    return [subjects, {path: _timeless(text) for path, text in sorted(documents.items())}]


def _timeless(text: str) -> str:
    return re.sub(r'^recorded = ".*"$', "", text, flags=re.MULTILINE)


def contents(folder: Path) -> dict[str, bytes] | None:
    """Return the files of a folder, None where it is not there."""
    if not folder.is_dir():
        return None
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def git_is_whole(root: Path) -> None:
    done = subprocess.run(
        ["git", "-C", str(root), "fsck", "--full", "--no-dangling"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.returncode == 0, done


def store_is_whole(server: ForkServer, root: Path) -> None:
    outcome = server.run("-q", "fsck", "--json", cwd=root)
    assert outcome.code == 0, outcome
    assert json.loads(outcome.output)["problems"] == []
