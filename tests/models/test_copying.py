"""Copying between files gives what reading and writing gives, wherever in a block it begins."""

import errno
import os
from contextlib import contextmanager
from tempfile import TemporaryFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvc.models.copying import copy_range

DATA = np.random.default_rng(0).bytes(1 << 20)
places = st.one_of(st.integers(0, 20_000), st.sampled_from([0, 4095, 4096, 4097, 8192, 8472]))


@contextmanager
def files(content=DATA):
    with TemporaryFile() as source, TemporaryFile() as target:
        source.write(content)
        source.flush()
        target.write(b"\xff" * 40_000)
        target.flush()
        yield source.fileno(), target.fileno()


@given(places, places, st.one_of(st.integers(0, 20_000), st.sampled_from([4096, 300_000])))
@settings(deadline=None)
def test_what_is_copied_is_there_and_nothing_else_changed(start, at, size):
    with files() as (source, target):
        assert copy_range(source, start, target, at, size)
        expected = bytearray(b"\xff" * 40_000)
        expected.extend(bytes(max(at + size - len(expected), 0)))
        expected[at : at + size] = DATA[start : start + size]
        assert os.pread(target, 1 << 20, 0) == expected


@pytest.mark.parametrize("refusal", [errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
@pytest.mark.parametrize("after", [0, 1])
def test_where_the_system_cannot_it_is_read_and_written(refusal, after, monkeypatch):
    real, calls = os.copy_file_range, []

    def refuse(source, target, count, *places):
        calls.append(count)
        if len(calls) > after:
            raise OSError(refusal, "no")
        return real(source, target, 1000, *places)

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with files() as (source, target):
        assert copy_range(source, 7, target, 9, 500_000)
        assert os.pread(target, 500_000, 9) == DATA[7:500_007]
    assert len(calls) == after + 1


@pytest.mark.parametrize("start", [len(DATA) - 99, len(DATA) + 5])
def test_a_source_that_ends_too_soon_is_said(start):
    with files() as (source, target):
        assert not copy_range(source, start, target, 0, 100)


def test_a_source_that_cannot_be_read_is_said(tmp_path):
    fd = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
    with files() as (_, target):
        assert not copy_range(fd, 0, target, 1, 100)
    os.close(fd)


def test_a_full_disk_is_an_error(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    with files() as (source, target), pytest.raises(OSError, match="full"):
        copy_range(source, 1, target, 0, 100)
