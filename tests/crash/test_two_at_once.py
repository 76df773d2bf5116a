"""Two commands at once are serialised by a lock that names its holder and does not outlive it."""

import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crash.world import fingerprint, git_is_whole, ok, store_is_whole

from tvc.repository.operations import operations
from tvc.repository.repository import Repository

HOLDER = """
import sys, time
from pathlib import Path
from tvc.repository.repository import Repository
repository = Repository.open(Path(sys.argv[1]))
with repository.locked("tvc commit ../listen"):
    print("held", flush=True)
    if len(sys.argv) > 2:
        repository.git.run("-c", "alias.nap=!sleep " + sys.argv[2], "nap")
    sys.stdin.read()
"""


@contextmanager
def holding(root: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(root), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_the_holder_is_named_to_who_does_not_wait_and_who_does(server, world):
    root = world / "repo"
    with holding(root) as holder:
        named = rf"'tvc commit ../listen' \(process {holder.pid}, since [-0-9]+ [:0-9]+\)"
        refused = ok(server.run("--lock-timeout", "0", "tag", "v1", cwd=root), 1)
        assert re.fullmatch(
            rf"error: .*/\.tvc/lock is locked by {named}\nhint: .*\n", refused.errors
        )
        assert not refused.output
        for reading in ("status", "log", "show", "branch", "fsck"):
            ok(server.run("--lock-timeout", "0", reading, cwd=root))
        running = server.start("tag", "v1", cwd=root)
        time.sleep(0.3)
        holder.stdin.close()
        outcome = ok(running.wait())
        assert re.search(rf"^waiting for {named}$", outcome.errors, flags=re.MULTILINE)
        assert outcome.output.startswith("tag v1")


def test_a_holder_that_was_killed_blocks_nobody(server, world):
    root = world / "repo"
    with holding(root) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        ok(server.run("--lock-timeout", "0", "tag", "v1", cwd=root))


def test_a_git_that_outlives_its_tvc_keeps_others_out_until_it_ends(server, world):
    root = world / "repo"
    with holding(root, "1.5") as holder:
        time.sleep(0.3)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        ok(server.run("--lock-timeout", "0", "tag", "v1", cwd=root), 1)
        ok(server.run("tag", "v1", cwd=root))


def test_commands_at_once_come_one_after_another(server, world):
    root = world / "repo"
    names = [f"t{n}" for n in range(6)]
    running = [server.start("tag", name, cwd=root) for name in names]
    running += [
        server.start("commit", world / "models" / n, "-m", n, "--name", f"{n}2", cwd=root)
        for n in ("listen", "brief")
    ]
    for each in running:
        ok(each.wait())
    head, refs, *_ = fingerprint(root)
    assert {f"refs/tags/{name}" for name in names} <= set(refs)
    assert {"listen", "brief"} < {subject for subject, _ in refs[head][0]}
    assert len(refs[head][0]) == 3
    numbers = [operation.number for operation in operations(Repository.open(root).layout)]
    assert numbers == sorted(set(numbers))
    git_is_whole(root)
    store_is_whole(server, root)


def test_gc_waits_for_a_checkout_and_a_checkout_for_gc(server, world):
    root = world / "repo"
    ok(server.run("branch", "-d", "hedge", cwd=root))
    running = [
        server.start("checkout", branch, "-o", f"../out-{n}-{branch}", "--verify", cwd=root)
        for n in range(2)
        for branch in ("listen", "brief")
    ]
    running.insert(2, server.start("gc", "--grace", "0", cwd=root))
    for each in running:
        ok(each.wait())
    store_is_whole(server, root)


def test_the_lock_of_a_living_git_is_left_alone(server, world):
    root = world / "repo"
    before = fingerprint(root)
    lock = root / ".git/index.lock"
    lock.write_bytes(b"a git that is at work")
    outcome = ok(server.run("switch", "listen", cwd=root), 1)
    assert "index.lock': File exists" in outcome.errors
    assert lock.read_bytes() == b"a git that is at work"
    lock.unlink()
    assert fingerprint(root) == before
    ok(server.run("switch", "listen", cwd=root))
