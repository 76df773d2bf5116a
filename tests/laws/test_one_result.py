"""Law 3: one normal form, one result: not of order, threads, workers, shards or hash seed."""

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from workbench import Bench

from tvc.merging.registry import load_methods
from tvc_store.dtypes import TensorSpec

SHAPES = {"a.weight": (24, 40), "b.weight": (257,), "c.weight": (3, 8, 9), "d.weight": ()}
METHODS = load_methods()


def model(seed: int, *, change: float = 0.0, from_seed: int | None = None):
    tensors = {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        rng = np.random.default_rng((from_seed if from_seed is not None else seed) + index)
        values = rng.normal(0, 0.02, shape)
        if change:
            values = values + np.random.default_rng(seed + index).normal(0, change, shape)
        data = torch.tensor(values).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
        tensors[name] = (TensorSpec("BF16", shape), data)
    return tensors


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("bench"), model(0))
    for seed, name in enumerate(["x", "y", "z"], 1):
        bench.recipe("x - x") if seed > 1 else None
        bench.commit(name, model(1000 * seed, change=1e-3, from_seed=0))
    return bench


def text_of(method: str, names, options: str = "") -> str:
    _, most = METHODS[method].members
    count = min(3, most or 3)
    members = ", ".join(
        f"{weight} * {name}"
        for weight, name in zip(("1", "0.7", "0.4"), names[:count], strict=False)
    )
    return f"{method}({members}{options})"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_workers_threads_and_shards_do_not_matter(method, bench):
    bench.recipe(f"0.5 * {text_of(method, 'xyz')} + 0.3 * z - x")
    before = torch.get_num_threads()
    results = []
    for workers, threads, shard in itertools.product((1, 3), (1, 2), (10**9, 700)):
        torch.set_num_threads(threads)
        results.append(bench.tensors(workers=workers, shard_size=shard))
    torch.set_num_threads(before)
    assert all(result == results[0] for result in results)
    assert results[0] != model(0)


@pytest.mark.parametrize(
    "method", sorted(n for n, m in METHODS.items() if m.commutative and m.members[1] is None)
)
def test_the_order_of_members_does_not_matter(method, bench):
    weighted = ["x", "0.7 * y", "(0.4 * z)"]
    results = []
    for members in itertools.permutations(weighted):
        bench.recipe(f"{method}({', '.join(members)}) + x")
        results.append(bench.tensors())
    assert all(result == results[0] for result in results)


def test_the_order_of_terms_does_not_matter(bench):
    terms = ["0.3 * x", "-0.7 * y", "dare(x, z; density=0.5, seed=3)", "1/3 * z"]
    results = []
    for order in itertools.permutations(terms):
        bench.recipe(" + ".join(f"({term})" for term in order))
        results.append(bench.tensors())
    assert all(result == results[0] for result in results)


def test_seeds_do_matter_and_are_the_whole_difference(bench):
    found = []
    for seed in (0, 1, 0):
        bench.recipe(f"dare(x, y; density=0.5, seed={seed})")
        found.append(bench.tensors())
    assert found[0] == found[2]
    assert found[0] != found[1]


def test_the_hash_seed_does_not_matter(bench, tmp_path):
    bench.recipe("ties(x, 0.5 * y, z; density=0.3, scope=vector) + 0.1 * dare(x, y; density=0.4)")
    digests = set()
    for seed in ("0", "1", "2"):
        target = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [
            sys.executable,
            "-m",
            "tvc",
            "-q",
            "-C",
            str(bench.repository.layout.root),
            "checkout",
            "-o",
            str(target),
        ]
        subprocess.run(command, check=True, env=environment)
        digests.add(hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_trimming_the_whole_vector_does_not_depend_on_what_else_the_recipe_says(bench):
    """A statistic of the whole vector is taken over all tensors, also those that are restored."""
    bench.recipe("ties(x, y; density=0.3, scope=vector)")
    below = bench.tensors()
    changed = {**below, "a.weight": model(77)["a.weight"]}
    name = f"on_top_{bench.count}"
    bench.commit(name, changed)
    assert bench.tensors() == changed
    bench.recipe(f"ties(x, y; density=0.3, scope=vector) + 0.5 * {name}")
    partly = bench.tensors()
    assert {n: t for n, t in partly.items() if n != "a.weight"} == {
        n: t for n, t in below.items() if n != "a.weight"
    }
