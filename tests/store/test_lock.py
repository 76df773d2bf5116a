"""One holder, named to those who wait, and gone with its process."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tvc_store.errors import StoreError
from tvc_store.lock import Lock, Locked

HOLD = """
import sys
from pathlib import Path
from tvc_store.lock import Lock
path, way = Path(sys.argv[1]), sys.argv[2]
with Lock.exclusive(path, command="tvc merge") if way == "x" else Lock.shared(path):
    print("held", flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def hold(path):
    processes = []

    def start(way: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLD), str(path), way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_holder_is_named_and_gone_after_a_kill(path, hold):
    process = hold("x")
    with pytest.raises(Locked, match=f"'tvc merge' \\(process {process.pid}, since 20") as caught:
        Lock.exclusive(path, command="tvc add").__enter__()
    assert caught.value.holder.pid == process.pid
    assert abs(caught.value.holder.started - time.time()) < 60
    with pytest.raises(Locked):
        Lock.shared(path).__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Lock.exclusive(path, command="tvc add"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""


def test_waiting_tells_once_and_ends_when_the_lock_is_free(path, hold):
    process = hold("x")
    told = []

    def release(holder):
        told.append(holder)
        process.stdin.write("x")
        process.stdin.flush()

    with Lock.exclusive(path, command="tvc add", timeout=30, on_wait=release):
        assert [holder.command for holder in told] == ["tvc merge"]


def test_waiting_ends(path, hold):
    hold("x")
    told = []
    start = time.monotonic()
    with pytest.raises(Locked):
        Lock.exclusive(path, command="b", timeout=0.3, on_wait=told.append).__enter__()
    assert 0.3 <= time.monotonic() - start < 10
    assert len(told) == 1


def test_readers_share_and_keep_writers_out(path, hold):
    hold("s")
    with Lock.shared(path), Lock.shared(path), pytest.raises(Locked, match="another process"):
        Lock.exclusive(path, command="a").__enter__()


def test_a_dead_holder_is_not_named_for_a_reader(path, hold):
    process = hold("x")
    process.kill()
    process.wait()
    assert "tvc merge" in path.read_text()
    hold("s")
    with pytest.raises(Locked) as caught:
        Lock.exclusive(path, command="a").__enter__()
    assert caught.value.holder is None


def test_a_lock_is_not_reentrant_and_can_be_taken_again(path):
    lock = Lock.exclusive(path, command="a")
    for _ in range(2):
        with lock, pytest.raises(Locked):
            Lock.exclusive(path, command="b").__enter__()


def test_children_do_not_inherit_it(path):
    script = """
    import subprocess, sys
    from pathlib import Path
    from tvc_store.lock import Lock
    with Lock.exclusive(Path(sys.argv[1]), command="a"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
        sys.stdin.read(1)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        child = int(process.stdout.readline())
        process.kill()
    try:
        with Lock.exclusive(path, command="b", timeout=5):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_link_is_not_followed(path, tmp_path):
    (tmp_path / "victim").write_text("precious")
    path.symlink_to(tmp_path / "victim")
    for lock in (Lock.exclusive(path, command="a"), Lock.shared(path)):
        with pytest.raises(StoreError, match="cannot write"):
            lock.__enter__()
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\xff",
        "[" * 4000,
        '{"pid": 1}',
        "null",
        '{"pid":1,"command":"x","started":1e300}',
    ],
)
def test_rubbish_in_the_file_names_nobody(path, hold, text):
    hold("s")
    path.write_text(text)
    with pytest.raises(Locked) as caught:
        Lock.exclusive(path, command="a").__enter__()
    assert caught.value.holder is None


def test_a_name_is_no_escape_sequence(path):
    with Lock.exclusive(path, command="\x1b[31mred\n"), pytest.raises(Locked) as caught:
        Lock.exclusive(path, command="b").__enter__()
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
