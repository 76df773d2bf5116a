"""What every command knows of its surroundings: the folder, how to print, how to wait.

Made once by the entry point. The environment is read here and in tvc/cli/main.py, nowhere else.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from tvc.domain.names import printable
from tvc.repository.repository import Repository, Waiting
from tvc_store.lock import Holder

__all__ = ["Session", "pass_session"]

Returned = TypeVar("Returned")


@dataclass(frozen=True, slots=True)
class Session:
    """The surroundings of one command.

    Args:
        folder: Where the command works.
        quiet: Print nothing but facts that were asked for, and errors.
        pager: Page long output on a terminal.
        lock_timeout: Seconds to wait for another process.
    """

    folder: Path
    quiet: bool
    pager: bool
    lock_timeout: float

    @property
    def command_line(self) -> str:
        """The command as it was typed, for the operation log."""
        return printable(shlex.join(["tvc", *sys.argv[1:]]), limit=500)

    def repository(self) -> Repository:
        """Open the repository that the folder lies in.

        Raises:
            NoRepository: There is none.
        """
        return Repository.open(self.folder)

    @property
    def colors(self) -> bool:
        """Whether standard output shows colours, and the user wants them (no-color.org)."""
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return wanted and sys.stdout.isatty()

    @property
    def waiting(self) -> Waiting:
        """How to wait for another process, saying so."""
        return Waiting(self.lock_timeout, self._say_waiting)

    def _say_waiting(self, holder: Holder | None) -> None:
        self.note(f"waiting for {holder or 'another process'}")

    def say(self, text: str = "") -> None:
        """Print a line of the result, unless quiet."""
        if not self.quiet:
            click.echo(text)

    def note(self, text: str) -> None:
        """Print a line about the work itself to standard error, unless quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def show(self, text: str) -> None:
        """Print what was asked for, through a pager where git would use one."""
        if self.pager and sys.stdout.isatty():
            # git's own defaults: quit if it fits, keep colours, leave it on the screen.
            os.environ.setdefault("LESS", "FRX")
            for name in ("TVC_PAGER", "GIT_PAGER"):
                if os.environ.get(name):
                    os.environ["PAGER"] = os.environ[name]
                    break
            click.echo_via_pager(text)
        else:
            click.echo(text, nl=not text.endswith("\n"))


def pass_session(command: Callable[..., Returned]) -> Callable[..., Returned]:
    """Give a command its session as first argument."""

    @click.pass_context
    def wrapped(context: click.Context, /, *args: Any, **kwargs: Any) -> Returned:
        return context.invoke(command, context.find_object(Session), *args, **kwargs)

    wrapped.__name__ = command.__name__
    wrapped.__doc__ = command.__doc__
    return wrapped
