"""Law 1: a committed fine-tune comes back bit for bit, whatever its types, bits and history."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workbench import Bench

from tvc_store.dtypes import ITEMSIZE, TensorSpec

DTYPES = sorted(ITEMSIZE)
few = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def bits(spec: TensorSpec, seed: int) -> bytes:
    data = np.random.default_rng(seed).integers(0, 256, spec.nbytes, np.uint8)
    return (data & 1 if spec.dtype == "BOOL" else data).tobytes()


@st.composite
def models(draw):
    """Two models of one form: random bits everywhere, many tensors alike in both."""
    specs = {
        f"layer.{index}.weight": TensorSpec(draw(st.sampled_from(DTYPES)), draw(shapes))
        for index in range(draw(st.integers(1, 5)))
    }
    seed = draw(st.integers(0, 2**30))
    base = {name: (spec, bits(spec, seed + i)) for i, (name, spec) in enumerate(specs.items())}
    changed = {
        name: (spec, bits(spec, seed + 100 + i) if draw(st.booleans()) else base[name][1])
        for i, (name, spec) in enumerate(specs.items())
    }
    return base, changed


@few
@given(models())
def test_every_type_and_every_bit_pattern_comes_back(pair):
    base, tuned = pair
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), base)
        assert bench.tensors() == base
        if tuned != base:
            bench.commit("tuned", tuned)
            assert bench.tensors() == tuned


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_patterns_come_back(dtype, tmp_path):
    """All 8- and 16-bit patterns; of wider ones zeros, ones, infinities and NaN payloads."""
    width = ITEMSIZE[dtype]
    if dtype == "BOOL":
        values = np.array([0, 1], np.uint8)
    elif width <= 2:
        values = np.arange(1 << (8 * width), dtype=f"<u{width}")
    else:
        top = 8 * width - 1
        values = np.array(
            [
                0,
                1,
                1 << top,
                (1 << top) - 1,
                (1 << top) + 1,
                (2 << top) - 1,
                0x7FC00001,
                0xFFBFFFFF,
                0x7F800000,
            ],
            dtype=f"<u{width}",
        )
    specs = {
        "w": TensorSpec(dtype, (len(values),)),
        "s": TensorSpec(dtype, ()),
        "e": TensorSpec(dtype, (0, 3)),
    }

    def model(array):
        return {
            "w": (specs["w"], array.tobytes()),
            "s": (specs["s"], array[:1].tobytes()),
            "e": (specs["e"], b""),
        }

    bench = Bench(tmp_path, model(values))
    tuned = model(values[::-1].copy())
    bench.commit("tuned", tuned)
    assert bench.tensors() == tuned


def floats(seed: int, dtype: str = "BF16", shape=(7, 11)) -> tuple[TensorSpec, bytes]:
    values = np.random.default_rng(seed).normal(0, 0.02, shape).astype("<f4")
    if dtype == "BF16":
        return TensorSpec("BF16", shape), (values.view("<u4") >> 16).astype("<u2").tobytes()
    return TensorSpec(dtype, shape), values.astype(
        {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
    ).tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize(
    "below",
    [
        "a",
        "a + b",
        "0.3 * a - 2 * b",
        "ties(a, b; density=0.3)",
        "dare(a, b; density=0.5)",
        "0.5 * ties(a, b; density=0.2, scope=vector)",
    ],
)
def test_a_fine_tune_on_a_composed_checkout_comes_back(dtype, below, tmp_path):
    names = ["x.weight", "y.weight"]
    bench = Bench(tmp_path, {name: floats(i, dtype) for i, name in enumerate(names)})
    bench.commit("a", {name: floats(10 + i, dtype) for i, name in enumerate(names)})
    bench.recipe("a - a")
    bench.commit("b", {"x.weight": floats(20, dtype), "y.weight": bench.tensors()["y.weight"]})
    bench.recipe(below)
    composed = bench.tensors()
    tuned = {**composed, "x.weight": floats(30, dtype)}
    done = bench.commit("c", tuned)
    assert done.recorded.changed_tensors == 1
    assert bench.tensors() == tuned
    # And it stays so when more is stacked on top and taken away again.
    bench.commit("d", {name: floats(40 + i, dtype) for i, name in enumerate(names)})
    bench.recipe(f"{below} + c")
    assert bench.tensors() == tuned


def test_a_single_vector_is_restored_and_a_sum_is_arithmetic(tmp_path):
    base, one, two = ({"w": floats(seed)} for seed in range(3))
    bench = Bench(tmp_path, base)
    bench.commit("one", one)
    bench.recipe("one - one")
    bench.commit("two", two)
    bench.recipe("one + two")

    def numbers(model):
        return (np.frombuffer(model["w"][1], "<u2").astype("<u4") << 16).view("<f4")

    expected = numbers(base) + ((numbers(one) - numbers(base)) + (numbers(two) - numbers(base)))
    assert np.allclose(numbers(bench.tensors()), expected, rtol=2**-8, atol=0)
    bench.recipe("one + two - one")
    assert bench.tensors() == two
    bench.recipe("one - one")
    assert bench.tensors() == base
