"""What killed commands and servers leave behind: locks of git's, temporary files, served models.

Locks and temporary files only for who holds the repository's lock, so that they are nobody's any
longer; what servers use says itself whether it is in use.
"""

import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tvc.repository.gateway import GitGateway
from tvc.repository.layout import BASES, VECTORS, Layout
from tvc_store.durable import is_temporary, write_errors
from tvc_store.lock import Lock, Locked

__all__ = [
    "SERVED_LOCK",
    "remove_git_locks",
    "remove_old_adapters",
    "remove_pushed",
    "remove_served",
    "remove_unfinished_files",
]

SERVED_LOCK: Final = ".lock"
"""What the lock of a served folder ends with. It is shared as long as a server may use the folder,
and never removed: two processes could hold two locks of one name then."""

_LOCKS: Final = ("index.lock", "HEAD.lock", "packed-refs.lock")
_INDEX: Final = "index-"
_MARK: Final = ".tvc-unfinished-"
_NOBODY: Final = 0  # no process is called so


def remove_git_locks(git: GitGateway) -> None:
    """Remove the locks that git left when it was killed."""
    for word in ("--absolute-git-dir", "--git-common-dir"):
        folder = git.root / git.text("rev-parse", word)
        for name in _LOCKS:
            (folder / name).unlink(missing_ok=True)
        for lock in (folder / "refs").rglob("*.lock"):
            lock.unlink(missing_ok=True)


def remove_unfinished_files(layout: Layout, *, dry_run: bool = False) -> int:
    """Remove the temporary files of killed commands, but for the store's.

    Args:
        layout: The repository.
        dry_run: Only count.

    Returns:
        The bytes that they have.
    """
    found = [path for path in layout.private.glob(f"{_INDEX}*") if path.is_file()]
    for folder in (layout.root, layout.private, layout.operations):
        found += (path for path in folder.glob(".tvc-*") if is_temporary(path.name))
    for folder in (layout.root / VECTORS, layout.root / BASES):
        if not folder.is_symlink():
            found += (path for path in folder.rglob(".tvc-*") if is_temporary(path.name))
    size = sum(path.lstat().st_size for path in found)
    for path in () if dry_run else found:
        path.unlink(missing_ok=True)
    return size


def remove_served(layout: Layout, *, but: Path | None = None, dry_run: bool = False) -> int:
    """Remove the model folders that no running server uses.

    Args:
        layout: The repository.
        but: One that stays, since it is about to be used.
        dry_run: Only count.

    Returns:
        The bytes that they have.

    Raises:
        WriteFailed: The system refused.
    """
    size = 0
    for lock in layout.served.glob(f"*{SERVED_LOCK}"):
        place = lock.with_suffix("")
        if place != but:
            with suppress(Locked), Lock.exclusive(lock, command="remove a checkout"):
                size += _remove_folders([place], dry_run=dry_run)
    return size + _remove_folders(_unfinished(layout.served), dry_run=dry_run)


def remove_pushed(layout: Layout, *, dry_run: bool = False) -> int:
    """Remove what clients that are gone left for servers to read.

    Args:
        layout: The repository.
        dry_run: Only count.

    Returns:
        The bytes that it has.
    """
    found = [p for p in layout.pushed.glob("*.delta") if _is_gone(p.name.split("-")[0])]
    size = sum(path.lstat().st_size for path in found)
    for path in () if dry_run else found:
        path.unlink(missing_ok=True)
    return size


def remove_old_adapters(layout: Layout, *, before: float, dry_run: bool = False) -> int:
    """Remove adapters that servers were given long ago; one that still runs may read them again.

    Args:
        layout: The repository.
        before: When they were made, in seconds since the epoch; later ones stay.
        dry_run: Only count.

    Returns:
        The bytes that they have.

    Raises:
        WriteFailed: The system refused.
    """
    if not layout.adapters.is_dir():
        return 0
    unfinished = _unfinished(layout.adapters)
    old = [
        path
        for path in layout.adapters.iterdir()
        if not path.name.startswith(".") and path.lstat().st_mtime <= before
    ]
    return _remove_folders([*unfinished, *old], dry_run=dry_run)


def _unfinished(folder: Path) -> list[Path]:
    """Return the folders in it that processes which are gone were writing, or removing."""
    found = [(path, path.name.rpartition(_MARK)[2]) for path in folder.glob(f".*{_MARK}*-*")]
    return [path for path, owner in found if _is_gone(owner.split("-")[0])]


def _is_gone(process: str) -> bool:
    return process.isdigit() and not Path(f"/proc/{process}").exists()


def _remove_folders(folders: Iterable[Path], *, dry_run: bool) -> int:
    size = 0
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            continue
        size += sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
        if not dry_run:
            if _MARK not in folder.name:
                # By another name first: half of it must never stand where the whole one did.
                gone = folder.with_name(f".{folder.name}{_MARK}{_NOBODY}-{secrets.token_hex(4)}")
                with write_errors(folder):
                    folder = folder.rename(gone)
            shutil.rmtree(folder, ignore_errors=True)
    return size
