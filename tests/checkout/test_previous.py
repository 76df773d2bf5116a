"""A checkout over another keeps what it can, and gives what a checkout elsewhere gives."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workbench import Bench

from tvc.checkout.previous import Previous
from tvc.checkout.writing import Checkout, Written
from tvc.repository.objects import Objects, open_objects
from tvc_store.dtypes import TensorSpec

NAMES = [f"model.layers.{n}.weight" for n in range(6)]
SPEC = TensorSpec("BF16", (40, 6))


def tensor(seed: int) -> tuple[TensorSpec, bytes]:
    words = np.random.default_rng(seed).integers(0x3C00, 0x3D00, SPEC.shape, np.uint16)
    return SPEC, words.tobytes()


def model(**changed: int) -> dict:
    """A model whose tensors are made of a number each, the base's being their place."""
    return {name: tensor(changed.get(f"t{n}", n)) for n, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("bench"), model())
    bench.commit("whole", model(**{f"t{n}": 10 + n for n in range(6)}))
    bench.recipe("whole - whole")
    bench.commit("part", model(t1=21, t4=24))
    return bench


def write(bench: Bench, recipe: str, target: Path, **options: object) -> Written:
    """Check a recipe out, over what may be there."""
    bench.recipe(recipe)
    with open_objects(bench.repository.layout) as store:
        state = bench.repository.state_at("HEAD")
        planned = Checkout(
            Objects(store, state),
            state.recipe,
            commit="0" * 40,
            dtype=options.pop("dtype", None),
        )
        shard_size = options.pop("shard_size", 10**9)
        return planned.write(
            target, title="t", force=True, verify=True, shard_size=shard_size, **options
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def checked(bench: Bench, recipe: str, target: Path, **options: object) -> int:
    """Check out over `target`; it must hold what a new folder would. Return the tensors kept."""
    written = write(bench, recipe, target, **options)
    fresh = target.with_name("fresh")
    assert write(bench, recipe, fresh, **options).kept == 0
    assert contents(target) == contents(fresh)
    shutil.rmtree(fresh)
    assert not list(target.parent.glob(".*"))
    return written.kept


def inode(target: Path, shard: str = "model.safetensors") -> int:
    return (target / shard).stat().st_ino


def test_what_is_the_same_is_not_written_again(bench, tmp_path):
    out = tmp_path / "out"
    assert checked(bench, "whole", out) == 0
    before = inode(out)
    assert checked(bench, "whole", out) == 6
    assert inode(out) == before
    assert (out / "model.safetensors").stat().st_nlink == 1


def test_only_what_differs_is_decoded(bench, tmp_path):
    out = tmp_path / "out"
    assert checked(bench, "part - part", out) == 0
    before = inode(out)
    assert checked(bench, "part", out) == 4
    assert inode(out) != before
    assert checked(bench, "part - part", out) == 4


def test_shards_are_kept_one_by_one(bench, tmp_path):
    out = tmp_path / "out"
    checked(bench, "part - part", out, shard_size=2 * SPEC.nbytes)
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    before = [inode(out, name) for name in names]
    assert checked(bench, "part", out, shard_size=2 * SPEC.nbytes) == 4
    after = [inode(out, name) for name in names]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False]
    # In other shards they are kept too, by copying.
    assert checked(bench, "part", out, shard_size=3 * SPEC.nbytes) == 6


def test_sums_and_casts_that_were_computed_before_are_kept(bench, tmp_path):
    out = tmp_path / "out"
    assert checked(bench, "0.5 * part", out) == 0
    assert checked(bench, "0.5 * part", out) == 6
    assert checked(bench, "0.5 * part", out, dtype="F32") == 0
    before = inode(out)
    assert checked(bench, "0.5 * part", out, dtype="F32") == 6
    assert inode(out) == before
    assert checked(bench, "0.25 * part", out, dtype="F32") == 0
    assert checked(bench, "0.5 * part", out) == 0


def test_a_folder_that_says_what_a_sum_is_is_not_believed(bench, tmp_path):
    """What a sum is, only who computed it knows: here nobody has."""
    out = tmp_path / "out"
    checked(bench, "0.75 * part", out)
    shutil.rmtree(bench.repository.layout.cache)
    assert checked(bench, "0.75 * part", out) == 4


