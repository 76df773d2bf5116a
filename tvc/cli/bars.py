"""A bar of progress on a terminal. Apart: importing what draws it takes a tenth of a second."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

__all__ = ["byte_bar"]

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
