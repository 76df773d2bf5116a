"""One command, killed: does the repository survive, and does the next command work?"""

import time
from dataclasses import dataclass
from pathlib import Path

from crash.fork_server import ForkServer, Outcome, Running
from crash.world import contents, copy, fingerprint, git_is_whole, store_is_whole

from tvc.repository.repository import Repository


@dataclass(frozen=True)
class Expected:
    """What a command does when nobody kills it."""

    before: object
    after: object
    code: int
    out_before: dict[str, bytes] | None
    out_after: dict[str, bytes] | None
    seconds: float


class Trial:
    """A folder `live` with a repository, and a copy in which every command is tried first.

    Args:
        server: Runs the commands.
        world: Folder of `models`; `live` and `rehearsal` are made in it.
    """

    def __init__(self, server: ForkServer, world: Path) -> None:
        self.server = server
        self.live = world / "live"
        self.rehearsal = world / "rehearsal"

    def rehearse(self, *arguments: object) -> Expected:
        """Run a command in a copy, and return what came of it."""
        copy(self.live, self.rehearsal)
        before, out = self._state(self.rehearsal)
        began = time.monotonic()
        outcome = self.server.run(*arguments, cwd=self._folder(self.rehearsal, arguments))
        seconds = time.monotonic() - began
        assert outcome.code in (0, 4), (arguments, outcome)
        after, out_after = self._state(self.rehearsal)
        return Expected(before, after, outcome.code, out, out_after, seconds)

    def start(self, *arguments: object, die_at: int | None = None) -> Running:
        folder = self._folder(self.live, arguments)
        return self.server.start(*arguments, cwd=folder, die_at=die_at)

    def check(self, expected: Expected) -> str:
        """Check what a killed command left; say whether it is as before or after."""
        root = self.live / "repo"
        output = contents(self.live / "out")
        assert output in (None, expected.out_before, expected.out_after), "half-written output"
        if not Repository.is_started(root):
            assert expected.before is None
            return "before"
        git_is_whole(root)
        status = self.server.run("status", cwd=root)
        assert status.code == 0, status
        now = fingerprint(root)
        assert now in (expected.before, expected.after), f"neither before nor after: {now}"
        store_is_whole(self.server, root)
        if now == expected.after and now != expected.before:
            return "after"
        done = output == expected.out_after != expected.out_before
        return "after" if done else "before"

    def complete(self, expected: Expected, *arguments: object) -> Outcome:
        """Run a command that was killed again; it must do what it would have done."""
        outcome = self.server.run(*arguments, cwd=self._folder(self.live, arguments))
        assert outcome.code == expected.code, (arguments, outcome)
        assert self._state(self.live) == (expected.after, expected.out_after)
        return outcome

    def _state(self, place: Path) -> tuple[object, dict[str, bytes] | None]:
        root = place / "repo"
        started = root.is_dir() and Repository.is_started(root)
        return (fingerprint(root) if started else None), contents(place / "out")

    @staticmethod
    def _folder(place: Path, arguments: tuple[object, ...]) -> Path:
        return place if arguments[0] == "init" else place / "repo"
