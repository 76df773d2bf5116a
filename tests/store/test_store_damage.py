"""Nothing damaged, missing, swapped or cut is ever served, and a check finds all of it."""

import os
import shutil

import numpy as np
import pytest
from store_samples import alter, bf16, borrow, overwrite, tuned, vector_spec

from tvc_store.check import check
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError, TvcError
from tvc_store.layout import place
from tvc_store.local import Store
from tvc_store.opened import Damaged
from tvc_store.reading import Misplaced, Missing
from tvc_store.repair import replace_damaged, replace_damaged_blob


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "objects")


def fill(store, folder):
    """Store one small object of each codec and kind; return what reads each of them."""
    base = np.tile(bf16(8), 10)
    spec = vector_spec(base)
    (borrowed,) = borrow(store, folder, base)
    planes = store.put_tensor(spec, np.tile(bf16(8, seed=3), 10))
    far = store.put_tensor(spec, base + np.uint16(1), base=borrowed, codec="rans")
    step = np.tile(bf16(8, seed=3), 10) + np.uint16(1)
    near = store.put_tensor(spec, step, base=planes, codec="rans")
    raw = store.put_tensor(TensorSpec("F32", ()), b"abcd")
    text = store.put_blob(b"{} " * 30)
    assert store.reader.base(far) == borrowed
    assert store.reader.base(near) == planes
    tensors = dict.fromkeys((borrowed, planes, far, near, raw), store.read_tensor)
    return tensors | {text: store.read_blob}


def test_every_flipped_bit_is_found(store, tmp_path):
    reads = fill(store, tmp_path / "model")
    flips = 0
    for object_id in list(store.object_ids()):
        path = place(store.path, object_id)
        for position in range(path.stat().st_size):
            for bit in range(8):
                alter(path, position, bit)
                with pytest.raises(IntegrityError):
                    reads[object_id](object_id)
                assert object_id in {finding.id for finding in check(store)}, (position, bit)
                alter(path, position, bit)
                flips += 1
    assert flips > 5000
    assert not list(check(store))


def test_every_flipped_bit_of_a_borrowed_file_is_found(store, tmp_path):
    reads = fill(store, tmp_path / "model")
    file = tmp_path / "model" / "weights.bin"
    (borrowed,) = set(reads) - set(store.object_ids())
    for position in range(4, file.stat().st_size):
        alter(file, position, position % 8)
        with pytest.raises(IntegrityError, match=r"weights\.bin of source 'base' no longer holds"):
            store.read_tensor(borrowed)
        assert borrowed in {finding.id for finding in check(store)}
        alter(file, position, position % 8)
    assert not list(check(store))


def test_every_flipped_bit_of_a_record_is_found(store, tmp_path):
    fill(store, tmp_path / "model")
    (record,) = (store.path / "sources").iterdir()
    for position in range(record.stat().st_size):
        alter(record, position, position % 8)
        again = Store.open(store.path)
        with pytest.raises(IntegrityError, match="is damaged"):
            again.sources()
        assert any(f.path == record and f.kind == "source" for f in check(again))
        alter(record, position, position % 8)
    assert not list(check(Store.open(store.path)))


def test_every_truncation_is_found(store, tmp_path):
    reads = fill(store, tmp_path / "model")
    for object_id in list(store.object_ids()):
        content = place(store.path, object_id).read_bytes()
        for cut in [*(content[:length] for length in range(len(content))), content + b"\0"]:
            overwrite(store, object_id, cut)
            with pytest.raises(Damaged, match=object_id):
                reads[object_id](object_id)
            assert object_id in {finding.id for finding in check(store)}
        overwrite(store, object_id, content)
    assert not list(check(store))


def test_a_header_that_is_damaged_gives_no_type(store, tmp_path):
    object_id = store.put_tensor(TensorSpec("F32", (5, 7)), bytes(140))
    path = place(store.path, object_id)
    for position in range(24 + 32 + 6 + 3 + 16 + 16):
        alter(path, position, 0)
        with pytest.raises(Damaged):
            store.tensor_spec(object_id)
        alter(path, position, 0)


def test_a_missing_object_is_named_by_those_that_need_it(store):
    base = bf16(500)
    origin = store.put_tensor(vector_spec(base), base)
    step = store.put_tensor(vector_spec(base), tuned(base), base=origin)
    place(store.path, origin).unlink()
    with pytest.raises(Missing, match=origin):
        store.read_tensor(step)
    (finding,) = check(store)
    assert (finding.id, finding.kind) == (step, "missing")
    assert origin in finding.problem


