"""Starts a repository on a base model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tvc.domain.errors import InputError, StateError
from tvc.domain.names import check_name
from tvc.domain.recipe import Recipe
from tvc.domain.vector import BaseRecord
from tvc.models.directory import ModelDirectory
from tvc.recording.base import borrow_model, snapshot_model
from tvc.repository.gateway import GitGateway
from tvc.repository.layout import Layout
from tvc.repository.objects import open_objects
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc_store.durable import make_folder, write_errors
from tvc_store.local import Store

__all__ = ["register_base", "start_repository"]


def start_repository(
    root: Path,
    model: ModelDirectory,
    *,
    name: str,
    source: str,
    revision: str | None,
    vendor: bool,
    command: str,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Repository:
    """Make a repository whose recipe is a base model alone.

    Args:
        root: Its folder; free, or empty, or a git repository without a recipe.
        model: The base's folder.
        name: What the base is called in the repository.
        source: Where the base is had from: a folder, or a hub id.
        revision: The hub's commit.
        vendor: Copy the base's tensors into the store.
        command: The command line.
        on_bytes: Called with the size of every tensor hashed.

    Raises:
        StateError: The folder is in use already; git does not know who commits.
        BadName: The base cannot be called that.
    """
    check_name(name, what="base")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is not a folder")
    _refuse_used(root)
    if not root.parent.is_dir():
        raise InputError(f"there is no folder {root.parent}", hint="make it with mkdir -p")
    # Asked before the work, not after: without a name there is nobody to commit.
    GitGateway(root.parent).run("var", "GIT_COMMITTER_IDENT")
    with write_errors(root):
        root.mkdir(exist_ok=True)
    layout = Layout(root)
    make_folder(layout.private)
    with open_objects(layout) as store:
        state = register_base(
            store,
            State(Recipe(name), {}),
            model,
            name=name,
            source=source,
            revision=revision,
            vendor=vendor,
            on_bytes=on_bytes,
        )
    message = f"Start on {source}" + (f" at {revision}" if revision else "")
    return Repository.create(root, state, message=message, command=command)


def _refuse_used(root: Path) -> None:
    """Refuse a folder that is in use; what a killed `tvc init` left is none."""
    present = {path.name for path in root.iterdir()} if root.is_dir() else set[str]()
    if not present or present == {".tvc"}:
        return
    if Repository.is_started(root) or ("recipe.toml" in present and ".tvc" not in present):
        raise StateError(f"{root} is a tvc repository already", hint="`tvc -C` works in it")
    if ".git" not in present:
        raise StateError(f"{root} is not empty", hint="name a new folder")


def register_base(
    store: Store,
    state: State,
    model: ModelDirectory,
    *,
    name: str,
    source: str,
    revision: str | None,
    vendor: bool,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> State:
    """Hash a base model and return a state that knows it; arguments as for `start_repository`.

    Raises:
        StateError: The name is another base's or a vector's.
        BadName: The base cannot be called that.
    """
    check_name(name, what="base")
    if name in state.bases or name in state.vectors:
        raise StateError(f"{name!r} is taken here", hint="choose a --name")
    snapshot = snapshot_model(store, model, on_bytes=on_bytes, vendor=vendor)
    if not vendor:
        borrow_model(store, model, snapshot, name=name)
    record = BaseRecord(source, revision, snapshot.id)
    return replace(state, bases={**state.bases, name: record})
