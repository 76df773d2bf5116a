"""The engine against the definitions, written plainly; and against lists that lie."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvc.domain.plan import (
    Combine,
    Copy,
    Difference,
    LowRank,
    Merged,
    Plan,
    PlannedMember,
    Restore,
    Scaled,
)
from tvc.domain.snapshot import TensorRef
from tvc.domain.vector import Factors
from tvc.evaluation.bits import changed_elements
from tvc.evaluation.draws import draw_uniforms
from tvc.evaluation.engine import Evaluator, WrongSpec, run_each
from tvc.evaluation.numbers import from_stored, to_stored
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import tensor_id

FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


class Shelf:
    """Tensors by id, as a store hands them out."""

    def __init__(self):
        self.tensors = {}

    def put(self, values: torch.Tensor, dtype="F32") -> TensorRef:
        spec = TensorSpec(dtype, tuple(values.shape))
        data = (
            np.frombuffer(
                values.to(FLOATS[dtype]).contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
                np.uint8,
            )
            if values.numel()
            else np.empty(0, np.uint8)
        )
        identity = tensor_id(spec, data)
        self.tensors[identity] = (spec, data.copy())
        return TensorRef(identity, spec)

    def read(self, identity):
        spec, data = self.tensors[identity]
        return spec, data.copy()

    def run(self, action, merges=None, numel=0, workers=1):
        evaluator = Evaluator(self.read, Plan({"w": action}, merges or {}, numel), workers=workers)
        evaluator.prepare()
        spec, data = evaluator.tensor("w")
        return spec, from_stored(spec, data, torch.float64)


def tensor(seed, shape=(5, 3)):
    return torch.tensor(np.random.default_rng(seed).normal(0, 1, shape)).float()


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_sum_is_rounded_once(dtype):
    shelf = Shelf()
    base, one, two = (shelf.put(tensor(seed), dtype) for seed in range(3))
    terms = (
        Scaled(Fraction(1, 3), Difference(one, Copy(base))),
        Scaled(Fraction(-2), Difference(two, Copy(base))),
    )
    _, found = shelf.run(Combine(base, terms, base.spec))
    wide = torch.float64 if dtype == "F64" else torch.float32
    b, o, t = (from_stored(*shelf.read(ref.id), wide) for ref in (base, one, two))
    expected = b + ((o - b) * (1 / 3) + (t - b) * -2)
    assert torch.equal(found, expected.to(FLOATS[dtype]).double())


def test_a_vector_on_top_of_another_is_its_own_difference():
    shelf = Shelf()
    base, one, two = (shelf.put(tensor(seed)) for seed in range(3))
    on_one = Difference(two, Restore(one))
    _, found = shelf.run(Combine(base, (Scaled(Fraction(1, 2), on_one),), base.spec))
    expected = tensor(0) + (tensor(2) - tensor(1)) * 0.5
    assert torch.equal(found.float(), expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_an_adapter_is_its_product(transposed):
    shelf = Shelf()
    base = shelf.put(tensor(0, (4, 6) if transposed else (6, 4)))
    down, up = shelf.put(tensor(1, (2, 4)), "BF16"), shelf.put(tensor(2, (6, 2)), "BF16")
    factors = Factors(down, up, Fraction(3, 2), transposed)
    _, found = shelf.run(Combine(base, (Scaled(Fraction(1), LowRank(factors)),), base.spec))
    product = tensor(2, (6, 2)).bfloat16().double() @ tensor(1, (2, 4)).bfloat16().double() * 1.5
    expected = (
        tensor(0, (4, 6) if transposed else (6, 4)) + (product.T if transposed else product).float()
    )
    assert torch.equal(found.float(), expected)


def test_a_merge_is_given_weighted_differences_and_what_it_wants():
    shelf = Shelf()
    base, one, two = (shelf.put(tensor(seed)) for seed in range(3))
    members = tuple(
        PlannedMember(weight, (Scaled(Fraction(1), Difference(ref, Copy(base))),), key)
        for weight, ref, key in ((Fraction(1), one, "one"), (Fraction(-1, 2), two, "two"))
    )
    merged = Merged("ties", base, base.spec, members, (("density", Fraction(1)),), "key")
    _, found = shelf.run(
        Combine(base, (Scaled(Fraction(1), merged),), base.spec), {"key": {"w": merged}}, 15
    )
    a, b = tensor(1) - tensor(0), (tensor(2) - tensor(0)) * -0.5
    sign = torch.where(a + b >= 0, 1.0, -1.0)
    agree = torch.stack([torch.where(d * sign > 0, d, 0) for d in (a, b)])
    count = (agree != 0).sum(0).clamp(min=1)
    assert torch.allclose(found.float(), tensor(0) + agree.sum(0) / count, rtol=1e-6, atol=1e-7)


def test_rows_that_only_one_vector_has_are_its_own():
    shelf = Shelf()
    base, grown, plain = shelf.put(tensor(0)), shelf.put(tensor(1, (7, 3))), shelf.put(tensor(2))
    terms = (
        Scaled(Fraction(1), Difference(grown, Copy(base))),
        Scaled(Fraction(1, 2), Difference(plain, Copy(base))),
    )
    spec, found = shelf.run(Combine(base, terms, grown.spec))
    assert spec.shape == (7, 3)
    assert torch.equal(found[5:].float(), tensor(1, (7, 3))[5:])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_empty_and_scalar_tensors_are_computed(shape):
    shelf = Shelf()
    base, one = shelf.put(tensor(0, shape)), shelf.put(tensor(1, shape))
    _, found = shelf.run(
        Combine(base, (Scaled(Fraction(1, 2), Difference(one, Copy(base))),), base.spec)
    )
    assert torch.equal(
        found.float(), tensor(0, shape) + (tensor(1, shape) - tensor(0, shape)) * 0.5
    )


def test_a_list_that_lies_about_a_shape_is_refused():
    shelf = Shelf()
    base, one = shelf.put(tensor(0)), shelf.put(tensor(1, (3, 5)))
    lie = TensorRef(one.id, base.spec)
    for action in (
        Copy(lie),
        Restore(lie),
        Combine(base, (Scaled(Fraction(1), Difference(lie, Copy(base))),), base.spec),
    ):
        with pytest.raises(WrongSpec, match=r"\[3, 5\].*\[5, 3\]"):
            shelf.run(action)


@given(st.lists(st.integers(0, 255), min_size=8, max_size=8), st.sampled_from(sorted(FLOATS)))
def test_stored_numbers_survive_the_wide_type(raw, dtype):
    """Every finite number, and every infinity, comes back; a NaN comes back as a NaN."""
    spec = TensorSpec(dtype, (8 // TensorSpec(dtype, ()).itemsize,))
    data = np.array(raw, np.uint8)
    wide = from_stored(spec, data, torch.float64)
    back = to_stored(wide, spec)
    again = from_stored(spec, back, torch.float64)
    assert torch.equal(torch.isnan(wide), torch.isnan(again))
    keep = ~torch.isnan(wide)
    assert torch.equal(wide[keep], again[keep])
    assert torch.equal(torch.signbit(wide[keep]), torch.signbit(again[keep]))


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([1, 2, 4, 8]), st.randoms())
def test_changed_elements_are_counted_by_bits(size, grown, width, random):
    dtype = {1: "U8", 2: "BF16", 4: "F32", 8: "F64"}[width]
    data = np.random.default_rng(random.randrange(2**30)).integers(0, 2, size * width, np.uint8)
    other = np.random.default_rng(random.randrange(2**30)).integers(0, 2, size * width, np.uint8)
    expected = sum(
        data[i * width : (i + 1) * width].tobytes() != other[i * width : (i + 1) * width].tobytes()
        for i in range(size)
    )
    spec = TensorSpec(dtype, (size,))
    assert changed_elements(spec, data, spec, other) == expected
    more = TensorSpec(dtype, (size + grown,))
    longer = np.concatenate([data, np.zeros(grown * width, np.uint8)])
    assert changed_elements(more, longer, spec, other) == expected + grown


def test_draws_are_keyed_by_seed_tensor_and_member_and_by_nothing_else():
    def draw(**changes):
        keys = {"seed": 1, "tensor": "w", "members": ["a", "b"], "shape": (3, 5), **changes}
        return draw_uniforms(**keys)

    first = draw()
    assert first.shape == (2, 3, 5)
    assert first.dtype == torch.float32
    assert torch.equal(first, draw())
    assert torch.equal(first.flip(0), draw(members=["b", "a"]))
    assert torch.equal(first[:1], draw(members=["a"]))
    for other in (draw(seed=2), draw(tensor="v"), draw(members=["a", "c"])):
        assert not torch.equal(first, other)
    same = draw(members=["a", "a"])
    assert not torch.equal(same[0], same[1])
    # Frozen: a recipe with a seed means these numbers.
    found = draw_uniforms(seed=0, tensor="w", members=["a"], shape=(4,))
    assert [round(float(x), 6) for x in found[0]] == FROZEN


FROZEN = [0.771502, 0.893893, 0.833441, 0.519942]


def test_draws_are_uniform():
    found = draw_uniforms(seed=3, tensor="w", members=["a"], shape=(100_001,))
    assert found.min() >= 0
    assert found.max() < 1
    assert abs(float(found.mean()) - 0.5) < 0.005
    assert abs(float((found < 0.1).float().mean()) - 0.1) < 0.005


def test_the_first_error_stops_the_rest():
    done = []

    def work(item):
        if item == 3:
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="3"):
        run_each(work, range(1000), workers=2)
    assert len(done) < 1000