def test_a_sum_in_a_damaged_shard_is_computed_again(bench, tmp_path):
    out = tmp_path / "out"
    checked(bench, "0.5 * part", out)
    assert checked(bench, "0.5 * part", out) == 6
    flip(out / "model.safetensors", -5 * SPEC.nbytes + 1)  # in t1, which is computed
    assert checked(bench, "0.5 * part", out) == 5


def test_a_file_with_another_name_elsewhere_is_copied(bench, tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"
    checked(bench, "whole", out)
    os.link(out / "model.safetensors", mine)
    assert checked(bench, "whole", out) == 6
    assert inode(out) != mine.stat().st_ino


def flip(path: Path, at: int) -> None:
    """Change a byte, and leave the times as they were."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@given(st.integers(1, 6 * SPEC.nbytes), st.sampled_from(["whole", "part", "part - part"]))
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_byte_is_never_kept(bench, tmp_path, at, recipe):
    out = tmp_path / "out"
    write(bench, recipe, out)
    flip(out / "model.safetensors", -at)
    assert checked(bench, recipe, out) == 5


def test_a_changed_header_is_never_kept(bench, tmp_path):
    out = tmp_path / "out"
    checked(bench, "whole", out)
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"format":"pt"', b'"format":"np"'))
    before = inode(out)
    assert checked(bench, "whole", out) == 6
    assert inode(out) != before


LIES = {
    "no JSON": lambda text: "{" + text,
    "another format": lambda text: text.replace("tvc.checkout/1", "tvc.checkout/2"),
    "no tensors": lambda text: text.replace('"tensors"', '"tensor"'),
    "no ids": lambda text: text.replace(NAMES[0] + '": "', NAMES[0] + '": "../'),
    "twice": lambda text: text.replace('"format"', '"format": "x", "format"'),
    "a list": lambda text: f"[{text}]",
    "a number": lambda text: json.dumps({**json.loads(text), "tensors": 7}),
    "numbers": lambda text: json.dumps({**json.loads(text), "tensors": {NAMES[0]: 7}}),
    "deep": lambda _: '{"tensors":' * 10_000 + "7" + "}" * 10_000,
}


@pytest.mark.parametrize("lie", LIES)
def test_facts_that_are_none_keep_nothing(lie, bench, tmp_path):
    out = tmp_path / "out"
    checked(bench, "whole", out)
    facts = out / "tvc.json"
    facts.write_text(LIES[lie](facts.read_text()))
    assert checked(bench, "whole", out) == 0


def test_what_is_said_of_other_bytes_is_not_believed(bench, tmp_path):
    """A folder claims to hold what is wanted, with other bytes."""
    out, other = tmp_path / "out", tmp_path / "other"
    checked(bench, "part", out)
    checked(bench, "whole", other)
    (other / "tvc.json").write_bytes((out / "tvc.json").read_bytes())
    assert checked(bench, "part", other) == 0


@pytest.mark.parametrize("kind", ["link inside", "link outside", "folder", "fifo", "gone", "short"])
def test_shards_that_are_no_plain_files(kind, bench, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    checked(bench, "whole", out)
    shard = out / "model.safetensors"
    shard.rename(elsewhere)
    if kind == "link inside":
        elsewhere.rename(out / "weights")
        shard.symlink_to("weights")
    elif kind == "link outside":
        shard.symlink_to(elsewhere)
    elif kind == "folder":
        shard.mkdir()
    elif kind == "fifo":
        os.mkfifo(shard)
    elif kind == "short":
        shard.write_bytes(elsewhere.read_bytes()[:-1])
    assert checked(bench, "whole", out) == (6 if kind == "link inside" else 0)
    assert not shard.is_symlink()


def test_where_no_checkout_is_there_is_nothing_to_keep(tmp_path):
    assert Previous.read(tmp_path / "none") is None
    assert Previous.read(tmp_path) is None
    (tmp_path / "tvc.json").write_text("{}")
    assert Previous.read(tmp_path) is None  # no weights
