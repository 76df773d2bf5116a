"""A stocked repository, made once and copied for each test; the environment is nobody's."""

import contextlib
import io
import os
from pathlib import Path

import pytest
from cli_bench import Cli, copied, save_adapter, save_model, tuned, weights_of

from tvc.cli.main import _run


@pytest.fixture(scope="session", autouse=True)
def session_environment():
    """Nothing of the person who runs the tests, and no waiting for the disk.

    What survives a power cut is tested where files are written (tests/store, tests/repository).
    """
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "Ada")
            patch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
            patch.setenv(f"GIT_{role}_DATE", "2026-01-02T03:04:05Z")
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("GIT_TEST_FSYNC", "0")
        patch.setenv("COLUMNS", "100")
        patch.setenv("TERM", "dumb")
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home of its own for each test."""
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Folder of a base, its fine-tunes and adapters."""
    folder = tmp_path_factory.mktemp("models")
    base = weights_of(0)
    save_model(folder / "base", base)
    for seed, name in enumerate(["listen", "brief", "hedging"], 1):
        save_model(folder / name, tuned(base, seed))
    save_model(folder / "other_base", weights_of(100))
    save_model(folder / "formal", tuned(base, 7), chat_template__jinja="formal {{ messages }}")
    save_model(folder / "casual", tuned(base, 8), chat_template__jinja="casual {{ messages }}")
    save_adapter(folder / "lora")
    return folder


def _quietly(*arguments: object) -> None:
    """Run tvc where no fixture catches what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = _run(["-q", *map(str, arguments)])
    assert status == 0, said.getvalue()


@pytest.fixture(scope="session")
def template(models, tmp_path_factory) -> Path:
    """A repository whose branches listen, brief and hedging each have one vector more than main."""
    root = tmp_path_factory.mktemp("template") / "repo"
    with contextlib.chdir(root.parent):
        _quietly("init", "repo", "--base", models / "base")
    with contextlib.chdir(root):
        for name in ("listen", "brief", "hedging"):
            _quietly("switch", "-c", name, "main")
            _quietly("commit", models / name, "-m", f"Teach {name}", "--name", name)
        _quietly("switch", "main")
    return root


@pytest.fixture(scope="session")
def clash_template(template, tmp_path_factory) -> Path:
    """On branch more; the branches more and less have listen at 2 and at 0.5."""
    root = copied(template, tmp_path_factory.mktemp("clash") / "repo")
    with contextlib.chdir(root):
        for name, coefficient in (("less", "0.5"), ("more", "2")):
            _quietly("switch", "-c", name, "listen")
            _quietly("scale", "listen", coefficient)
            _quietly("commit", "-m", f"listen at {coefficient}")
    return root


@pytest.fixture(scope="session")
def templates_template(template, models, tmp_path_factory) -> Path:
    """On branch casual; the branches formal and casual changed the chat template differently."""
    root = copied(template, tmp_path_factory.mktemp("templates") / "repo")
    with contextlib.chdir(root):
        for name in ("formal", "casual"):
            _quietly("switch", "-c", name, "main")
            _quietly("commit", models / name, "-m", name)
    return root


@pytest.fixture(scope="session")
def history_template(template, tmp_path_factory) -> Path:
    """A merge by TIES, a commit on it, a tag, and an edit that is not committed."""
    root = copied(template, tmp_path_factory.mktemp("history") / "repo")
    merge = ["merge", "--ties", "listen", "brief", "--density", "0.5", "-m", "Listen, and be brief"]
    with contextlib.chdir(root):
        _quietly(*merge)
        _quietly("add", "hedging", "--scale", "-0.5")
        _quietly("commit", "-m", "Hedge less\n\nA second paragraph.")
        _quietly("tag", "v1")
        _quietly("scale", "brief", "0.8")
    return root


@pytest.fixture
def tvc(monkeypatch, capsys, tmp_path) -> Cli:
    """The command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Cli(monkeypatch, capsys)


@pytest.fixture
def repo(tvc, template, tmp_path, monkeypatch) -> Path:
    """A copy of the stocked repository, which is the current folder."""
    root = copied(template, tmp_path / "repo")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def clash(tvc, clash_template, tmp_path, monkeypatch) -> Path:
    """A copy of the repository with a conflict, which is the current folder."""
    root = copied(clash_template, tmp_path / "repo")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def talkers(tvc, templates_template, tmp_path, monkeypatch) -> Path:
    """A copy of the repository with two chat templates, which is the current folder."""
    root = copied(templates_template, tmp_path / "repo")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def history(tvc, history_template, tmp_path, monkeypatch) -> Path:
    """A copy of the repository with a history, which is the current folder."""
    root = copied(history_template, tmp_path / "repo")
    monkeypatch.chdir(root)
    return root
