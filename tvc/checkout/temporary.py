"""A model folder for as long as it is read: of a commit, or of a recipe that nobody committed.

It lies in the repository's private folder and is removed afterwards; what a killed process left is
removed by the next one. Its lock is the kernel's, so nobody's folder is removed while in use.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tvc.checkout.writing import Checkout
from tvc.models.writer import SHARD_BYTES
from tvc.repository.layout import Layout
from tvc.repository.objects import Objects, open_objects
from tvc.repository.state import State
from tvc_store.durable import make_folder, write_errors
from tvc_store.lock import Lock, Locked

__all__ = ["checked_out"]

_LOCK: Final = ".lock"


@contextmanager
def checked_out(
    layout: Layout,
    state: State,
    *,
    commit: str = "",
    workers: int = 2,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Generator[Path]:
    """Yield a model folder of what a state's recipe gives, and remove it afterwards.

    Args:
        layout: The repository.
        state: Whose recipe is evaluated; `state.with_recipe(...)` for another one.
        commit: Full hash, where it is a commit's, for the folder's own records.
        workers: Tensors at a time.
        on_bytes: Called with the bytes of every tensor done.

    Raises:
        CannotCombine: The recipe asks for arithmetic that is not defined.
        IntegrityError: An object is damaged or missing.
        WriteFailed: The system refused.
    """
    folder = layout.private / "checkouts"
    make_folder(folder)
    _remove_left(folder)
    with _own(folder) as place:
        model = place / "model"
        with open_objects(layout) as store:
            planned = Checkout(Objects(store, state), state.recipe, commit=commit, workers=workers)
            planned.write(model, title="model", shard_size=SHARD_BYTES, on_bytes=on_bytes)
        yield model


@contextmanager
def _own(folder: Path) -> Generator[Path]:
    """Yield a new folder that is locked while the context lasts, and remove it."""
    place = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
    lock = place.with_suffix(_LOCK)
    with Lock.exclusive(lock, command="read a checkout"):
        try:
            with write_errors(place):
                place.mkdir()
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _remove_left(folder: Path) -> None:
    """Remove what killed processes left."""
    for lock in folder.glob(f"*{_LOCK}"):
        with suppress(Locked), Lock.exclusive(lock, command="remove a checkout"):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
