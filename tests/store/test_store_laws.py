"""What is put comes back, bit for bit, and takes no more room than it must."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import LAW, bf16, borrow, coder_of, pairs, tensors, tuned, vector_spec

from tvc_store.borrowed import SourceChanged
from tvc_store.check import check
from tvc_store.codecs import BUILT_IN
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.elements import InMemory
from tvc_store.errors import StoreError
from tvc_store.header import FRAME_BYTES
from tvc_store.ids import blob_id, tensor_id
from tvc_store.layout import place
from tvc_store.local import Store, UnknownFormat
from tvc_store.opened import Damaged
from tvc_store.reading import Missing, TooLarge

HEAD_AND_TAIL = 512


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "objects")


@LAW
@given(tensors())
def test_a_tensor_comes_back(tensor):
    spec, data = tensor
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "objects")
        object_id = store.put_tensor(spec, data)
        assert object_id == tensor_id(spec, data)
        got, content = store.read_tensor(object_id)
        assert (got, content.tobytes()) == (spec, data)
        assert content.dtype == np.uint8
        assert content.shape == (spec.nbytes,)
        assert content.flags.writeable
        assert store.tensor_spec(object_id) == spec
        assert store.stored_size(object_id) <= len(data) + HEAD_AND_TAIL


@LAW
@given(pairs())
def test_a_difference_comes_back(pair):
    spec, base, data = pair
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "objects")
        origin = store.put_tensor(spec, base)
        object_id = store.put_tensor(spec, data, base=origin)
        assert store.read_tensor(object_id)[1].tobytes() == data
        assert store.stored_size(object_id) <= len(data) + HEAD_AND_TAIL
        assert not list(check(store))
        for size in {0, len(data) // 3, len(data)}:
            beginning = np.empty(size, np.uint8)
            store.read_beginning(object_id, beginning)
            assert beginning.tobytes() == data[:size]


@LAW
@given(pairs(), st.sampled_from(sorted(BUILT_IN)))
def test_every_codec_returns_every_pattern(pair, name):
    spec, base, data = pair
    if not data:
        return
    frame, origin = (np.frombuffer(b, np.uint8) for b in (data, base))
    shared = BUILT_IN[name].survey(spec, InMemory(frame), InMemory(origin))
    coder = BUILT_IN[name].coder(spec, shared)
    stored = np.frombuffer(coder.encode(frame, at=0, base=origin), np.uint8)
    if stored.size < frame.size:
        out = np.empty_like(frame)
        coder.decode(stored, out, at=0, base=origin)
        assert out.tobytes() == data


@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
@pytest.mark.parametrize("name", ["planes", "rans"])
def test_every_codec_returns_long_frames_of_every_type(dtype, name):
    rng = np.random.default_rng(7)
    base = rng.integers(0, 256, 600_000, np.uint8)
    data = base.copy()
    data[::31] += 1
    data[400_000:] = 5
    coder = coder_of(name, data.size // ITEMSIZE[dtype], dtype=dtype)
    out = np.empty_like(base)
    stored = np.frombuffer(coder.encode(data, at=0, base=base), np.uint8)
    assert stored.size < data.size
    coder.decode(stored, out, at=0, base=base)
    assert np.array_equal(out, data)


def test_every_pair_of_sixteen_bit_patterns_that_matter(store):
    """NaNs with payloads, both zeros, infinities, subnormals and the extremes, each from each."""
    special = [0, 1, 2, 0x7F, 0x80, 0x7F7F, 0x7F80, 0x7F81, 0x7FC0, 0x7FFF]
    special += [pattern | 0x8000 for pattern in special]
    base, data = (np.array(x, np.uint16).ravel() for x in np.meshgrid(special, special))
    spec = vector_spec(base)
    origin = store.put_tensor(spec, base)
    object_id = store.put_tensor(spec, data, base=origin, codec="rans")
    assert store.read_tensor(object_id)[1].tobytes() == data.tobytes()


def test_several_frames_with_an_equal_one_and_a_raw_one(store):
    per_frame = FRAME_BYTES // 2
    base = bf16(3 * per_frame + 11)
    data = tuned(base)
    data[per_frame : 2 * per_frame] = base[per_frame : 2 * per_frame]
    rng = np.random.default_rng(3)
    data[2 * per_frame : 3 * per_frame] = rng.integers(0, 1 << 16, per_frame, np.uint16)
    spec = vector_spec(base)
    origin = store.put_tensor(spec, base)
    object_id = store.put_tensor(spec, data, base=origin)
    assert store.reader.base(object_id) == origin
    assert store.read_tensor(object_id)[1].tobytes() == data.tobytes()
    assert store.read_tensor(origin)[1].tobytes() == base.tobytes()
    assert store.stored_size(object_id) < FRAME_BYTES * 1.4
    assert not list(check(store))


def test_a_fine_tune_is_far_smaller_than_its_weights_and_noise_is_not_larger(store):
    base = bf16(200_000)
    spec = vector_spec(base)
    origin = store.put_tensor(spec, base)
    assert store.stored_size(origin) < 0.72 * base.nbytes
    assert store.stored_size(store.put_tensor(spec, tuned(base), base=origin)) < 0.2 * base.nbytes
    noise = np.random.default_rng(5).bytes(base.nbytes)
    noisy = store.put_tensor(spec, noise, base=origin)
    assert store.stored_size(noisy) < base.nbytes + 200
    assert store.reader.base(noisy) is None


def test_small_objects_stay_small(store):
    for spec, data in [(TensorSpec("BF16", ()), b"ab"), (TensorSpec("F32", (0, 3)), b"")]:
        assert store.stored_size(store.put_tensor(spec, data)) < 160


def test_a_base_of_another_type_or_shape_or_a_difference_is_not_used(store):
    base = bf16(4000)
    spec = vector_spec(base)
    origin = store.put_tensor(spec, base)
    step = store.put_tensor(spec, tuned(base), base=origin)
    other = tuned(base, seed=9)
    chained = store.put_tensor(spec, other, base=step)
    reshaped = store.put_tensor(TensorSpec("BF16", (4000, 1)), other, base=origin)
    retyped = store.put_tensor(TensorSpec("F16", (4000,)), other, base=origin)
    assert store.reader.base(step) == origin
    for object_id in (chained, reshaped, retyped):
        assert store.reader.base(object_id) is None
        assert store.read_tensor(object_id)[1].tobytes() == other.tobytes()


def test_a_codec_that_needs_a_base_says_so(store):
    with pytest.raises(StoreError, match="'rans' needs a base"):
        store.put_tensor(TensorSpec("U8", (100,)), bytes(100), codec="rans")


def test_a_missing_base_is_named(store):
    with pytest.raises(Missing, match="b" * 64):
        store.put_tensor(TensorSpec("U8", (100,)), bytes(100), base="b" * 64)
    assert not list(store.object_ids())


def test_nothing_is_coded_against_a_damaged_base(store, tmp_path):
    base = bf16(3000)
    spec = vector_spec(base)
    (origin,) = borrow(store, tmp_path / "model", base)
    file = tmp_path / "model" / "weights.bin"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[900] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(SourceChanged, match=origin):
        store.put_tensor(spec, tuned(base), base=origin)
    assert not list(store.object_ids())


@LAW
@given(st.binary(max_size=3000), st.booleans())
def test_a_blob_comes_back(data, repeat):
    data = data * 50 if repeat else data
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "objects")
        object_id = store.put_blob(data)
        assert object_id == blob_id(data)
        assert store.read_blob(object_id) == data
        assert store.stored_size(object_id) <= len(data) + HEAD_AND_TAIL


def test_a_blob_over_the_limit_is_not_read(store):
    object_id = store.put_blob(b"{}" * 5000)
    assert store.stored_size(object_id) < 300
    assert store.read_blob(object_id, limit=10_000)
    with pytest.raises(TooLarge, match="10000 bytes, at most 9999"):
        store.read_blob(object_id, limit=9_999)


def test_a_blob_is_no_tensor_and_a_tensor_no_blob(store):
    blob = store.put_blob(b"x" * 100)
    tensor = store.put_tensor(TensorSpec("U8", (100,)), b"x" * 100)
    with pytest.raises(Damaged, match="a blob, where a tensor"):
        store.read_tensor(blob)
    with pytest.raises(Damaged, match="a blob, where a tensor"):
        store.tensor_spec(blob)
    with pytest.raises(Damaged, match="a tensor, where a blob"):
        store.read_blob(tensor)


def test_putting_again_changes_nothing(store):
    spec, data = TensorSpec("U8", (1000,)), bytes(1000)
    object_id = store.put_tensor(spec, data)
    path = place(store.path, object_id)
    before, inode = path.read_bytes(), path.stat().st_ino
    assert store.put_tensor(spec, data) == object_id
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)
    assert store.put_blob(b"a") == store.put_blob(b"a")
    assert len(list(store.object_ids())) == 2


def test_objects_are_listed_and_known(store):
    ids = {store.put_blob(bytes([n])) for n in range(30)}
    assert set(store.object_ids()) == ids
    assert list(store.object_ids()) == sorted(ids)
    assert all(store.has(i) and store.is_stored(i) for i in ids)
    assert not store.has("c" * 64)
    for read in (store.read_tensor, store.read_blob, store.tensor_spec, store.stored_size):
        with pytest.raises(Missing, match="c" * 64):
            read("c" * 64)


def test_opening_a_store(store, tmp_path):
    blob = store.put_blob(b"hello")
    assert Store.open(store.path).read_blob(blob) == b"hello"
    assert Store.create(store.path).read_blob(blob) == b"hello"
    with pytest.raises(UnknownFormat, match="is not a store"):
        Store.open(tmp_path)
    (store.path / "format").write_text("tvc-store 2\n")
    for way in (Store.open, Store.create):
        with pytest.raises(UnknownFormat, match="'tvc-store 2', this program knows 'tvc-store 1'"):
            way(store.path)


def test_the_format_is_frozen(store):
    """Files as this version writes them; a change here is a new version."""
    base = np.arange(64, dtype=np.uint16) * 7
    spec = TensorSpec("BF16", (8, 8))
    origin = store.put_tensor(spec, base)
    step = store.put_tensor(spec, base + np.uint16(1), base=origin, codec="rans")
    raw = store.put_blob(b"hello")
    golden = Path(__file__).parent / "golden"
    for name, object_id in [("planes", origin), ("rans", step), ("raw", raw)]:
        wanted = bytes.fromhex((golden / f"{name}.hex").read_text())
        assert place(store.path, object_id).read_bytes().hex() == wanted.hex()


def test_old_files_are_read_for_ever(store):
    """Also where a later version writes them in another way."""
    golden = Path(__file__).parent / "golden"
    for name in ("planes", "rans", "raw"):
        content = bytes.fromhex((golden / f"{name}.hex").read_text())
        object_id = content[24:56].hex()
        path = place(store.path, object_id)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert not list(check(store))
    assert len(list(store.object_ids())) == 3
