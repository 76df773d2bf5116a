"""A codec from outside the package: one class, one entry point line."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tvc_store.codecs import BUILT_IN, Codec, MalformedFrame, UnknownCodec, find_codec
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import InMemory
from tvc_store.local import Store

MODULE = """
class Fill:
    '''Codes frames of one repeated byte.'''

    uses_base = False

    def survey(self, spec, content, base):
        return b"parameters"

    def coder(self, spec, shared):
        assert shared == b"parameters"
        return self

    def encode(self, frame, *, at, base):
        return bytes(frame[:1])

    def decode(self, stored, out, *, at, base):
        out[:] = stored[0]

broken = 1 / 0 if __name__ == "nowhere" else None
"""
ENTRY = """
[tvc.codecs]
fill = outside_codec:Fill
absent = outside_codec:Absent
bad.module = outside_missing:Fill
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A distribution installed beside ours."""
    folder = tmp_path / "site"
    info = folder / "outside_codec-1.dist-info"
    info.mkdir(parents=True)
    (folder / "outside_codec.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-codec\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_codec_from_outside_stores_and_reads(outside, tmp_path):
    store = Store.create(tmp_path / "objects")
    spec = TensorSpec("U8", (1000,))
    object_id = store.put_tensor(spec, b"x" * 1000, codec="fill")
    assert store.stored_size(object_id) < 150
    assert store.read_tensor(object_id)[1].tobytes() == b"x" * 1000


def test_a_codec_that_loses_something_is_caught_before_anything_is_written(outside, tmp_path):
    store = Store.create(tmp_path / "objects")
    with pytest.raises(MalformedFrame, match="'fill' does not return what it was given"):
        store.put_tensor(TensorSpec("U8", (1000,)), bytes(999) + b"x", codec="fill")
    assert not list(store.object_ids())


@pytest.mark.parametrize("name", ["absent", "bad.module"])
def test_a_codec_that_does_not_load_is_named(outside, name):
    with pytest.raises(UnknownCodec, match=f"'{name}' .* fails to load"):
        find_codec(name)


def test_an_unknown_codec_is_named():
    with pytest.raises(UnknownCodec, match="'nobody' is not installed"):
        find_codec("nobody")


def test_entry_points_are_not_searched_for_our_own_codecs():
    script = """
    import importlib.metadata
    importlib.metadata.entry_points = None
    from tvc_store.codecs import BUILT_IN, find_codec
    assert [find_codec(name) for name in BUILT_IN] == list(BUILT_IN.values())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_codec_has_the_same_face(name):
    codec: Codec = BUILT_IN[name]
    assert isinstance(codec.uses_base, bool)
    frame = np.zeros(4096, np.uint8)
    spec, content = TensorSpec("F64", (512,)), InMemory(frame)
    coder = codec.coder(spec, codec.survey(spec, content, content))
    stored = coder.encode(frame, at=0, base=frame)
    assert len(stored) < 200 or name == "raw"
