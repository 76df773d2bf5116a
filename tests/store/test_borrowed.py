"""Bytes that stay elsewhere: believed only while they are what they were."""

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import LAW, bf16, borrow, tuned, vector_spec

from tvc_store.borrowed import BorrowedTensor, Source, SourceChanged
from tvc_store.check import check
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import StoreError
from tvc_store.header import FRAME_BYTES
from tvc_store.local import Store

SPEC = TensorSpec("U8", (4,))


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "objects")


def test_a_borrowed_tensor_is_read_and_takes_no_room(store, tmp_path):
    arrays = [bf16(300), bf16(FRAME_BYTES // 2 + 5, seed=2), bf16(0)]
    ids = borrow(store, tmp_path / "model", *arrays)
    for other in (store, Store.open(store.path)):
        for object_id, array in zip(ids, arrays, strict=True):
            spec, content = other.read_tensor(object_id)
            assert (spec, content.tobytes()) == (vector_spec(array), array.tobytes())
            assert content.flags.writeable
            assert other.tensor_spec(object_id) == spec
            assert other.has(object_id)
            assert not other.is_stored(object_id)
            assert other.stored_size(object_id) == 0
    assert not list(store.object_ids())
    assert not list(check(store))


def test_sources_come_back_as_they_were(store, tmp_path):
    borrow(store, tmp_path / "b\udcff\n", bf16(30), name="B/one@1 \n")
    borrow(store, tmp_path / "a", bf16(20), name="A")
    names = [source.name for source in Store.open(store.path).sources()]
    assert names == ["A", "B/one@1 \n"]
    assert Store.open(store.path).sources() == store.sources()
    assert store.sources()[1].root == tmp_path / "b\udcff\n"


def test_a_source_replaces_an_earlier_one_of_its_name(store, tmp_path):
    other = Store.open(store.path)
    (old,) = borrow(store, tmp_path / "a", bf16(30))
    assert other.has(old)
    (new,) = borrow(store, tmp_path / "b", bf16(40))
    for each in (store, other):
        assert each.has(new)
        assert not each.has(old)
        assert len(each.sources()) == 1


def change_content(file):
    file.write_bytes(file.read_bytes()[:-2] + b"zz")


def change_time(file):
    os.utime(file, (1, 1))


def change_length(file):
    status = file.stat()
    with file.open("ab") as end:
        end.write(b"x")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove(file):
    file.unlink()


def make_pipe(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("change", [change_content, change_time, change_length, remove, make_pipe])
def test_a_changed_file_is_named(store, tmp_path, change):
    base = bf16(300)
    (origin,) = borrow(store, tmp_path / "model", base)
    step = store.put_tensor(vector_spec(base), tuned(base), base=origin)
    change(tmp_path / "model" / "weights.bin")
    for object_id in (origin, step):
        with pytest.raises(SourceChanged, match=r"model/weights\.bin of source 'base'") as caught:
            store.read_tensor(object_id)
        assert (caught.value.source, caught.value.file) == ("base", "weights.bin")
        assert caught.value.exit_code == 3
        assert "register the source again" in caught.value.hint
    assert store.tensor_spec(origin) == vector_spec(base)
    assert {(f.id, f.kind) for f in check(store)} == {(step, "source"), (None, "source")}


@pytest.mark.parametrize("change", [change_time, remove, lambda file: flip(file, 90)])
def test_the_next_source_is_tried(store, tmp_path, change):
    base = bf16(300)
    (origin,) = borrow(store, tmp_path / "one", base, name="one")
    borrow(store, tmp_path / "two", base, name="two")
    step = store.put_tensor(vector_spec(base), tuned(base), base=origin)
    change(tmp_path / "one" / "weights.bin")
    assert store.read_tensor(origin)[1].tobytes() == base.tobytes()
    assert store.read_tensor(step)[1].tobytes() == tuned(base).tobytes()
    assert {finding.kind for finding in check(store)} == {"source"}


def flip(file, position):
    status, content = file.stat(), bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_moved_source_is_registered_again(store, tmp_path):
    base = bf16(300)
    (origin,) = borrow(store, tmp_path / "old", base)
    step = store.put_tensor(vector_spec(base), tuned(base), base=origin)
    shutil.move(tmp_path / "old", tmp_path / "new")
    borrow(store, tmp_path / "new", base)
    assert store.read_tensor(step)[1].tobytes() == tuned(base).tobytes()


def test_links_of_a_hub_cache_are_followed(store, tmp_path):
    base = bf16(300)
    (origin,) = borrow(store, tmp_path / "model", base)
    shutil.move(tmp_path / "model" / "weights.bin", tmp_path / "blob")
    (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "blob")
    assert store.read_tensor(origin)[1].tobytes() == base.tobytes()


@pytest.mark.parametrize(
    "file", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b", ".", "..", "//a"]
)
def test_paths_that_lead_elsewhere_are_refused(file):
    with pytest.raises(StoreError, match="not a plain relative path"):
        BorrowedTensor(file, 0, SPEC)


@LAW
@given(st.integers(-5, 20), st.integers(0, 20))
def test_tensors_lie_inside_their_files(tmp_path_factory, offset, size):
    def make():
        place = BorrowedTensor("f", offset, SPEC)
        return Source("s", tmp_path_factory.getbasetemp(), {"f": (size, 0)}, {"a" * 64: place})

    if 0 <= offset <= size - 4:
        assert make()
    else:
        with pytest.raises(StoreError):
            make()


def test_sources_need_a_name_an_absolute_root_and_known_files(tmp_path):
    with pytest.raises(StoreError, match="without a name"):
        Source("", tmp_path, {}, {})
    with pytest.raises(StoreError, match="is not absolute"):
        Source("s", tmp_path.relative_to("/"), {}, {})
    with pytest.raises(StoreError, match="outside 'g'"):
        Source("s", tmp_path, {"f": (10, 0)}, {"a" * 64: BorrowedTensor("g", 0, SPEC)})
