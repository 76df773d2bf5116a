"""Kills a command at every write, sync, rename and start of git in turn: every N from 1 on.

`python -m tests.crash.run_and_die 7 -- tvc -C repo gc` ends a command at its 7th such call;
`python -m tests.crash.run_and_die --all` goes through every call of every command of a list, in a
tiny repository made for it, and checks after each that it is as before or as after, and whole.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python -m`; pytest does the same

from crash.fork_server import DIED, ForkServer
from crash.survival import Trial
from crash.world import ENVIRONMENT, build, copy, ok

# What comes before, and the command that is killed.
CASES = {
    "init": ((), "init repo --base {models}/base"),
    "commit": ((), "commit {models}/hedge -m Hedge --name new"),
    "merge by method": ((), "merge --ties listen brief --density 0.5 -m Both"),
    "fast-forward": ((), "merge listen"),
    "conflict": (
        (
            *("switch -c one listen", "scale listen 0.5", "commit -m Half"),
            *("switch -c two listen", "scale listen 0.25", "commit -m Quarter"),
        ),
        "merge one",
    ),
    "edit": ((), "add listen"),
    "revert": (("switch listen",), "revert HEAD"),
    "switch": ((), "switch -c new listen"),
    "undo": (("merge --ties listen brief -m Both",), "undo"),
    "checkout": ((), "checkout listen -o ../out"),
    "checkout over another": (("checkout brief -o ../out",), "checkout listen -o ../out --force"),
    "checkout of the same": (("checkout listen -o ../out",), "checkout listen -o ../out --force"),
    "gc": (("branch -d brief", "branch -d hedge"), "gc --grace 0"),
    "fsck": ((), "fsck --repair"),
}


class Walk:
    """A command's way from its first counted call to its last.

    Args:
        server: Runs the commands.
        world: Folder of `models` and, but for init, of a `template` to start from.
        case: A key of `CASES`.
    """

    def __init__(self, server: ForkServer, world: Path, case: str) -> None:
        before, line = CASES[case]
        self._trial = Trial(server, world)
        self._start = world / f"start-{case.replace(' ', '-')}"
        self._arguments = line.format(models=world / "models").split(" ")
        live = self._trial.live
        if case == "init":
            self._start.mkdir()
        else:
            copy(world / "template", live)
            for command in before:
                ok(server.run(*command.split(" "), cwd=live / "repo"))
            copy(live, self._start)
        copy(self._start, live)
        self._expected = self._trial.rehearse(*self._arguments)
        copy(self._start, live)
        cwd = live if case == "init" else live / "repo"
        outcome, self.calls = server.count_calls(*self._arguments, cwd=cwd)
        assert outcome.code == self._expected.code, outcome

    def die(self, at: int) -> str:
        """Kill the command at its `at`-th call, check what is left, and run it again."""
        copy(self._start, self._trial.live)
        outcome = self._trial.start(*self._arguments, die_at=at).wait()
        if outcome.code != DIED:  # threads do not always make the same number of calls
            assert outcome.code == self._expected.code, outcome
            return "finished"
        state = self._trial.check(self._expected)
        if state == "before":
            self._trial.complete(self._expected, *self._arguments)
        return state


def prepare(server: ForkServer, world: Path) -> None:
    """Make the models and the repository that the commands start from."""
    (world / "template").mkdir(parents=True)
    root = build(server, world)
    shutil.move(root, world / "template" / "repo")


def walk_all(server: ForkServer, world: Path, cases: Iterable[str]) -> int:
    """Die at every call of every command; return how many there were."""
    total = 0
    for case in cases:
        began = time.monotonic()
        walk = Walk(server, world, case)
        for at in range(1, len(walk.calls) + 1):
            try:
                walk.die(at)
            except AssertionError:
                print(f"{case}, call {at}: {walk.calls[at - 1]}", file=sys.stderr)
                raise
        total += len(walk.calls)
        print(f"{case}: {len(walk.calls)} calls, {time.monotonic() - began:.0f} s", flush=True)
    return total


def main() -> None:
    """Read options and die."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("at", type=int, nargs="?", help="the call at which to die")
    parser.add_argument("--all", action="store_true", help="every call of every command")
    parser.add_argument("--case", action="append", choices=list(CASES), help="of --all, only this")
    parser.add_argument("command", nargs="*", help="tvc and its arguments, after --")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    world = Path(tempfile.mkdtemp(prefix="run-and-die-"))
    (world / "scratch").mkdir()
    with ForkServer(world / "scratch") as server:
        if options.all:
            print(f"working in {world}, which stays there if something is found", flush=True)
            prepare(server, world)
            print(f"{walk_all(server, world, options.case or CASES)} calls in all")
        else:
            outcome = server.run(*options.command[1:], cwd=Path.cwd(), die_at=options.at)
            print(outcome.output, end="")
            print(outcome.errors, end="", file=sys.stderr)
            sys.exit(outcome.code)
    shutil.rmtree(world)


if __name__ == "__main__":
    main()
