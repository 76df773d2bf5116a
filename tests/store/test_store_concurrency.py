"""Several threads and processes on one store, on the same objects."""

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_samples import bf16, borrow, tuned, vector_spec

from tvc_store.arrays import ByteArray, byte_view
from tvc_store.check import check
from tvc_store.elements import InMemory
from tvc_store.header import FRAME_BYTES
from tvc_store.ids import ObjectId
from tvc_store.layout import place
from tvc_store.local import Store
from tvc_store.publishing import Publisher


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "objects")


def test_threads_put_and_read_the_same_tensors(store, tmp_path):
    base = bf16(50_000)
    spec = vector_spec(base)
    (origin,) = borrow(store, tmp_path / "model", base)
    steps = [tuned(base, seed=n) for n in range(4)]
    gate = threading.Barrier(4)

    def work(_: int) -> list[str]:
        gate.wait()
        ids = [store.put_tensor(spec, step, base=origin) for step in steps]
        assert all(
            store.read_tensor(i)[1].tobytes() == step.tobytes()
            for i, step in zip(ids, steps, strict=True)
        )
        return ids

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert all(result == results[0] for result in results)
    assert sorted(store.object_ids()) == sorted(results[0])
    assert not list(check(store))


def test_large_tensors_at_once_are_stored_as_one_by_one(tmp_path):
    """Frames of one tensor are coded by several threads, in memory that the next tensor gets."""
    numel = 3 * (FRAME_BYTES // 2) + 77
    base = bf16(numel)
    spec = vector_spec(base)
    steps = [tuned(base, seed=n) for n in range(6)]
    stores = [Store.create(tmp_path / name) for name in ("one", "many")]
    for store in stores:
        (origin,) = borrow(store, tmp_path / f"model of {store.path.name}", base)
    alone = [stores[0].put_tensor(spec, step, base=origin) for step in steps]

    def put(step: ByteArray) -> ObjectId:
        elements = InMemory(byte_view(step))
        return stores[1].put_elements(spec, elements, base=origin, publisher=publisher)

    for _ in range(2):
        with ThreadPoolExecutor(3) as pool, Publisher(tmp_path) as publisher:
            assert list(pool.map(put, steps)) == alone
    with ThreadPoolExecutor(3) as pool:
        read = list(pool.map(stores[1].read_tensor, alone))
    assert [data.tobytes() for _, data in read] == [step.tobytes() for step in steps]
    files = [[place(store.path, i).read_bytes() for i in alone] for store in stores]
    assert files[0] == files[1]


def test_threads_see_sources_while_they_are_replaced(store, tmp_path):
    arrays = [bf16(100, seed=n) for n in range(8)]
    (origin,) = borrow(store, tmp_path / "always", arrays[0], name="always")
    stop = threading.Event()

    def replace() -> None:
        for n in range(60):
            borrow(store, tmp_path / f"m{n % 8}", arrays[n % 8], name="changing")
        stop.set()

    def read() -> int:
        count = 0
        while not stop.is_set():
            assert store.read_tensor(origin)[1].tobytes() == arrays[0].tobytes()
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        pool.submit(replace).result()
        assert all(reader.result() > 0 for reader in readers)


def test_processes_put_the_same_objects(store):
    script = """
    import sys
    from pathlib import Path
    from tvc_store.local import Store
    store = Store.create(Path(sys.argv[1]))
    print(store.path)
    sys.stdin.read(1)
    for n in range(60):
        store.put_blob(bytes([n]) * 3000)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(store.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.communicate("x")
        assert process.returncode == 0
    assert len(list(store.object_ids())) == 60
    assert not list(check(store))
