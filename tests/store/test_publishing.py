"""Files that are published together are all there, durably, or none of what failed."""

import os
import threading

import pytest

from tvc_store.durable import PendingFile, WriteFailed
from tvc_store.ordered import DEPTH, in_order
from tvc_store.publishing import Publisher


def publish(publisher: Publisher, folder, name: str) -> None:
    with PendingFile(folder) as file:
        file.write(name.encode())
        publisher.make_folder(folder / name[:1])
        publisher.publish(file, folder / name[:1] / name)


def temporary(folder) -> list:
    return list(folder.glob(".tvc-*"))


def test_all_are_there_at_the_end(tmp_path, monkeypatch):
    synced = set()
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    names = [f"{n % 7}-{n}" for n in range(60)]
    with Publisher(tmp_path) as publisher:
        for name in names:
            publish(publisher, tmp_path, name)
    files = [tmp_path / name[:1] / name for name in names]
    assert [path.read_text() for path in files] == names
    assert not temporary(tmp_path)
    # Each file, each folder that holds one, and the folder that holds these were flushed.
    assert {path.stat().st_ino for path in [*files, *tmp_path.iterdir(), tmp_path]} <= synced


def test_a_file_that_cannot_be_flushed_fails_all(tmp_path, monkeypatch):
    real, count = os.fsync, iter(range(1000))

    def fsync(fd: int) -> None:
        if next(count) == 10:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteFailed, match="no space left"), Publisher(tmp_path) as publisher:
        for n in range(100):
            publish(publisher, tmp_path, f"{n}")
    assert not temporary(tmp_path)
    assert sum(len(list(path.iterdir())) for path in tmp_path.iterdir()) < 40


def test_an_error_of_who_writes_is_what_is_raised(tmp_path):
    with pytest.raises(ZeroDivisionError), Publisher(tmp_path) as publisher:
        publish(publisher, tmp_path, "a")
        raise ZeroDivisionError
    assert not temporary(tmp_path)


@pytest.mark.parametrize("parallel", [False, True])
def test_results_come_in_order_and_memory_in_turn(parallel):
    """No more than `DEPTH` items are between being drawn and being done with."""
    drawn, done = [], []

    def items():
        for n in range(50):
            drawn.append(n)
            assert len(drawn) - len(done) <= DEPTH
            yield n

    threads = set()

    def work(n: int) -> int:
        threads.add(threading.get_ident())
        return n * n

    for result in in_order(work, items(), parallel=parallel):
        assert result == len(done) ** 2
        done.append(result)
    assert len(done) == 50
    assert (threading.get_ident() in threads) != parallel


@pytest.mark.parametrize("where", ["items", "work"])
def test_an_error_ends_it_when_its_turn_comes(where):
    def items():
        yield from range(9)
        if where == "items":
            raise KeyError
        yield 9

    def work(n: int) -> int:
        if n == 9:
            raise KeyError
        return n

    seen = []
    with pytest.raises(KeyError):
        for n in in_order(work, items(), parallel=True):
            seen.append(n)
    assert seen == list(range(len(seen)))
    assert threading.active_count() < 20
