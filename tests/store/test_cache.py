"""The cache: what it gives back is what was put there, or nothing."""

import os

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tvc_store.cache import Cache


def test_what_was_kept_comes_back_under_its_key_and_size(tmp_path):
    cache = Cache(tmp_path / "cache")
    assert cache.get("a", size=3) is None
    cache.put("a", b"abc")
    cache.put("b", b"abcd" * 1000)
    assert Cache(tmp_path / "cache").get("a", size=3) == b"abc"
    assert cache.get("b", size=4000) == b"abcd" * 1000
    assert cache.get("a", size=4) is None
    assert cache.get("c", size=3) is None
    cache.put("a", b"xyz")
    assert cache.get("a", size=3) == b"xyz"


@given(st.binary(max_size=80))
def test_no_bytes_are_believed_without_their_checksum(tmp_path_factory, data):
    cache = Cache(tmp_path_factory.getbasetemp() / "hostile-cache")
    cache.put("a", b"abc")
    (path,) = (tmp_path_factory.getbasetemp() / "hostile-cache").iterdir()
    path.write_bytes(data)
    assert cache.get("a", size=3) is None
    path.write_bytes(blake3(data).digest() + data)
    assert cache.get("a", size=3) in (None, b"abc")


def test_a_bomb_a_link_and_a_pipe_are_nothing(tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.put("a", b"abc")
    (path,) = (tmp_path / "cache").iterdir()
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 27))
    path.write_bytes(blake3(bomb).digest() + bomb)
    assert cache.get("a", size=3) is None
    good = tmp_path / "good"
    stored = zstandard.ZstdCompressor().compress(b"abc")
    good.write_bytes(blake3(stored).digest() + stored)
    path.unlink()
    path.symlink_to(good)
    assert cache.get("a", size=3) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.get("a", size=3) is None


def test_a_cache_that_cannot_be_written_is_an_empty_one(tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = Cache(tmp_path / "file")
    cache.put("a", b"abc")
    assert cache.get("a", size=3) is None


def test_there_is_room_for_so_many(tmp_path, monkeypatch):
    monkeypatch.setattr("tvc_store.cache._MOST_ENTRIES", 8)
    cache = Cache(tmp_path / "cache")
    for number in range(30):
        cache.put(str(number), b"abc")
        for age, path in enumerate(sorted((tmp_path / "cache").iterdir(), key=os.path.getmtime)):
            os.utime(path, (age, age))
    assert len(list((tmp_path / "cache").iterdir())) <= 8
    assert cache.get("29", size=3) == b"abc"
    assert cache.get("0", size=3) is None


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_any_size(tmp_path, size):
    cache = Cache(tmp_path / "cache")
    data = os.urandom(size)
    cache.put("k", data)
    assert cache.get("k", size=size) == data
