"""Writing files so that a crash at any instant leaves the old file or the new one, whole.

Every effect goes through os.write, os.fsync and os.replace (which Path.replace calls), in that
order, so that a test can end the process at each one in turn. Absent on purpose: locking (lock.py),
and any knowledge of objects.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final, Self

from tvc_store.buffers import Buffer, flat_view
from tvc_store.errors import StoreError

__all__ = [
    "PIECE",
    "NoSpace",
    "NotPermitted",
    "PendingFile",
    "ReadOnly",
    "WriteFailed",
    "is_temporary",
    "make_folder",
    "require_space",
    "sync_folder",
    "write_durably",
    "write_errors",
]

PIECE: Final = 1 << 18
"""Bytes written by one call. Of more the system makes larger pages in its cache, and looks for so
much memory in one run: 2 GB in calls of 4 MiB took it up to four times as long (2026-11).
"""

_PREFIX: Final = ".tvc-"
_SUFFIX: Final = ".tmp"


class WriteFailed(StoreError):
    """A file could not be written; what was there before is untouched."""


class NoSpace(WriteFailed):
    """The disk, the quota or the process's file size limit is exhausted."""


class ReadOnly(WriteFailed):
    """The file system is mounted read-only."""


class NotPermitted(WriteFailed):
    """The user may not write there."""


class PendingFile:
    """A file that nobody sees until it is given its name, whole; a context manager.

    Whatever ends the context before `publish`, the file is removed.

    Args:
        folder: Where it is written; on the file system that it is meant for.
        mode: Permissions, before the umask.

    Raises:
        OSError: The system refused; the callers explain it (`write_errors`).
    """

    def __init__(self, folder: Path, *, mode: int = 0o644) -> None:
        self._path: Path | None = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        self._fd = _create(self._path, mode)
        self.written = 0
        self.adopted = False
        """Whether somebody else releases it: leaving the context does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.adopted:
            self.release()

    def release(self) -> None:
        """Close the file, and remove it if it was given no name."""
        os.close(self._fd)
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._fd

    def write(self, chunk: Buffer) -> None:
        """Append bytes."""
        self.written += _write_all(self._fd, chunk)

    def rewrite_head(self, chunk: Buffer) -> None:
        """Overwrite the first bytes."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        _write_all(self._fd, chunk)
        os.lseek(self._fd, 0, os.SEEK_END)

    def publish(self, path: Path) -> None:
        """Flush the file to the disk, and give it a name in place of what has it."""
        self.give_name(path)
        sync_folder(path.parent)

    def give_name(self, path: Path) -> None:
        """Do what `publish` does, but for flushing the folder."""
        assert self._path is not None
        os.fsync(self._fd)
        self._path.replace(path)
        self._path = None


def write_durably(path: Path, chunks: Iterable[Buffer], *, mode: int = 0o644) -> int:
    """Write a file that is either there whole, also after a power cut, or not there at all.

    A temporary file in the same folder is written, fsynced and renamed over `path`, and the folder
    is fsynced. Whatever stops it, the chunks' own errors included, the temporary file is removed.

    Args:
        path: The file to make or replace; its folder exists.
        chunks: The content, in order; may be a generator that raises.
        mode: Permissions of the new file, before the umask.

    Returns:
        Number of bytes written.

    Raises:
        WriteFailed: The system refused: NoSpace, ReadOnly, NotPermitted, or another reason.
    """
    with write_errors(path), PendingFile(path.parent, mode=mode) as file:
        for chunk in chunks:
            file.write(chunk)
        file.publish(path)
        return file.written


def make_folder(path: Path) -> None:
    """Make a folder, where it is missing, so that it survives a power cut; its parent exists.

    Raises:
        WriteFailed: The system refused.
    """
    with write_errors(path):
        try:
            path.mkdir()
        except FileExistsError:
            return
        sync_folder(path.parent)


def require_space(folder: Path, nbytes: int) -> None:
    """Check that the disk of a folder has room, by taking it for a moment.

    Raises:
        NoSpace: It has not.
    """
    path = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    with write_errors(folder):
        fd = _create(path, 0o600)
        try:
            os.posix_fallocate(fd, 0, nbytes)
        except OSError as error:
            # A limit on single files, or a file system that cannot tell, says nothing about room.
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
        finally:
            os.close(fd)
            path.unlink()


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_temporary(name: str) -> bool:
    """Say whether a file name is one that `write_durably` gives to unfinished files."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


@contextlib.contextmanager
def write_errors(path: Path) -> Generator[None]:
    """Turn the system's refusals to write into one clear line.

    Args:
        path: What was being written, for the message.

    Raises:
        WriteFailed: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def _explained(error: OSError, path: Path) -> WriteFailed:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            reason = "no space left" if error.errno == errno.ENOSPC else "disk quota reached"
            return NoSpace(
                f"{reason} while writing {path}; nothing was changed",
                hint="free some space and run the command again",
            )
        case errno.EFBIG:
            return NoSpace(
                f"file size limit reached while writing {path}; nothing was changed",
                hint="raise the limit (ulimit -f) or use a file system that holds larger files",
            )
        case errno.EROFS:
            return ReadOnly(f"cannot write {path}: the file system is read-only")
        case errno.EACCES | errno.EPERM:
            return NotPermitted(
                f"cannot write {path}: permission denied", hint="check who owns the folder"
            )
        case _:
            return WriteFailed(f"cannot write {path}: {error.strerror or error}")


def _create(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)


def _write_all(fd: int, chunk: Buffer) -> int:
    view = flat_view(chunk)
    size = view.nbytes
    while view:
        view = view[os.write(fd, view[:PIECE]) :]
    return size
