"""A full disk, a limit on files and a read-only disk end in one clear line and change nothing."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.fork_server import Outcome
from crash.world import build, contents, copy, fingerprint, git_is_whole, ok, store_is_whole

COMMANDS = {
    "commit": "commit {models}/hedge -m Hedge --name new",
    "merge": "merge --ties listen brief --density 0.5 -m Both",
    "checkout": "checkout listen -o ../out",
    "checkout over": "checkout listen -o ../old --force",
    "switch": "switch listen",
    "init": "init ../second --base {models}/base",
}


def refused(outcome: Outcome) -> None:
    """Check that a command failed with one clear line and a hint at most."""
    assert outcome.code == 1, outcome
    lines = [line for line in outcome.errors.splitlines() if not line.startswith("hint: ")]
    assert len(lines) == 1, outcome
    assert lines[0].startswith("error: "), outcome


def run_limited(server, world: Path, command: str, **options: int) -> Outcome:
    """Run a command that may fail; check that it did all or nothing, and works afterwards."""
    root = world / "repo"
    before = fingerprint(root), contents(world / "out"), contents(world / "old")
    arguments = COMMANDS[command].format(models=world / "models").split(" ")
    outcome = server.run(*arguments, cwd=root, **options)
    if outcome.code:
        refused(outcome)
        assert (fingerprint(root), contents(world / "out"), contents(world / "old")) == before
        git_is_whole(root)
    return outcome


def works_again(server, world: Path, command: str) -> None:
    root = world / "repo"
    arguments = COMMANDS[command].format(models=world / "models").split(" ")
    ok(server.run(*arguments, cwd=root))
    git_is_whole(root)
    store_is_whole(server, root)


@pytest.fixture
def ready(server, world):
    ok(server.run("checkout", "brief", "-o", "../old", cwd=world / "repo"))
    return world


@pytest.mark.parametrize(
    "limits",
    [(100, 1500), pytest.param(range(0, 4000, 150), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_limit_on_files_is_one_clear_line(server, ready, tmp_path, command, limits):
    failures = 0
    for limit in limits:
        world = copy(ready, tmp_path / "limited")
        outcome = run_limited(server, world, command, file_limit=limit)
        failures += outcome.code != 0
        if outcome.code:
            works_again(server, world, command)
    assert failures


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 2 MiB; skipped where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no mount command")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk with a file, but for so many bytes."""
    status = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(max(status.f_bavail * status.f_frsize - leave, 0)))
    return filler


@pytest.mark.parametrize(
    "pages",
    [(1,), pytest.param(tuple(range(90)), marks=pytest.mark.slow)],
    ids=["few", "every page"],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_clear_line(server, template, small_disk, command, pages):
    disk = copy(template, small_disk / "template").parent
    ok(server.run("checkout", "brief", "-o", "../old", cwd=disk / "template/repo"))
    failures = 0
    for count in pages:
        world = copy(disk / "template", disk / "world")
        filler = fill(disk, count * 4096)
        outcome = run_limited(server, world, command)
        failures += outcome.code != 0
        filler.unlink()
        if outcome.code:
            works_again(server, world, command)
        shutil.rmtree(disk / "second", ignore_errors=True)
    assert failures


def test_a_read_only_disk_can_be_read(server, small_disk, tmp_path):
    world = small_disk / "world"
    world.mkdir()
    root = build(server, world)
    ok(server.run("checkout", "listen", "-o", tmp_path / "before", cwd=root))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for command in (
        "log",
        "status",
        "show",
        "branch",
        "tag",
        "diff main listen",
        "vectors",
        "fsck",
    ):
        ok(server.run(*command.split(" "), cwd=root))
    ok(server.run("checkout", "listen", "-o", tmp_path / "after", "--verify", cwd=root))
    assert contents(tmp_path / "before") == contents(tmp_path / "after")
    model = world / "models/hedge"
    for command in (
        *("switch listen", "add listen", "undo", "gc", "fsck --repair", "checkout main"),
        *("merge listen", "merge --ties listen brief", "checkout listen -o ../out", "tag v1"),
        *(f"commit {model} -m Hedge --name new", f"init ../second --base {model}"),
    ):
        outcome = server.run(*command.split(" "), cwd=root)
        refused(outcome)
        assert "read-only" in outcome.errors, (command, outcome)
