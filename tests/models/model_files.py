"""Small model folders for the tests of this folder."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tvc.models.directory import ModelDirectory
from tvc.models.writer import ModelWriter, plan_shards
from tvc_store.dtypes import ITEMSIZE, TensorSpec


def random_bytes(specs: Mapping[str, TensorSpec], seed: int = 0) -> dict[str, np.ndarray]:
    """Every bit pattern is allowed: to this layer, tensors are bytes."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, spec.nbytes, np.uint8) for name, spec in specs.items()}


def write_weights(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    data: Mapping[str, np.ndarray],
    *,
    shard_size: int = 1 << 30,
) -> tuple[str, ...]:
    writer = ModelWriter(folder, plan_shards(specs, shard_size=shard_size), specs)
    for name in specs:
        writer.write(name, data[name])
    return writer.finish()


def write_model(
    folder: Path, specs: Mapping[str, TensorSpec] | None = None, config: str = "{}"
) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    specs = specs or {"a.weight": TensorSpec("BF16", (2, 3)), "b": TensorSpec("F32", ())}
    data = random_bytes(specs)
    write_weights(folder, specs, data)
    (folder / "config.json").write_text(config)
    return data


def assert_holds(model: ModelDirectory, data: Mapping[str, np.ndarray]) -> None:
    assert list(model.entries) == sorted(data)
    for name, expected in data.items():
        assert np.array_equal(model.read(name), expected.reshape(-1).view(np.uint8)), name


def config_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


_segments = st.text("abcXYZ019_-é. :", min_size=1, max_size=8).filter(
    lambda text: text not in (".", "..")
)
names = st.lists(_segments, min_size=1, max_size=3).map(".".join).filter(lambda t: t.strip("."))
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
specs = st.builds(TensorSpec, st.sampled_from(sorted(ITEMSIZE)), shapes)
models = st.dictionaries(names, specs, min_size=1, max_size=8)
