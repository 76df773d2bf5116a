"""A stocked repository, made once and copied for each test; the environment is nobody's."""

import contextlib
import io
import os
from pathlib import Path

import pytest
from cli_bench import Cli, copied, save_adapter, save_model, tuned, weights_of

from tvc.cli.main import _run


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Nothing of the person who runs the tests."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
        monkeypatch.setenv(f"GIT_{role}_DATE", "2026-01-02T03:04:05Z")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")


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
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "Ada")
            patch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
            patch.setenv(f"GIT_{role}_DATE", "2026-01-02T03:04:05Z")
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.chdir(root.parent)
        _quietly("init", "repo", "--base", models / "base")
        patch.chdir(root)
        for name in ("listen", "brief", "hedging"):
            _quietly("switch", "-c", name, "main")
            _quietly("commit", models / name, "-m", f"Teach {name}", "--name", name)
        _quietly("switch", "main")
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
