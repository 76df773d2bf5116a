"""Puts a finished folder in its place: built beside the target, moved there in one step.

Whatever stops the building, the target is what it was, or is not there.
"""

import ctypes
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tvc.domain.errors import InputError
from tvc_store.durable import sync_folder, write_errors

__all__ = ["TargetInTheWay", "replaced_folder"]

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_MARK: Final = ".tvc-unfinished-"


class TargetInTheWay(InputError):
    """The target of a command is something that it must not replace."""


@contextmanager
def replaced_folder(target: Path, *, force: bool) -> Generator[Path]:
    """Yield a new folder beside `target`, and put it in the target's place at the end.

    Args:
        target: A path that is free or an empty folder; with `force`, a folder that holds a model.
        force: Replace a model that is there.

    Raises:
        TargetInTheWay: The target may not be replaced; its parent does not exist.
        WriteFailed: The system refused.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 -- resolve() would follow a link at the end
    _check_target(target, force=force)
    _remove_unfinished(target)
    folder = target.with_name(f".{target.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    with write_errors(target):
        folder.mkdir()
    try:
        yield folder
        with write_errors(target):
            sync_folder(folder)
            _put(folder, target)
            sync_folder(target.parent)
    finally:
        # What stands here now is an unfinished folder, or the one that was replaced.
        shutil.rmtree(folder, ignore_errors=True)


def _check_target(target: Path, *, force: bool) -> None:
    if not target.parent.is_dir():
        raise TargetInTheWay(f"there is no folder {target.parent}", hint="make it with mkdir -p")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TargetInTheWay(f"{target} is not a folder", hint="name another one with -o")
    if not target.exists() or not any(target.iterdir()):
        return
    if not force:
        raise TargetInTheWay(
            f"{target} is not empty", hint="name another one with -o, or replace it with --force"
        )
    if (target / ".git").exists() or not (
        (target / "config.json").is_file() or (target / "adapter_config.json").is_file()
    ):
        raise TargetInTheWay(
            f"{target} does not hold a model, so it is not replaced",
            hint="name another folder with -o, or empty this one yourself",
        )


def _remove_unfinished(target: Path) -> None:
    """Remove what killed processes left beside the target."""
    for path in target.parent.glob(f".{target.name}{_MARK}*-*"):
        owner = path.name.rpartition(_MARK)[2].split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _put(folder: Path, target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        if _exchange(folder, target):
            return
        # A file system that cannot exchange: for a moment neither is there, then the new one.
        old = folder.with_name(f"{folder.name}.old")
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.replace(target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can; say whether it did."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    result = rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    return result == 0
