"""Laws of writing: what was written is read back, by us and by the others, byte for byte."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import assert_holds, models, random_bytes, write_model, write_weights

from tvc.models.directory import ModelDirectory
from tvc.models.header import UnsupportedFile
from tvc.models.writer import BadSize, ModelWriter, parse_size, plan_shards
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import StoreError
from tvc_store.ids import tensor_id

# What safetensors hands out as tensors; the others it knows by name only.
_TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}


@given(models, st.integers(1, 400), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_what_was_written_is_read_back(specs, shard_size, random):
    data = random_bytes(specs)
    with TemporaryDirectory() as name:
        folder = Path(name)
        writer = ModelWriter(folder, plan_shards(specs, shard_size=shard_size), specs)
        order = list(specs)
        random.shuffle(order)
        for tensor in order:
            writer.write(tensor, data[tensor])
        writer.finish()
        (folder / "config.json").write_text("{}")
        model = ModelDirectory.open(folder)
        assert {name: entry.spec for name, entry in model.entries.items()} == specs
        assert_holds(model, data)


@given(models, st.integers(1, 400))
@settings(deadline=None, max_examples=100)
def test_safetensors_reads_what_was_written(specs, shard_size):
    data = random_bytes(specs)
    with TemporaryDirectory() as name:
        files = write_weights(Path(name), specs, data, shard_size=shard_size)
        seen = {}
        for file in (file for file in files if file.endswith(".safetensors")):
            with safetensors.safe_open(Path(name) / file, "pt") as opened:
                assert opened.metadata() == {"format": "pt"}
                seen |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 -- no mapping
        assert seen.keys() == specs.keys()
        for key, tensor in seen.items():
            assert tensor.dtype == _TORCH[specs[key].dtype]
            assert tuple(tensor.shape) == specs[key].shape
            raw = (
                tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
            )
            assert bytes(raw) == data[key].tobytes()


@given(models, st.integers(1, 400))
def test_the_plan_does_not_depend_on_the_order(specs, shard_size):
    shards = plan_shards(specs, shard_size=shard_size)
    assert shards == plan_shards(dict(reversed(specs.items())), shard_size=shard_size)
    assert sorted(name for shard in shards for name in shard.names) == sorted(specs)
    assert all(
        shard.nbytes <= shard_size
        or len(shard.names) == 1
        or sum(specs[n].nbytes > 0 for n in shard.names) <= 1
        for shard in shards
    )


@given(models)
@settings(deadline=None, max_examples=50)
def test_tensors_are_aligned_and_files_are_the_same_each_time(specs):
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        data = random_bytes(specs)
        write_weights(Path(one), specs, data)
        write_weights(Path(other), dict(reversed(specs.items())), data)
        name = "model.safetensors"
        assert (Path(one) / name).read_bytes() == (Path(other) / name).read_bytes()
        (Path(one) / "config.json").write_text("{}")
        for entry in ModelDirectory.open(Path(one)).entries.values():
            assert entry.offset % entry.spec.itemsize == 0


def test_the_index_is_as_transformers_writes_it(tmp_path):
    specs = {"b": TensorSpec("F32", (4,)), "a": TensorSpec("F32", (4,))}
    files = write_weights(tmp_path, specs, random_bytes(specs), shard_size=16)
    assert files == (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    )
    assert json.loads((tmp_path / files[2]).read_text()) == {
        "metadata": {"total_size": 32},
        "weight_map": {"a": files[0], "b": files[1]},
    }


def test_threads_may_write_at_once(tmp_path):
    specs = {f"t{n:03}": TensorSpec("I16", (n, 50)) for n in range(100)}
    data = random_bytes(specs)
    writer = ModelWriter(tmp_path, plan_shards(specs, shard_size=50_000), specs)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: writer.write(name, data[name]), specs))
    writer.finish()
    (tmp_path / "config.json").write_text("{}")
    assert_holds(ModelDirectory.open(tmp_path), data)


def test_every_tensor_is_written_exactly_once(tmp_path):
    specs = {"a": TensorSpec("U8", (2,)), "b": TensorSpec("U8", (2,))}
    writer = ModelWriter(tmp_path, plan_shards(specs, shard_size=9), specs)
    writer.write("a", b"12")
    with pytest.raises(ValueError, match="written twice"):
        writer.write("a", b"12")
    with pytest.raises(ValueError, match="has 2 bytes, 3 were given"):
        writer.write("b", b"123")
    with pytest.raises(ValueError, match="1 tensors were not written, the first is b"):
        writer.finish()


@given(models, st.integers(1, 400), st.data())
@settings(deadline=None, max_examples=50)
def test_pieces_and_copies_are_what_the_whole_is(specs, shard_size, choices):
    data = random_bytes(specs)
    with TemporaryDirectory() as name, TemporaryFile() as source:
        folder = Path(name)
        writer = ModelWriter(folder, plan_shards(specs, shard_size=shard_size), specs)
        for tensor, spec in specs.items():
            content, at = data[tensor].tobytes(), 0
            if choices.draw(st.booleans()):
                source.seek(0)
                source.write(b"before" + content)
                source.flush()
                assert writer.copy(tensor, source.fileno(), 6) == tensor_id(spec, content)
                if choices.draw(st.booleans()):
                    continue
                writer.discard(tensor)
            while at < len(content):
                size = choices.draw(st.integers(1, len(content) - at))
                writer.write_at(tensor, at, content[at : at + size])
                at += size
        writer.finish()
        (folder / "config.json").write_text("{}")
        assert_holds(ModelDirectory.open(folder), data)


def test_pieces_come_in_order_and_end_where_the_tensor_does(tmp_path):
    specs = {"a": TensorSpec("U8", (4,))}
    writer = ModelWriter(tmp_path, plan_shards(specs, shard_size=9), specs)
    writer.write_at("a", 0, b"12")
    for start, piece in ((0, b"1"), (3, b"4"), (2, b"345")):
        with pytest.raises(ValueError, match="in the wrong order"):
            writer.write_at("a", start, piece)
    with pytest.raises(ValueError, match="1 tensors were not written"):
        writer.finish()
    writer.write_at("a", 2, b"34")
    writer.finish()
    assert (tmp_path / "model.safetensors").read_bytes().endswith(b"1234")


def test_a_source_that_is_too_short_is_said_and_what_was_copied_can_be_replaced(tmp_path):
    specs = {"a": TensorSpec("U8", (4,))}
    writer = ModelWriter(tmp_path, plan_shards(specs, shard_size=9), specs)
    with TemporaryFile() as source:
        source.write(b"xyz")
        source.flush()
        assert writer.copy("a", source.fileno(), 0) is None
    writer.discard("a")
    writer.write("a", b"1234")
    writer.finish()
    assert (tmp_path / "model.safetensors").read_bytes().endswith(b"1234")


def test_shards_that_are_there_are_left_alone(tmp_path):
    specs = {"a": TensorSpec("U8", (4,)), "b": TensorSpec("U8", (4,))}
    shards = plan_shards(specs, shard_size=4)
    (tmp_path / shards[0].file).write_bytes(b"here")
    writer = ModelWriter(tmp_path, shards, specs, present=[shards[0].file])
    with pytest.raises(ValueError, match="written twice"):
        writer.write("a", b"1234")
    writer.write("b", b"5678")
    assert len(writer.finish()) == 3
    assert (tmp_path / shards[0].file).read_bytes() == b"here"


def test_existing_files_are_never_written_over(tmp_path):
    write_model(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(StoreError, match=r"cannot write .*model.safetensors: File exists"):
        write_model(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_link_in_the_place_of_a_shard_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").symlink_to(target)
    with pytest.raises(StoreError, match="cannot write"):
        write_model(tmp_path / "out")
    assert target.read_text() == "mine"


_LIMITED = """
import resource, sys
from pathlib import Path
from tvc.models.writer import ModelWriter, plan_shards
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import StoreError
from tvc_store.ids import tensor_id
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    specs = {"a": TensorSpec("F32", (1 << 20,))}
    ModelWriter(Path(sys.argv[1]), plan_shards(specs, shard_size=1 << 30), specs)
