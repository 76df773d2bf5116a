"""Giving many files their names while the next ones are made: durable all together, at the end.

One file after another, most of the time would go into waiting for the file system's journal. Absent
on purpose: order among the files. Who needs one calls `PendingFile.publish`.
"""

import contextlib
import ctypes
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Semaphore
from types import TracebackType
from typing import Final, Self

from tvc_store.durable import PendingFile, sync_folder, write_errors

__all__ = ["BACKLOG", "Publisher", "start_writing_back"]

BACKLOG: Final = 8 << 20
"""Bytes after which the disk is told to begin, so that the flush at the end finds little to do."""

_SYNCING: Final = 4  # files flushed at a time: their entries then share the journal's commits
_WAITING: Final = 16  # files that may wait for it, each an open descriptor
_SYNC_FILE_RANGE_WRITE: Final = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def start_writing_back(fd: int, start: int, nbytes: int) -> None:
    """Ask the system to begin to write a part of a file to the disk, and do not wait for it."""
    if _sync_file_range:  # where there is none, the flush at the end takes longer
        _sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(nbytes), _SYNC_FILE_RANGE_WRITE)


class Publisher:
    """Gives files their names, durably when the context has ended without an error.

    Safe for several threads. What has no name yet when an error ends the context never gets one.

    Args:
        folder: What is being written to, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(_SYNCING)
        self._room = Semaphore(_WAITING)
        self._lock = Lock()
        self._folders: dict[Path, None] = {}
        self._running: list[Future[None]] = []
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped |= error is not None
        self._pool.shutdown()
        if error is not None:
            return
        with write_errors(self._folder), ThreadPoolExecutor(_SYNCING) as pool:
            for done in self._running:
                done.result()
            list(pool.map(sync_folder, self._folders))

    def make_folder(self, path: Path) -> None:
        """Make a folder, where it is missing; its parent exists."""
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            self._sync_later(path.parent)

    def publish(self, file: PendingFile, path: Path) -> None:
        """Take a file over, flush it to the disk, and give it a name in place of what has it.

        Raises:
            WriteFailed: An earlier one could not be flushed.
        """
        self._room.acquire()
        if self._stopped:
            self._room.release()
            self._raise_first()
        file.adopted = True
        try:
            self._running.append(self._pool.submit(self._finish, file, path))
        except BaseException:
            file.release()
            raise

    def _finish(self, file: PendingFile, path: Path) -> None:
        try:
            if not self._stopped:
                file.give_name(path)
                self._sync_later(path.parent)
        except BaseException:
            self._stopped = True
            raise
        finally:
            file.release()
            self._room.release()

    def _sync_later(self, folder: Path) -> None:
        with self._lock:
            self._folders[folder] = None

    def _raise_first(self) -> None:
        with write_errors(self._folder):
            for each in self._running:
                if each.done():
                    each.result()
