"""A process killed at any instant, a full disk or a read-only one: the store stays whole."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from store_samples import bf16, borrow, tuned, vector_spec

from tvc_store.check import check
from tvc_store.collect import collect
from tvc_store.durable import (
    NoSpace,
    NotPermitted,
    ReadOnly,
    WriteFailed,
    is_temporary,
    make_folder,
    write_durably,
)
from tvc_store.local import Store

KILLER = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from store_samples import bf16, borrow, tuned, vector_spec
from tvc_store.collect import collect
from tvc_store.local import Store
from tvc_store.repair import replace_damaged_blob

def arm(limit):
    # Real calls, counted; the process ends before the one whose turn it is, or within a write.
    count = 0
    def lethal(name):
        real = getattr(os, name)
        def call(*args, **options):
            nonlocal count
            count += 1
            if count == limit:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os._exit(9)
            return real(*args, **options)
        setattr(os, name, call)
    for name in ("write", "fsync", "replace", "unlink", "mkdir"):
        lethal(name)

def work(folder):
    store = Store.create(folder / "objects")
    base = bf16(300)
    spec = vector_spec(base)
    (origin,) = borrow(store, folder / "model", base)
    store.put_blob(b"first" * 40)
    store.put_tensor(spec, tuned(base), base=origin)
    replace_damaged_blob(store, b"first" * 40)
    collect(store, [], grace_seconds=-1e6, now=0.0 + 1e12)

def run(root):
    for limit in range(1, 1000):
        folder = root / f"{{limit:03}}"
        folder.mkdir()
        child = os.fork()
        if child == 0:
            arm(limit)
            work(folder)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return
run(Path({root!r}))
"""


def python(script, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def test_killed_at_every_write_sync_rename_and_removal(tmp_path):
    script = KILLER.format(path=[str(Path(__file__).parent)], root=str(tmp_path))
    done = python(script)
    assert done.returncode == 0, done.stderr
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 40
    for folder in folders:
        # The same work done again ends well, whatever the dead process left.
        store = Store.create(folder / "objects")
        assert {f.kind for f in check(store)} <= {"stray"}, folder
        base = bf16(300)
        (origin,) = borrow(store, folder / "model", base)
        step = store.put_tensor(vector_spec(base), tuned(base), base=origin)
        assert store.read_tensor(step)[1].tobytes() == tuned(base).tobytes()
        collect(store, [step], grace_seconds=0, now=time.time() + 5)
        assert not list(check(store)), folder
        assert list(store.object_ids()) == [step]


def test_a_file_is_old_or_new_and_never_between(tmp_path):
    script = """
    import os, sys
    from pathlib import Path
    from tvc_store.durable import write_durably
    write_durably(Path(sys.argv[1]), iter(lambda: b"new" * 1000, None))
    """
    path = tmp_path / "file"
    path.write_bytes(b"old")
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path)])
    deadline = time.monotonic() + 30
    while not any(is_temporary(p.name) for p in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert path.read_bytes() == b"old"


def test_a_failing_source_of_chunks_leaves_nothing(tmp_path):
    def chunks():
        yield b"half"
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_durably(tmp_path / "file", chunks())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_writing_returns_the_length_and_sets_the_mode(tmp_path):
    path = tmp_path / "file"
    assert write_durably(path, [b"ab", b"", bytearray(b"cde")], mode=0o400) == 5
    assert path.read_bytes() == b"abcde"
    assert path.stat().st_mode & 0o777 == 0o400


def test_a_full_disk_is_one_clear_line_and_changes_nothing(tmp_path):
    script = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from tvc_store.dtypes import TensorSpec
    from tvc_store.durable import NoSpace
    from tvc_store.local import Store
    store = Store.create(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    noise = np.random.default_rng(0).bytes(300_000)
    for put in (lambda: store.put_blob(noise),
                lambda: store.put_tensor(TensorSpec("U8", (300_000,)), noise)):
        try:
            put()
        except NoSpace as error:
            print(error.message)
    """
    store = Store.create(tmp_path / "objects")
    kept = store.put_blob(b"kept")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(store.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("file size limit reached while writing" in line for line in lines)
    assert all(line.endswith("nothing was changed") for line in lines)
    assert list(store.object_ids()) == [kept]
    assert not list(check(store))


@pytest.fixture
def mount(tmp_path):
    """A small file system of its own; skipped where mounting is not allowed."""
    folder = tmp_path / "mount"
    folder.mkdir()
    tool = shutil.which("mount")
    if not tool:
        pytest.skip("there is no mount command")
    made = subprocess.run(
        [tool, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_that_is_full(mount):
    store = Store.create(mount / "objects")
    kept = store.put_blob(b"kept")
    with pytest.raises(NoSpace, match=r"no space left while writing .*; nothing was changed"):
        store.put_blob(os.urandom(1 << 20))
    assert list(store.object_ids()) == [kept]
    assert not list(check(store))


def test_a_read_only_disk_is_read_and_not_written(mount):
    store = Store.create(mount / "objects")
    kept = store.put_blob(b"kept")
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    again = Store.open(store.path)
    assert again.read_blob(kept) == b"kept"
    assert again.put_blob(b"kept") == kept
    assert not list(check(again))
    with pytest.raises(ReadOnly, match="the file system is read-only"):
        again.put_blob(b"more")
    with pytest.raises(ReadOnly):
        collect(again, [], grace_seconds=0, now=time.time() + 5)


def test_a_read_only_file_system_that_every_system_has():
    folder = next((p for p in ("/sys", "/proc") if os.access(p, os.R_OK)), None)
    if folder is None:
        pytest.skip("neither /sys nor /proc")
    with pytest.raises(WriteFailed, match=r"cannot write .*tvc-test"):
        write_durably(Path(folder) / "tvc-test", [b"x"])


def test_a_folder_of_others_is_one_clear_line(tmp_path):
    script = """
    import os, sys
    from pathlib import Path
    from tvc_store.durable import NotPermitted, write_durably
    os.setuid(65534)
    try:
        write_durably(Path(sys.argv[1]) / "file", [b"x"])
    except NotPermitted as error:
        print(error.message)
    """
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    if os.getuid() == 0:
        for parent in [tmp_path, *tmp_path.parents][:-1]:
            if parent != Path("/tmp"):
                parent.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "permission denied" in done.stdout, done.stderr
    else:
        with pytest.raises(NotPermitted, match="permission denied"):
            write_durably(folder / "file", [b"x"])


def test_folders_are_made_once(tmp_path):
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "a")
    with pytest.raises(WriteFailed):
        make_folder(tmp_path / "b" / "c")


def test_system_errors_are_told_apart():
    from tvc_store.durable import write_errors

    kinds = {
        errno.ENOSPC: NoSpace,
        errno.EDQUOT: NoSpace,
        errno.EFBIG: NoSpace,
        errno.EROFS: ReadOnly,
        errno.EACCES: NotPermitted,
        errno.EIO: WriteFailed,
    }
    for number, kind in kinds.items():
        with pytest.raises(kind) as caught, write_errors(Path("x")):
            raise OSError(number, os.strerror(number))
        assert type(caught.value) is kind
        assert "\n" not in caught.value.message