except StoreError as error:
    print(error)
"""


def test_no_room_is_known_before_the_first_tensor(tmp_path):
    command = [sys.executable, "-c", _LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("file size limit reached while writing ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied"):
        write_weights(tmp_path, {"a": TensorSpec("U8", ())}, {"a": np.zeros(1, np.uint8)})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("500MB", 5 * 10**8),
        ("1GiB", 2**30),
        ("1.5 gb", 1_500_000_000),
        ("0.1GiB", 2**30 // 10),
        ("123", 123),
        (7, 7),
        ("10kb", 10_000),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "5 apples", "-1", "0", "0.1B", "1e9", "5GBB", "٣GB", "1_0"]
)
def test_no_sizes(text):
    with pytest.raises(BadSize):
        parse_size(text)


def test_too_many_shards_and_names_that_cannot_be_written(tmp_path):
    specs = {f"{n}": TensorSpec("U8", (1,)) for n in range(100_001)}
    with pytest.raises(BadSize, match="would be 100001 files"):
        plan_shards(specs, shard_size=1)
    big = {"x" * 500 + f"{n:012}": TensorSpec("U8", ()) for n in range(70_000)}
    shards = plan_shards(big, shard_size=1 << 30)
    with pytest.raises(UnsupportedFile, match="70000 tensors are too many"):
        ModelWriter(tmp_path, shards, big)
    assert list(tmp_path.iterdir()) == []
