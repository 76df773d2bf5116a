"""tvc gc removes what nothing needs, and nothing else."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from crash.fork_server import ForkServer
from crash.world import ok

from tvc.domain.errors import IntegrityError
from tvc.repository.layout import Layout
from tvc.repository.objects import open_objects
from tvc.repository.repository import Repository
from tvc.upkeep.collection import UnknownNeeds, collect_garbage
from tvc_store.layout import place
from tvc_store.local import Store

DAY = 86400.0
BRANCHES = ("main", "listen", "brief", "hedge")


def collected(root: Path, *, grace: float = 14 * DAY, later: float = 0.0, dry_run: bool = False):
    """Collect as if it were later."""
    repository = Repository(Layout(root))
    with repository.locked("test"), open_objects(repository.layout) as store:
        now = time.time() + later
        return collect_garbage(repository, store, grace_seconds=grace, now=now, dry_run=dry_run)


def can_be_checked_out(server: ForkServer, root: Path, revision: str) -> bool:
    plan = server.run("checkout", revision, "-o", root.parent / "out", "--force", cwd=root)
    assert plan.code in (0, 3), plan
    return plan.code == 0


def stored(root: Path) -> int:
    return len(list(Store.open(root / ".tvc/objects").object_ids()))


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_what_branches_need_stays_however_old(server, world):
    root, before = world / "repo", stored(world / "repo")
    assert collected(root, later=1000 * DAY).objects == 0
    assert collected(root, grace=0, later=1000 * DAY).objects == 0
    assert stored(root) == before
    assert all(can_be_checked_out(server, root, branch) for branch in BRANCHES)


def test_what_a_deleted_branch_had_goes_after_the_grace_period(server, world):
    root, before = world / "repo", stored(world / "repo")
    commit = git(root, "rev-parse", "brief")
    ok(server.run("branch", "-d", "brief", cwd=root))
    assert collected(root).objects == 0
    assert collected(root, later=13 * DAY).objects == 0
    dry = collected(root, later=15 * DAY, dry_run=True)
    assert dry.objects > 0
    assert stored(root) == before
    assert collected(root, later=15 * DAY) == dry
    assert stored(root) == before - dry.objects == dry.kept
    assert not can_be_checked_out(server, root, commit)
    assert all(can_be_checked_out(server, root, b) for b in BRANCHES if b != "brief")
    # What only the reflog names may be gone; what is there is whole, and later calls go on.
    ok(server.run("fsck", cwd=root))
    assert collected(root).objects == 0


def test_the_operation_log_keeps_what_undo_brings_back(server, world):
    root = world / "repo"
    ok(server.run("branch", "-d", "brief", cwd=root))
    for log in (root / ".git/logs").rglob("*"):
        if log.is_file():
            log.unlink()
    collected(root, later=13 * DAY)
    ok(server.run("undo", cwd=root))
    assert can_be_checked_out(server, root, "brief")


def test_the_reflog_keeps_what_it_names(server, world):
    root = world / "repo"
    commit = git(root, "rev-parse", "brief")
    ok(server.run("branch", "-d", "brief", cwd=root))
    for operation in (root / ".tvc/operations").iterdir():
        operation.unlink()
    collected(root, later=13 * DAY)  # HEAD's reflog has it still
    assert can_be_checked_out(server, root, commit)
    collected(root, later=15 * DAY)
    assert not can_be_checked_out(server, root, commit)


@pytest.mark.parametrize("how", ["tag", "annotated tag", "detached", "remote"])
def test_tags_and_a_detached_head_keep(server, world, how):
    root = world / "repo"
    commit = git(root, "rev-parse", "brief")
    if how == "tag":
        ok(server.run("tag", "v1", "brief", cwd=root))
    elif how == "annotated tag":
        git(root, "tag", "-a", "v1", "-m", "one", "brief")
    elif how == "detached":
        git(root, "checkout", "-q", "--detach", "brief")
    else:
        git(root, "update-ref", "refs/remotes/origin/brief", "brief")
    ok(server.run("branch", "-d", "brief", cwd=root))
    collected(root, grace=0, later=100 * DAY)
    assert can_be_checked_out(server, root, commit)


def test_uncommitted_vectors_and_a_merge_under_way_keep(server, world):
    root = world / "repo"
    ok(server.run("merge", "--ties", "listen", "brief", "--no-commit", cwd=root))
    for branch in ("listen", "brief"):
        ok(server.run("branch", "-d", branch, cwd=root))
    (root / ".tvc/merging.json").rename(root / "saved")  # the documents alone keep them
    collected(root, grace=0, later=100 * DAY)
    (root / "saved").rename(root / ".tvc/merging.json")
    collected(root, grace=0, later=100 * DAY)
    ok(server.run("commit", cwd=root))
    assert can_be_checked_out(server, root, "main")


def test_what_a_running_command_has_written_is_young(world):
    root = world / "repo"
    store = Store.open(root / ".tvc/objects")
    young = store.put_blob(b"a killed commit left this" * 9)
    old = store.put_blob(b"and another one that long ago" * 9)
    os.utime(place(store.path, old), (1, 1))
    assert collected(root).objects == 1
    assert store.is_stored(young)
    assert not store.is_stored(old)


def test_unfinished_files_go(world):
    root = world / "repo"
    names = (".tvc/index-00ff", ".tvc/index-00ff.lock", ".tvc/.tvc-1.tmp", "vectors/.tvc-2.tmp")
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"12345")
    assert collected(root, dry_run=True).temporary_bytes == 20
    assert all((root / name).exists() for name in names)
    assert collected(root).temporary_bytes == 20
    assert not any((root / name).exists() for name in names)


def test_nothing_is_removed_while_a_list_or_a_commit_cannot_be_read(server, world):
    root = world / "repo"
    store = Store.open(root / ".tvc/objects")
    useless = store.put_blob(b"nothing needs this" * 9)
    os.utime(place(store.path, useless), (1, 1))
    base = json.loads(git(root, "show", "HEAD:bases/base.toml").splitlines()[-1].partition("= ")[2])
    ref = root / ".git/refs/heads/brief"
    for path, wrong in ((place(store.path, base), b"000"), (ref, b"000\n"), (ref, b"0000\n")):
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(data[:-4] + wrong)
        with pytest.raises(IntegrityError, match="nothing was removed, since") as caught:
            collected(root, grace=0)
        assert "tvc fsck" in caught.value.hint
        assert store.is_stored(useless)
        path.write_bytes(data)
    operation = min((root / ".tvc/operations").iterdir())
    operation.write_text("{")
    with pytest.raises(UnknownNeeds, match="is damaged"):
        collected(root)
    ok(server.run("gc", cwd=root), 3)
    ok(server.run("fsck", "--repair", cwd=root))
    assert collected(root).objects == 1


def test_a_document_that_nobody_understands_keeps_all_that_it_names(server, world):
    root = world / "repo"
    ok(server.run("switch", "brief", cwd=root))
    text = (root / "vectors/brief.toml").read_text().replace("format = 1", "format = 2")
    git(root, "switch", "-q", "--orphan", "future")
    (root / "vectors").mkdir(exist_ok=True)
    (root / "vectors/brief.toml").write_text(text)
    git(root, "add", "vectors/brief.toml")
    git(root, "commit", "-q", "-m", "of a later version")
    git(root, "switch", "-q", "main")
    ok(server.run("branch", "-d", "brief", cwd=root))
    before = stored(root)
    collected(root, grace=0, later=100 * DAY)
    assert stored(root) == before


def test_operations_whose_commits_git_has_pruned_are_no_obstacle(server, world):
    root = world / "repo"
    commit = git(root, "rev-parse", "brief")
    ok(server.run("branch", "-d", "brief", cwd=root))
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "prune", "--expire=now")
    ok(server.run("gc", cwd=root))
    ok(server.run("fsck", cwd=root))
    outcome = ok(server.run("undo", cwd=root), 1)
    assert f"git no longer has {commit[:10]}" in outcome.errors
    ok(server.run("switch", "listen", cwd=root))


def test_the_command_says_what_it_freed(server, world):
    root = world / "repo"
    ok(server.run("branch", "-d", "brief", cwd=root))
    assert ok(server.run("gc", cwd=root)).output.startswith("removed 0 objects, 0 B; ")
    dry = json.loads(ok(server.run("gc", "--grace", "0", "--dry-run", "--json", cwd=root)).output)
    assert dry["dry_run"]
    assert dry["objects"] > 0
    outcome = ok(server.run("gc", "--grace", "0", cwd=root))
    assert outcome.output.startswith(f"removed {dry['objects']} objects, ")
    assert ok(server.run("gc", "--grace", "-1", cwd=root), 1).errors.startswith("error: ")


def test_it_waits_for_those_who_read_objects(server, world):
    root = world / "repo"
    script = """
    import sys
    from pathlib import Path
    from tvc.repository.layout import Layout
    from tvc.repository.objects import open_objects
    with open_objects(Layout(Path(sys.argv[1]))):
        print("reading", flush=True)
        sys.stdin.read()
    """
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    reader.stdout.readline()
    refused = ok(server.run("--lock-timeout", "0", "gc", cwd=root), 1)
    assert "objects.lock is locked by another process" in refused.errors
    ok(server.run("fsck", cwd=root))  # reads as well
    running = server.start("gc", cwd=root)
    time.sleep(0.3)
    reader.communicate(b"")
    outcome = ok(running.wait())
    assert "waiting for another process" in outcome.errors


def write(path: Path, nbytes: int, *, at: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(nbytes))
    if at is not None:
        os.utime(path.parent, (at, at))
    return path


def test_models_that_no_server_uses_any_longer_go(world):
    layout = Layout(world / "repo")
    used, unused = (write(layout.served / name / "model", 10).parent for name in ("a", "b"))
    killed = write(layout.served / ".c.tvc-unfinished-0-00ff" / "model", 7).parent
    written = write(layout.served / f".d.tvc-unfinished-{os.getpid()}-00ff" / "model", 3).parent
    (layout.served / "b.lock").touch()
    # As `tvc serve` leaves it to the vLLM that it becomes: locked until that ends.
    heir = (
        "import sys; from pathlib import Path; from tvc_store.lock import Lock\n"
        "with Lock.shared(Path(sys.argv[1])): print(flush=True); input()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", heir, str(layout.served / "a.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    server.stdout.readline()
    assert collected(layout.root, dry_run=True).served_bytes == 17
    assert all(folder.is_dir() for folder in (used, unused, killed, written))
    assert collected(layout.root).served_bytes == 17
    assert used.is_dir()
    assert written.is_dir()
    assert not unused.exists()
    assert not killed.exists()
    server.communicate("\n")
    assert server.returncode == 0
    assert collected(layout.root).served_bytes == 10
    assert not used.exists()


def test_what_dead_clients_left_for_servers_goes(world):
    layout = Layout(world / "repo")
    dead = write(layout.pushed / "0-00ff.delta", 5)
    living = write(layout.pushed / f"{os.getpid()}-00ff.delta", 5)
    other = write(layout.pushed / "notes.txt", 5)
    assert collected(layout.root, dry_run=True).temporary_bytes == 5
    assert dead.exists()
    assert collected(layout.root).temporary_bytes == 5
    assert not dead.exists()
    assert living.exists()
    assert other.exists()


def test_adapters_of_servers_go_when_they_are_old(world):
    layout = Layout(world / "repo")
    old = write(layout.adapters / "a" / "adapter", 5, at=time.time() - 15 * DAY).parent
    young = write(layout.adapters / "b" / "adapter", 5, at=time.time() - 13 * DAY).parent
    killed = write(layout.adapters / ".c.tvc-unfinished-0-00ff" / "adapter", 5).parent
    assert collected(layout.root, dry_run=True).served_bytes == 10
    assert old.is_dir()
    assert collected(layout.root).served_bytes == 10
    assert not old.exists()
    assert not killed.exists()
    assert young.is_dir()
    assert collected(layout.root, grace=0).served_bytes == 5


def test_links_to_elsewhere_are_left_alone(world, tmp_path):
    layout, outside = Layout(world / "repo"), tmp_path / "outside"
    write(outside / "precious", 5, at=1)
    for folder in (layout.served, layout.adapters):
        folder.mkdir(parents=True)
        (folder / "a").symlink_to(outside)
        (folder / "a.lock").touch()
    assert collected(layout.root, grace=0).served_bytes == 0
    assert (outside / "precious").exists()


def test_the_command_says_what_was_written_for_servers(server, world):
    write(world / "repo" / ".tvc/served/a/model", 2000)
    (world / "repo" / ".tvc/served/a.lock").touch()
    dry = ok(server.run("gc", "--dry-run", cwd=world / "repo")).output
    assert "would remove 2.0 kB that were written for servers" in dry.replace("KiB", "kB")
    assert json.loads(ok(server.run("gc", "--json", cwd=world / "repo")).output)[
        "served_bytes"
    ] == (2000)
