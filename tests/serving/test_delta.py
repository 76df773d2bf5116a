"""What travels: the same after a journey, refused when it is not what was announced."""

import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tvc.domain.errors import InputError, TvcError
from tvc.serving.delta import (
    BadDelta,
    Change,
    Delta,
    changed_elements,
    pack_delta,
    read_delta,
    state_id,
    unpack_delta,
)
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import tensor_id

BYTES = arrays.arrays(np.uint8, st.integers(0, 60).map(lambda n: 4 * n))


def as_bytes(delta: Delta) -> bytes:
    return b"".join(bytes(part) for part in pack_delta(delta))


def dense(data: np.ndarray) -> Change:
    spec = TensorSpec("F32", (data.size // 4,))
    return Change(spec, tensor_id(spec, data), data)


@given(BYTES, BYTES)
def test_a_delta_is_the_same_after_a_journey(one, two):
    delta = Delta("b" * 64, "label", "c", "base + a", "/r", {"x": dense(one), "y.z": dense(two)})
    found = unpack_delta(np.frombuffer(as_bytes(delta), np.uint8))
    assert (found.before, found.label, found.commit, found.recipe, found.repository) == (
        "b" * 64,
        "label",
        "c",
        "base + a",
        "/r",
    )
    for name, change in delta.changes.items():
        assert found.changes[name].id == change.id
        assert bytes(found.changes[name].values) == bytes(change.values)


@given(BYTES, st.data())
def test_changed_elements_make_the_new_from_the_old(old, data):
    new = old.copy()
    for _ in range(data.draw(st.integers(0, 3))):
        if new.size:
            new[data.draw(st.integers(0, new.size - 1))] ^= data.draw(st.integers(1, 255))
    spec = TensorSpec("F32", (old.size // 4,))
    positions = changed_elements(old, new, spec)
    if positions is None:
        assert np.count_nonzero(old.view("u4") != new.view("u4")) * 8 >= new.nbytes
        return
    made = old.copy().view("u4")
    made[positions] = new.view("u4")[positions]
    assert bytes(made) == bytes(new)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_way(raw):
    with pytest.raises(TvcError):
        unpack_delta(np.frombuffer(raw, np.uint8))


@given(st.data())
def test_a_damaged_manifest_never_gets_through_unnoticed(data):
    """Whatever is read out of it is inside the file, and ascending."""
    values = np.arange(8, dtype=np.uint8)
    spec = TensorSpec("F32", (4,))
    positions = np.array([1, 3], np.uint32)
    whole = as_bytes(Delta("b", "l", changes={"x": Change(spec, "0" * 64, values, positions)}))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    try:
        found = unpack_delta(np.frombuffer(damaged, np.uint8))
    except TvcError:
        return
    for change in found.changes.values():
        if change.positions is not None and change.positions.size:
            assert change.positions.max() < change.spec.nbytes // 4
            assert (np.diff(change.positions.astype(np.int64)) > 0).all()


MANIFEST = {
    "format": "tvc.delta/1",
    "kind": "dense",
    "before": "",
    "label": "l",
    "commit": "",
    "recipe": "",
    "repository": "",
}
ENTRY = {"dtype": "F32", "shape": [2], "id": "0" * 64, "values": [0, 8], "positions": None}


@pytest.mark.parametrize(
    "tensors",
    [
        {"../x": ENTRY},
        {"x\x1b[2J": ENTRY},
        {"x": ENTRY | {"values": [0, 9]}},
        {"x": ENTRY | {"values": [1, 8]}},
        {"x": ENTRY | {"values": [-8, 8]}},
        {"x": ENTRY | {"values": [True, 8]}},
        {"x": ENTRY | {"values": [0]}},
        {"x": ENTRY | {"shape": [1 << 60]}},
        {"x": ENTRY | {"shape": [-2]}},
        {"x": ENTRY | {"dtype": "F4"}},
        {"x": ENTRY | {"id": "short"}},
        {"x": ENTRY | {"values": [4, 4], "positions": [0, 3]}},
        {"x": ENTRY | {"values": [4, 4], "positions": [0, 4]}},  # a position past the end
        {"x": "text"},
        {"x": None},
        [],
    ],
)
def test_places_outside_are_refused(tensors):
    values = np.full(8, 255, np.uint8).tobytes()
    manifest = json.dumps(MANIFEST | {"tensors": tensors}).encode()
    whole = values + manifest + len(manifest).to_bytes(8, "little")
    with pytest.raises(TvcError):
        unpack_delta(np.frombuffer(whole, np.uint8))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.delta"
    path.write_bytes(as_bytes(Delta("b", "l", changes={"x": dense(np.zeros(8, np.uint8))})))
    return path


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_read_when_its_hash_is_right(file):
    assert read_delta(file, sha256=sha(file), kind="dense", limit=1 << 20).label == "l"


def test_files_that_are_not_as_announced_are_refused(file, tmp_path):
    right = sha(file)
    with pytest.raises(BadDelta, match="hash differs"):
        read_delta(file, sha256="0" * 64, kind="dense", limit=1 << 20)
    with pytest.raises(BadDelta, match="is dense, not sparse"):
        read_delta(file, sha256=right, kind="sparse", limit=1 << 20)
    with pytest.raises(InputError, match="at most"):
        read_delta(file, sha256=right, kind="dense", limit=10)
    link = tmp_path / "link"
    link.symlink_to(file)
    with pytest.raises(InputError, match="may not read"):
        read_delta(link, sha256=right, kind="dense", limit=1 << 20)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="plain file"):
        read_delta(pipe, sha256=right, kind="dense", limit=1 << 20)
    with pytest.raises(InputError, match="may not read"):
        read_delta(tmp_path / "gone", sha256=right, kind="dense", limit=1 << 20)


def test_the_state_says_names_and_contents():
    assert state_id({"a": "1", "b": "2"}) == state_id({"b": "2", "a": "1"})
    assert state_id({"a": "1", "b": "2"}) != state_id({"a": "2", "b": "1"})
