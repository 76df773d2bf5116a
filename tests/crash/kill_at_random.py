"""Kills real commands at random instants, hundreds of times: `python -m tests.crash.kill_at_random`.

A story of commands is told in one repository. Each command is first tried in a copy, which says how
long it takes and what comes of it; then it is run and killed at a random instant, with its whole
process group or alone, so that a git that it had started lives on. What is left must be as before
the command or as after it, whole, and the next command must work.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python -m`; pytest does the same

from crash.fork_server import ForkServer
from crash.survival import Trial
from crash.world import ENVIRONMENT, make_models

STORY = (
    "init repo --base {models}/base",
    "switch -c listen",
    "commit {models}/listen -m Listen --name listen",
    "switch -c brief main",
    "commit {models}/brief -m Brief --name brief",
    "switch -c hedge main",
    "commit {models}/hedge -m Hedge --name hedge",
    "switch main",
    "merge --ties listen brief --density 0.5 -m Both",
    "checkout main -o ../out",
    "add hedge --scale -0.5",
    "commit -m Tune",
    "checkout main -o ../out --force --verify",
    "revert HEAD",
    "checkout main -o ../out --force",
    "checkout main -o ../out --force",  # all is kept
    "checkout listen -o ../out --force",
    "checkout hedge -o ../out --force",  # some of it is kept
    "undo",
    "tag v1",
    "switch -c one listen",
    "scale listen 0.5",
    "commit -m Half",
    "switch -c two listen",
    "scale listen 0.25",
    "commit -m Quarter",
    "merge one",  # a conflict
    "merge --abort",
    "merge one --theirs -m Theirs",
    "undo",
    "branch -d one",
    "undo",
    "switch main",
    "branch -d two",
    "branch -d one",
    "gc --grace 0",
    "cherry-pick hedge",
    "op restore 3",
    "gc --grace 0",
    "fsck --repair",
)


def tell_story(
    server: ForkServer, world: Path, rng: random.Random, rounds: int, tally: Counter[str]
) -> None:
    """Go through the story until so many commands were killed.

    Args:
        server: Runs the commands.
        world: Folder of `models`; a repository is made in it.
        rng: Chooses instants.
        rounds: Kills, counted in `tally["killed"]`.
        tally: Counts what happened.
    """
    trial = Trial(server, world)
    shutil.rmtree(trial.live, ignore_errors=True)
    trial.live.mkdir()
    for line in STORY:
        arguments = line.format(models=world / "models").split(" ")
        expected = trial.rehearse(*arguments)
        state = "before"
        for _ in range(rng.choice((1, 2, 3))):
            if state == "after" or tally["killed"] >= rounds:
                break
            running = trial.start(*arguments)
            time.sleep(rng.uniform(0, expected.seconds))
            group = rng.random() < 0.5
            running.kill(group=group)
            if not running.wait().killed:
                tally["finished"] += 1
                state = "after"
                break
            tally["killed"] += 1
            tally["with its children" if group else "alone"] += 1
            tally[f"during {arguments[0]}"] += 1
            state = trial.check(expected)
            tally[state] += 1
        if state == "before":
            trial.complete(expected, *arguments)
        else:
            trial.check(expected)
        if tally["killed"] >= rounds:
            return
    tally["stories"] += 1


def main() -> None:
    """Read options and kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="commands to kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    tally: Counter[str] = Counter()
    os.environ.update(ENVIRONMENT)
    world = Path(tempfile.mkdtemp(prefix="kill-at-random-"))
    print(f"working in {world}, which stays there if something is found", flush=True)
    make_models(world / "models")
    (world / "scratch").mkdir()
    with ForkServer(world / "scratch") as server:
        while tally["killed"] < options.rounds:
            tell_story(server, world, rng, options.rounds, tally)
            print(dict(tally), flush=True)
    shutil.rmtree(world)


if __name__ == "__main__":
    main()