def test_swapped_objects_are_found(store):
    one, other = (store.put_tensor(TensorSpec("U8", (3,)), data) for data in (b"abc", b"xyz"))
    paths = [place(store.path, object_id) for object_id in (one, other)]
    contents = [path.read_bytes() for path in paths]
    overwrite(store, one, contents[1])
    overwrite(store, other, contents[0])
    for object_id in (one, other):
        for read in (store.read_tensor, store.tensor_spec):
            with pytest.raises(Misplaced, match="holds the object"):
                read(object_id)
    assert [finding.kind for finding in check(store)] == ["misplaced", "misplaced"]


def test_a_wrong_base_is_blamed_and_not_the_difference(store):
    base = bf16(500)
    origin = store.put_tensor(vector_spec(base), base)
    step = store.put_tensor(vector_spec(base), tuned(base), base=origin)
    path = place(store.path, origin)
    alter(path, path.stat().st_size - 60, 3)
    with pytest.raises(Damaged, match=origin):
        store.read_tensor(step)


def test_links_and_pipes_and_folders_are_no_objects(store, tmp_path):
    object_id = store.put_blob(b"some text")
    path = place(store.path, object_id)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(path, elsewhere)

    path.symlink_to(elsewhere)
    refused(store, object_id, "cannot be opened")
    path.unlink()
    os.mkfifo(path)
    refused(store, object_id, "not a regular file")
    path.unlink()
    path.mkdir()
    refused(store, object_id, "not a regular file")
    path.rmdir()

    shutil.move(path.parent, tmp_path / "fan")
    path.parent.symlink_to(tmp_path / "fan")
    shutil.move(elsewhere, tmp_path / "fan" / path.name)
    with pytest.raises(Damaged, match="is not a folder"):
        store.read_blob(object_id)
    with pytest.raises(TvcError, match="is not a folder"):
        replace_damaged_blob(store, b"some text")


def refused(store, object_id, problem):
    assert not store.is_stored(object_id)
    with pytest.raises(Damaged, match=problem):
        store.read_blob(object_id)
    assert [(f.id, f.kind) for f in check(store)] == [(object_id, "damaged")]


def test_a_link_is_replaced_and_its_target_left_alone(store, tmp_path):
    object_id = store.put_blob(b"some text")
    path = place(store.path, object_id)
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    assert store.put_blob(b"some text") == object_id
    assert store.read_blob(object_id) == b"some text"
    assert victim.read_text() == "precious"


def test_strays_are_reported_and_no_more(store):
    blob = store.put_blob(b"x")
    for name in ("notes.txt", f"{blob[:2]}/thumbs.db", f"{blob[:2]}/.tvc-00.tmp"):
        (store.path / name).write_text("?")
    findings = list(check(store))
    assert {finding.kind for finding in findings} == {"stray"}
    assert sorted(finding.path.name for finding in findings) == [
        ".tvc-00.tmp",
        "notes.txt",
        "thumbs.db",
    ]
    assert list(store.object_ids()) == [blob]


def test_a_check_tells_its_progress(store, tmp_path):
    reads = fill(store, tmp_path / "model")
    seen: list[int] = []
    assert not list(check(store, progress=seen.append))
    assert len(seen) == len(reads)
    assert sum(seen) == sum(store.stored_size(i) for i in store.object_ids()) + 160


def test_damaged_objects_are_replaced(store):
    base = bf16(500)
    spec = vector_spec(base)
    origin = store.put_tensor(spec, base)
    step = store.put_tensor(spec, tuned(base), base=origin)
    blob = store.put_blob(b"text" * 50)
    for object_id in (origin, step, blob):
        alter(place(store.path, object_id), 100, 2)
    assert len({finding.id for finding in check(store)}) == 3
    assert replace_damaged(store, spec, base) == origin
    assert replace_damaged(store, spec, tuned(base), base=origin) == step
    assert replace_damaged_blob(store, b"text" * 50) == blob
    assert not list(check(store))
    assert store.reader.base(step) == origin


def test_what_others_rest_on_never_becomes_a_difference(store):
    base, first = bf16(500), tuned(bf16(500), seed=8)
    spec = vector_spec(base)
    root = store.put_tensor(spec, first)
    origin = store.put_tensor(spec, base)
    step = store.put_tensor(spec, tuned(base), base=origin)
    replace_damaged(store, spec, base, base=root)
    assert store.reader.base(origin) is None
    assert store.read_tensor(step)[1].tobytes() == tuned(base).tobytes()


def test_a_borrowed_tensor_is_copied_in(store, tmp_path):
    base = bf16(500)
    (origin,) = borrow(store, tmp_path / "model", base)
    step = store.put_tensor(vector_spec(base), tuned(base), base=origin)
    assert store.put_tensor(vector_spec(base), base) == origin
    assert not store.is_stored(origin)
    replace_damaged(store, vector_spec(base), base, base=origin)
    assert store.is_stored(origin)
    shutil.rmtree(tmp_path / "model")
    assert store.read_tensor(step)[1].tobytes() == tuned(base).tobytes()
