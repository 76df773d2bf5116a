"""One process at a time: an flock that names its holder and dies with it.

The kernel drops the lock when the process ends, however it ends, so no stale lock is ever broken.
The file is never removed: removing it would let two processes lock two files of one name.
Absent on purpose: what is locked and for how long, which the callers know.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from tvc_store.durable import write_errors
from tvc_store.errors import StoreError

__all__ = ["Holder", "Lock", "Locked"]

_POLL_SECONDS: Final = 0.05
_MAX_RECORD: Final = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an exclusive lock.

    Args:
        pid: Process id.
        command: What it does, in the words it gave.
        started: When it took the lock, in seconds since the epoch.
    """

    pid: int
    command: str
    started: float

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.started, UTC).astimezone()
        return f"{self.command!r} (process {self.pid}, since {since:%Y-%m-%d %H:%M:%S})"


class Locked(StoreError):
    """Another process holds the lock.

    Args:
        path: The lock file.
        holder: Who holds it, or None where that is not known (readers leave no name).
    """

    def __init__(self, path: Path, holder: Holder | None) -> None:
        super().__init__(
            f"{path} is locked by {holder or 'another process'}",
            hint="wait until it has finished; the lock goes with its process",
        )
        self.holder = holder


class Lock:
    """A context manager that holds a lock on a file.

    Made by `Lock.exclusive` (one holder, nobody else) or `Lock.shared` (any number of readers).
    Not reentrant: a second lock of the same process waits like any other's.
    """

    def __init__(
        self,
        path: Path,
        *,
        command: str | None,
        timeout: float,
        on_wait: Callable[[Holder | None], None] | None,
    ) -> None:
        self._path = path
        self._command = command
        self._timeout = timeout
        self._on_wait = on_wait
        self._fd: int | None = None

    @classmethod
    def exclusive(
        cls,
        path: Path,
        *,
        command: str,
        timeout: float = 0.0,
        on_wait: Callable[[Holder | None], None] | None = None,
    ) -> Self:
        """Prepare a lock that nobody else may hold at the same time.

        Args:
            path: The lock file; made where it is missing, its folder exists.
            command: What the holder does, shown to those who wait.
            timeout: Seconds to wait for others.
            on_wait: Called once, with the holder, before waiting.
        """
        return cls(path, command=command, timeout=timeout, on_wait=on_wait)

    @property
    def fd(self) -> int | None:
        """The open lock file while the lock is held; a child that inherits it holds it too."""
        return self._fd

    @classmethod
    def shared(
        cls,
        path: Path,
        *,
        timeout: float = 0.0,
        on_wait: Callable[[Holder | None], None] | None = None,
    ) -> Self:
        """Prepare a lock that keeps exclusive holders out; arguments as for `exclusive`."""
        return cls(path, command=None, timeout=timeout, on_wait=on_wait)

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            Locked: It was not free within the timeout.
            StoreError: The lock file cannot be opened.
        """
        fd = self._open()
        if fd is None:
            return self
        try:
            self._acquire(fd)
            self._sign(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            if self._command is not None:
                os.ftruncate(fd, 0)
        finally:
            # Closing is not enough: a child between its fork and its exec still has the file open.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _open(self) -> int | None:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        with write_errors(self._path):
            try:
                return os.open(self._path, flags | os.O_RDWR | os.O_CREAT, 0o644)
            except OSError:
                if self._command is not None:
                    raise
            # A reader of a store that it may not write: lock the file as it is. Without one, on a
            # read-only disk, nobody can be writing and there is nothing to keep out.
            try:
                return os.open(self._path, flags | os.O_RDONLY)
            except FileNotFoundError:
                return None

    def _acquire(self, fd: int) -> None:
        operation = fcntl.LOCK_SH if self._command is None else fcntl.LOCK_EX
        deadline = time.monotonic() + self._timeout
        told = False
        while True:
            try:
                fcntl.flock(fd, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return
            if self._on_wait and not told and self._timeout > 0:
                told = True
                self._on_wait(_holder(fd))
            left = deadline - time.monotonic()
            if left <= 0:
                raise Locked(self._path, _holder(fd))
            time.sleep(min(_POLL_SECONDS, left))

    def _sign(self, fd: int) -> None:
        # Whatever stands in the file is of a holder that is gone, since the lock is ours. A reader
        # clears it too, lest a dead process be named to those who wait for the reader.
        with contextlib.suppress(OSError):  # read-only, or full: the name is a courtesy
            os.ftruncate(fd, 0)
            if self._command is not None:
                facts = {"pid": os.getpid(), "command": self._command, "started": time.time()}
                os.pwrite(fd, json.dumps(facts).encode(), 0)


def _holder(fd: int) -> Holder | None:
    """Read the holder's name; any rubbish in the file means that it is not known."""
    try:
        facts: Any = json.loads(os.pread(fd, _MAX_RECORD, 0))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    record = cast("dict[str, Any]", facts)
    pid, command, started = record.get("pid"), record.get("command"), record.get("started")
    if not (isinstance(pid, int) and isinstance(command, str) and isinstance(started, float)):
        return None
    if not 0 <= started < 2**33:
        return None
    return Holder(pid, command[:200], started)
