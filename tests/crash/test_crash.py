"""Killed at random and at every call: the scripts of this folder, briefly."""

import random
from collections import Counter
from pathlib import Path

import pytest
from crash.fork_server import ForkServer
from crash.kill_at_random import tell_story
from crash.run_and_die import CASES, Walk, prepare
from crash.world import make_models

# The cases that every run of the tests tries, at a few calls each; slow ones try them all.
BRIEFLY = ("commit", "checkout over another")


@pytest.fixture(scope="module")
def place(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("die")
    prepare(server, world)
    return world


@pytest.mark.parametrize("case", BRIEFLY)
def test_killed_at_some_calls(server, place, case):
    walk = Walk(server, place, case)
    assert len(walk.calls) > 20
    assert {"git", "git-started", "fsync", "unlink"} <= set(walk.calls)
    rng = random.Random(case)
    for at in sorted(rng.sample(range(1, len(walk.calls) + 1), 3)):
        walk.die(at)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_third_call(server, place, case):
    walk = Walk(server, place, case)
    for at in range(1 + random.Random(case).randrange(3), len(walk.calls) + 1, 3):
        walk.die(at)


@pytest.mark.slow
def test_killed_at_random(server, tmp_path):
    make_models(tmp_path / "models")
    tally: Counter[str] = Counter()
    rng = random.Random(25)
    while tally["killed"] < 25:
        tell_story(server, tmp_path, rng, 25, tally)
    assert tally["before"] + tally["after"] == 25
