"""A damaged store is never checked out: refused with exit 3, naming tensor and vectors."""

import os
import re
import shutil
from pathlib import Path

import pytest
from crash.world import contents, copy, ok

from tvc_store.layout import place
from tvc_store.local import Store

BRANCHES = ("main", "listen", "brief", "hedge")
NAMED = re.compile(
    r"needed by (tensor|file|the list of tensors).* of (base|vector) '(base|listen|brief|hedge)'"
)


@pytest.fixture(scope="module")
def sound(server, template, tmp_path_factory):
    """What each branch gives when nothing is damaged."""
    folder = tmp_path_factory.mktemp("sound")
    for branch in BRANCHES:
        ok(server.run("checkout", branch, "-o", folder / branch, cwd=template / "repo"))
    return {branch: contents(folder / branch) for branch in BRANCHES}


def objects(root: Path) -> list[Path]:
    store = Store.open(root / ".tvc/objects")
    return [place(store.path, identity) for identity in store.object_ids()]


def check_all(server, world: Path, sound: dict) -> int:
    """Check every branch out; each is right or refused, and at least one is refused."""
    refused = 0
    for branch in BRANCHES:
        target = world / f"out-{branch}"
        shutil.rmtree(target, ignore_errors=True)
        outcome = server.run("checkout", branch, "-o", target, cwd=world / "repo")
        if outcome.code == 0:
            assert contents(target) == sound[branch], branch
            continue
        refused += 1
        assert outcome.code == 3, outcome
        assert NAMED.search(outcome.errors), outcome
        assert "Traceback" not in outcome.errors
        assert not target.exists()
    assert not list(world.glob(".out*")), "an unfinished folder was left"
    return refused


@pytest.mark.parametrize(
    ("step", "positions"), [(4, 1), pytest.param(1, 25, marks=pytest.mark.slow)]
)
def test_one_flipped_bit_is_refused_and_named(server, template, tmp_path, sound, step, positions):
    count = len(objects(template / "repo"))
    for number in range(0, count, step):
        for part in range(positions):
            world = copy(template, tmp_path / "world")
            path = objects(world / "repo")[number]
            data = bytearray(path.read_bytes())
            where = (len(data) * (2 * part + 1)) // (2 * positions)
            data[where] ^= 1 << (where % 8)
            path.chmod(0o644)
            path.write_bytes(data)
            assert check_all(server, world, sound), (path, where)
            if part == 0:
                listed = ok(server.run("fsck", cwd=world / "repo"), 3)
                assert path.parent.name + path.name in listed.output
                ok(server.run("fsck", "--repair", cwd=world / "repo"))
                assert not check_all(server, world, sound)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "gone", "swapped"])
def test_cut_lost_and_swapped_objects_are_refused(server, template, tmp_path, sound, how):
    for number in range(len(objects(template / "repo"))):
        world = copy(template, tmp_path / "world")
        paths = objects(world / "repo")
        path = paths[number]
        path.chmod(0o644)
        if how == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        elif how == "gone":
            path.unlink()
        else:
            aside = path.with_name("aside")
            path.rename(aside)
            paths[number - 1].rename(path)
            aside.rename(paths[number - 1])
        assert check_all(server, world, sound)
        ok(server.run("fsck", cwd=world / "repo"), 3)
        ok(server.run("fsck", "--repair", cwd=world / "repo"))
        assert not check_all(server, world, sound)


def test_a_changed_base_is_refused_and_named(server, fresh, tmp_path):
    file = fresh / "models/base/model.safetensors"
    status, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    outcome = ok(server.run("checkout", "main", "-o", tmp_path / "out", cwd=fresh / "repo"), 3)
    assert "models/base/model.safetensors of source 'base' no longer holds" in outcome.errors
    assert "needed by tensor 'a.weight' of base 'base'" in outcome.errors
    assert "hint: put it back as it was, or say where it is now: tvc fsck --repair --from DIR" in (
        outcome.errors
    )
    assert not (tmp_path / "out").exists()
