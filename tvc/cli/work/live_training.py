"""What tvc train --live does besides training: a server follows, and what goes wrong is said."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from tvc.cli.progress import count_progress, format_bytes
from tvc.cli.session import Session
from tvc.domain.errors import StateError, TvcError
from tvc.domain.names import printable
from tvc.models.directory import ModelDirectory
from tvc.models.ties import tied_names
from tvc.repository.repository import Repository
from tvc.serving.server import LiveServer
from tvc.serving.training import LiveTraining
from tvc.training.run import Run
from tvc.training.saving import Weight

__all__ = ["Follower", "NotFollowed", "follower"]

_SHORT: Final = 10


class NotFollowed(StateError):
    """A server does not serve what a training ended in."""


class Follower:
    """A server that follows a training, until a push fails.

    Args:
        session: To say what happens.
        live: It.
        every: Steps from push to push.
    """

    def __init__(self, session: Session, live: LiveTraining, every: int) -> None:
        self._session = session
        self._live = live
        self._every = every
        self._last: int | None = None
        self._failed = False

    def follow(self, run: Run, step: int, weights: Callable[[], Iterator[Weight]]) -> None:
        """Push the weights of every so many steps, and those of the last.

        Args:
            run: The training.
            step: How many steps were made.
            weights: Yields the weights after them.

        Raises:
            Unfit: The server cannot follow this training; no step was made yet.
        """
        if self._last is None:
            base = ModelDirectory.open(run.base)
            needed = base.entries.keys() - tied_names(base.config, base.entries).keys()
            self._live.check(weights(), needed=needed)
            self._last = run.task().settings.steps
        elif not self._failed and (step % self._every == 0 or step == self._last):
            try:
                self._live.push(step, weights())
            except (TvcError, OSError) as error:
                self._failed = True
                self._live.release()
                self._session.note(f"step {step}: no more is pushed: {_words(error)}")

    def finish(self, commit: str) -> None:
        """Make the server the commit that the training ended in, and compare every tensor.

        Raises:
            NotFollowed: The server does not serve it.
        """
        url = self._live.server.url
        try:
            attested = self._live.finish(commit)
        except (TvcError, OSError) as error:
            raise NotFollowed(
                f"the training is committed, but not served: {_words(error)}",
                hint=f"serve it with: tvc push-live {url} {commit[:_SHORT]}",
            ) from None
        totals = self._live.totals
        self._session.say(
            f"  {url} serves it: {len(attested.equal)} tensors read back and equal;"
            f" {totals.pushes} pushes, {format_bytes(totals.nbytes)} travelled, "
            + (f"{format_bytes(totals.written)} written in place, " if totals.written else "")
            + f"no request was served for {totals.seconds:.2f} s in all"
        )
        if totals.forwards:
            self._session.say(
                f"  {totals.torn} of {totals.forwards} forwards meanwhile saw weights of two steps"
            )


def follower(
    session: Session, repository: Repository, run: Run, name: str, options: dict[str, Any]
) -> Follower:
    """Make a server hold what is trained from, and return what keeps it at the training.

    Args:
        session: To say what happens.
        repository: Where the training will be committed.
        run: Its folder; where it is prepared already, it says what is trained from.
        name: The training's.
        options: The command's.

    Raises:
        UsageError: Several processes train, or what is asked does not go together.
        TvcError: The server cannot follow.
    """
    task = run.task() if run.is_prepared and options["data"] is None else None
    if (task.settings.processes if task else options["processes"]) > 1:
        raise click.UsageError("--live: among several processes none has all weights to push")
    hogwild, share = options["live_mode"] == "hogwild", options["live_share"]
    if share and (options["live"] is None or not hogwild):
        raise click.UsageError("--live-share: with --live URL and --live-mode hogwild")
    commit = task.origin if task else repository.git.resolve(options["origin"])
    server = LiveServer(options["live"], options["live_key"])
    live = LiveTraining(server, repository, name, hogwild=hogwild, share=share)
    with count_progress(session, "comparing") as on_bytes:
        before = live.begin(commit, on_bytes)
    if before:
        session.note(f"{server.url} served {before}: it serves what is trained from now")
    return Follower(session, live, options["live_every"])


def _words(error: Exception) -> str:
    return error.message if isinstance(error, TvcError) else printable(str(error))
