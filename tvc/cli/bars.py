"""A bar of progress on a terminal. Apart: importing what draws it takes a tenth of a second."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

__all__ = ["byte_bar", "step_bar"]

_NARROW: Final = 60


@contextmanager
def byte_bar(what: str, total: int) -> Generator[Callable[[int], None]]:
    """Show a bar while the context lasts, and yield the function that is told of bytes done.

    Args:
        what: What is done, for a person.
        total: Bytes in all, at least one.
    """
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn()]
    if console.width >= _NARROW:
        columns += [TransferSpeedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.update(task, advance=count)


@contextmanager
def step_bar(what: str, total: int) -> Generator[Callable[[int, str], None]]:
    """Show a bar of steps while the context lasts, and yield the function that is told of them.

    Args:
        what: What is done, for a person.
        total: Steps in all, at least one.
    """
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn()]
    if console.width >= _NARROW:
        columns += [TextColumn("{task.fields[note]}"), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, note="")
        yield lambda done, note: progress.update(task, completed=done, note=note)
