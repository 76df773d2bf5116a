"""Fixtures of the tests of crashes and of upkeep: a server of commands, and worlds to damage."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.fork_server import ForkServer
from crash.world import build, copy

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
def fresh(server: ForkServer, tmp_path: Path) -> Path:
    """A world whose base model is its own."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    build(server, folder)
    return folder
