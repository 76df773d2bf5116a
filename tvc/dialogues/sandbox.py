"""A process that runs foreign code, and the bounds of time and size on what it answers.

What the process itself gives up is in tvc/dialogues/sandboxed.py. Absent: what the code is for.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from tvc.domain.errors import InputError
from tvc.domain.names import printable

__all__ = ["Containment", "Limits", "Sandbox", "SandboxFailed", "TookTooLong"]

_START_SECONDS: Final = 60.0  # a busy machine, importing
_PIECE: Final = 1 << 16
_SAID: Final = 300


class SandboxFailed(InputError):
    """Foreign code failed, took too long, or answered nonsense."""


class TookTooLong(SandboxFailed):
    """Foreign code did not answer in its time."""


class Limits(NamedTuple):
    """What foreign code may use.

    Args:
        seconds: For one answer.
        memory: Bytes of address space.
        answer: Bytes that an answer may have.
    """

    seconds: float = 5.0
    memory: int = 1 << 30
    answer: int = 1 << 20


class Containment(NamedTuple):
    """What is in force around foreign code on this system.

    Args:
        network: It reaches no network.
        files: It reads no files but Python's own, and writes and runs none.
        processes: It starts no processes.
    """

    network: bool
    files: bool
    processes: bool


class Sandbox:
    """A process that answers questions, started when the first is asked.

    It is started anew after an answer that took too long. Use it in a `with`, which ends it.

    Args:
        program: A file of Python that calls `sandboxed.serve`.
        setup: The first line that it is told.
        limits: Of one answer.
        libraries: Whether the program needs more than the standard library.
    """

    def __init__(
        self,
        program: Path,
        setup: Mapping[str, Any],
        *,
        limits: Limits = Limits(),  # noqa: B008 -- it never changes
        libraries: bool = False,
    ) -> None:
        self._command = [sys.executable, "-I", "-B", *(() if libraries else ("-S",)), str(program)]
        bounds = {"seconds": limits.seconds, "memory": limits.memory}
        self._setup = json.dumps({**setup, **bounds}).encode() + b"\n"
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._asked = 0
        self.containment: Containment | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def ask(self, question: object) -> Any:
        """Return the answer to a question; both are what JSON can hold.

        Raises:
            SandboxFailed: The code failed, took too long, or answered nonsense.
        """
        if self._process is None:
            self._start()
        self._asked += 1
        return self._exchange(json.dumps(question).encode() + b"\n", self._limits.seconds)

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tvc-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=self._folder.name,
            env={"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._asked = 0
        told = self._exchange(self._setup, _START_SECONDS)
        self.containment = Containment(**told)
        self._asked = 1
        try:
            self._exchange(b"null\n", self._limits.seconds)
        except SandboxFailed:
            self._end()
            raise

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _exchange(self, line: bytes, seconds: float) -> Any:
        """Send a line and return the value of the answer; a process that gave none is ended."""
        try:
            answer = self._read_answer(line, time.monotonic() + seconds)
            found = json.loads(answer)
            number, value = found["number"], found.get("value")
            failed = found.get("failed")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._end()
            raise SandboxFailed("it answered nonsense") from None
        except SandboxFailed:
            self._end()
            raise
        if number != self._asked:
            self._end()
            raise SandboxFailed("it answered what was not asked")
        if failed is not None:
            raise SandboxFailed(printable(str(failed), limit=_SAID))
        return value

    def _read_answer(self, line: bytes, deadline: float) -> bytes:
        assert self._process is not None
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        left, found = memoryview(line), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ)
            selector.register(sink, selectors.EVENT_WRITE)
            while True:
                ready = selector.select(max(deadline - time.monotonic(), 0))
                if not ready:
                    raise TookTooLong(f"it took longer than {self._limits.seconds:g} s")
                for key, _ in ready:
                    if key.fileobj is sink:
                        left = left[_write(sink.fileno(), left) :]
                        if not left:
                            selector.unregister(sink)
                        continue
                    piece = os.read(source.fileno(), _PIECE)
                    if not piece:
                        raise SandboxFailed(f"it ended ({_ending(self._process)})")
                    found += piece
                    if len(found) > self._limits.answer:
                        raise SandboxFailed(f"it answered more than {self._limits.answer} bytes")
                    if piece.endswith(b"\n"):
                        return bytes(found)


def _write(fd: int, data: memoryview) -> int:
    try:
        return os.write(fd, data[:_PIECE])
    except BrokenPipeError:
        return len(data)  # it ended: reading says so


def _ending(process: "subprocess.Popen[bytes]") -> str:
    status = process.wait()
    return f"signal {-status}" if status < 0 else f"exit status {status}"
