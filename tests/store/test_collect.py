"""Only what nothing needs is removed, and nothing young."""

import os
import time

import pytest
from store_samples import bf16, tuned, vector_spec

from tvc_store.check import check
from tvc_store.collect import collect
from tvc_store.layout import place
from tvc_store.local import Store

DAY = 86_400.0


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "objects")


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_live_and_young_objects_stay(store):
    live, young, old = (store.put_blob(name * 20) for name in (b"live", b"young", b"old"))
    for object_id in (live, old):
        age(place(store.path, object_id), 20 * DAY)
    size = store.stored_size(old)
    told = collect(store, {live}, grace_seconds=14 * DAY, now=time.time(), dry_run=True)
    assert len(list(store.object_ids())) == 3
    done = collect(store, {live}, grace_seconds=14 * DAY, now=time.time())
    assert told == done
    assert (done.objects, done.object_bytes, done.kept) == (1, size, 2)
    assert set(store.object_ids()) == {live, young}


@pytest.mark.parametrize("young", [False, True])
def test_the_base_of_what_stays_stays(store, young):
    base = bf16(400)
    spec = vector_spec(base)
    origin = store.put_tensor(spec, base)
    step = store.put_tensor(spec, tuned(base), base=origin)
    other = store.put_tensor(spec, tuned(base, seed=4), base=origin)
    assert store.reader.base(step) == origin
    age(place(store.path, origin), 9 * DAY)
    age(place(store.path, other), 9 * DAY)
    age(place(store.path, step), 0 if young else 9 * DAY)
    done = collect(store, [] if young else [step], grace_seconds=DAY, now=time.time())
    assert done.objects == 1
    assert set(store.object_ids()) == {origin, step}
    assert not list(check(store))


def test_putting_again_makes_young(store):
    object_id = store.put_blob(b"again")
    age(place(store.path, object_id), 9 * DAY)
    store.put_blob(b"again")
    assert collect(store, [], grace_seconds=DAY, now=time.time()).objects == 0


def test_old_unfinished_files_go_and_young_ones_stay(store):
    folder = place(store.path, store.put_blob(b"x")).parent
    names = [
        store.path / ".tvc-1.tmp",
        folder / ".tvc-2.tmp",
        store.path / "sources" / ".tvc-3.tmp",
    ]
    for path in names:
        path.write_bytes(b"half")
        age(path, 9 * DAY)
    (folder / ".tvc-4.tmp").write_bytes(b"busy")
    done = collect(store, store.object_ids(), grace_seconds=DAY, now=time.time())
    assert (done.temporaries, done.temporary_bytes, done.objects) == (3, 12, 0)
    assert not any(path.exists() for path in names)
    assert (folder / ".tvc-4.tmp").exists()


def test_strangers_and_damaged_live_objects_stay(store):
    live = store.put_blob(b"live" * 30)
    path = place(store.path, live)
    path.chmod(0o644)
    path.write_bytes(b"rubbish")
    (path.parent / "notes").write_text("mine")
    for file in (path, path.parent / "notes"):
        age(file, 9 * DAY)
    collect(store, [live, "f" * 64], grace_seconds=DAY, now=time.time())
    assert path.exists()
    assert (path.parent / "notes").exists()
