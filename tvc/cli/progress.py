"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import click

from tvc.cli.lazy import load
from tvc.cli.session import Session

__all__ = ["byte_progress", "count_progress", "format_bytes", "progress_of", "step_progress"]

_PLAIN_SECONDS = 10.0


def format_bytes(count: int) -> str:
    """Write a number of bytes for a person: `1.5 GB`, in powers of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the loop returns")


@contextmanager
def byte_progress(session: Session, what: str, total: int) -> Generator[Callable[[int], None]]:
    """Show how far work on bytes is, and yield the function that is told of bytes done.

    Args:
        session: Says whether to show anything.
        what: What is done, for a person: `checking out`.
        total: Bytes in all.
    """
    if session.quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with load("tvc.cli.bars:byte_bar")(what, max(total, 1)) as advance:
            yield advance
    else:
        yield _PlainProgress(what, total).advance


@contextmanager
def progress_of(session: Session, what: str) -> Generator[Callable[[int], Callable[[int], None]]]:
    """Yield a function that, told of a number of bytes, shows progress until the context ends."""
    with ExitStack() as stack:
        yield lambda total: stack.enter_context(byte_progress(session, what, total))


@contextmanager
def step_progress(session: Session, what: str, total: int) -> Generator[Callable[[int, str], None]]:
    """Show how far work in steps is, and yield the function that is told of steps done.

    Args:
        session: Says whether to show anything.
        what: What is done, for a person: `training`.
        total: Steps in all.
    """
    if session.quiet:
        yield lambda _done, _note: None
    elif sys.stderr.isatty():
        with load("tvc.cli.bars:step_bar")(what, max(total, 1)) as tell:
            yield tell
    else:
        yield _PlainSteps(what, total).tell


@contextmanager
def count_progress(session: Session, what: str) -> Generator[Callable[[int], None]]:
    """Say now and then how much of something was done, whose end is not known.

    Args:
        session: Says whether to show anything.
        what: What is counted, for a person: `responses generated`.
    """
    done, told = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        now = time.monotonic()
        if not session.quiet and now - told >= _PLAIN_SECONDS:
            told = now
            click.echo(f"{what}: {done}", err=True)

    yield advance


class _PlainSteps:
    """Prints a line every ten seconds, with what there is to say of the step."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._told = time.monotonic()

    def tell(self, done: int, note: str) -> None:
        now = time.monotonic()
        if now - self._told >= _PLAIN_SECONDS:
            self._told = now
            click.echo(f"{self._what}: {done} of {self._total}, {note}", err=True)


class _PlainProgress:
    """Prints a line every ten seconds; work that is shorter prints none."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = max(total, 1)
        self._done = 0
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._told < _PLAIN_SECONDS:
                return
            self._told = now
            speed = self._done / (now - self._began)
            left = max(self._total - self._done, 0) / max(speed, 1.0)
            click.echo(
                f"{self._what}: {format_bytes(self._done)} of {format_bytes(self._total)}, "
                f"{format_bytes(int(speed))}/s, {left:.0f} s left",
                err=True,
            )
