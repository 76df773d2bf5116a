"""Fixtures of the tests of crashes and of upkeep: a server of commands, and worlds to damage."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crash.fork_server import ForkServer
from crash.world import build, copy

from tvc_store.local import Store

__all__ = ["fresh", "server", "template", "world"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture(scope="session")
def template(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `models` and a `repo` with branches main, listen, brief and hedge."""
    folder = tmp_path_factory.mktemp("template") / "world"
    folder.mkdir()
    build(server, folder)
    return folder


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Path:
    """A copy of the template; its base model is still borrowed from the template's."""
    return copy(template, tmp_path / "world")


@pytest.fixture
def fresh(template: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the template whose base model is its own, and the only one there is."""
    folder = copy(template, tmp_path / "fresh")
    document = folder / "repo/bases/base.toml"
    document.write_text(document.read_text().replace(str(template), str(folder)))
    git = ["git", "-C", str(folder / "repo"), "commit", "-q", "-a", "-m", "The base moved"]
    subprocess.run(git, check=True)
    store = Store.open(folder / "repo/.tvc/objects")
    (source,) = store.sources()
    store.borrow(replace(source, root=folder / "models/base"))
    hidden = (template / "models/base").rename(template / "hidden")
    yield folder
    hidden.rename(template / "models/base")
