"""The engine against the definitions, written plainly; and against lists that lie."""

import dataclasses
import itertools
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
    KeptDelta,
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
from tvc.evaluation.draws import Draws
from tvc.evaluation.engine import Evaluator, WrongSpec, run_each
from tvc.evaluation.memory import MemberMemory
from tvc.evaluation.numbers import from_numbers, to_numbers
from tvc.merging import loops
from tvc_store.cache import Cache
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import tensor_id

FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def from_stored(spec, data, wide):
    """Stored bytes as torch's numbers, by torch."""
    if not data.size:
        return torch.zeros(spec.shape, dtype=wide)
    raw = torch.from_numpy(data.copy())
    return raw.view(FLOATS[spec.dtype]).reshape(spec.shape).to(wide)


class Shelf:
    """Tensors by id, as a store hands them out: a `Source`.

    Args:
        piece: Bytes of a streamed piece.
    """

    def __init__(self, piece=1 << 22):
        self.tensors = {}
        self.piece = piece
        self.streamed = 0

    def tensor_spec(self, identity):
        return self.tensors[identity][0]

    def read_tensor(self, identity):
        return self.read(identity)

    def stream_tensors(self, ids, *, only=None, into=None):
        self.streamed += 1
        contents = [self.tensors[identity][1] for identity in ids]
        for index, start in enumerate(range(0, max(map(len, contents)), self.piece)):
            if only is not None and index not in only:
                continue
            part = slice(start, start + self.piece)
            if into is not None:
                for identity, data in zip(ids, contents, strict=True):
                    into[identity][part] = data[part]
                yield [into[identity][part] for identity in ids]
                continue
            pieces = [data[part].copy() for data in contents]
            yield pieces
            for piece in pieces:
                piece[:] = 0xEE  # overwritten by the next

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
        evaluator = Evaluator(self, Plan({"w": action}, merges or {}, numel), workers=workers)
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


@pytest.mark.parametrize("kept", ["F32", "BF16", "F64"])
@pytest.mark.parametrize("piece", [1 << 10, 1 << 22])
def test_a_kept_difference_is_added_as_it_was_trained(kept, piece):
    """Whatever width it has beside the base, and where windows end between pieces."""
    shelf, shape = Shelf(piece), (700, 203)
    base = shelf.put(tensor(0, shape), "BF16")
    delta, other = shelf.put(tensor(1, shape) / 1000, kept), shelf.put(tensor(2, shape), "BF16")
    terms = (
        Scaled(Fraction(3), KeptDelta(delta)),
        Scaled(Fraction(-1, 2), Difference(other, Copy(base))),
    )
    _, found = shelf.run(Combine(base, terms, base.spec))
    b, d, o = (from_stored(*shelf.read(ref.id), torch.float32) for ref in (base, delta, other))
    expected = (b + (d * 3 + (o - b) * -0.5)).bfloat16()
    assert torch.equal(found, expected.double())
    merged = merge_of(shelf, "ties", "BF16", shape)[0].terms[0].delta
    members = (PlannedMember(Fraction(1), terms[:1], "d"), *merged.members[1:])
    merged = dataclasses.replace(merged, base=base, members=members)
    action = Combine(base, (Scaled(Fraction(1), merged),), base.spec)
    _, one = shelf.run(action, {merged.key: {"w": merged}}, 700 * 203)
    wide = Shelf()
    wide.tensors = shelf.tensors
    _, other = wide.run(action, {merged.key: {"w": merged}}, 700 * 203, workers=2)
    assert torch.equal(one, other)


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


METHODS = {
    "ties": {},
    "ties of the vector": {"scope": "vector", "zero_sum": "majority"},
    "linear": {},
    "dare_ties": {"seed": 3},
    "dare": {"rescale": "l1", "seed": 3},
    "della": {"seed": 3},
    "breadcrumbs": {},
    "breadcrumbs_ties": {"axis": "row"},
    "sce": {"select_topk": Fraction(1, 2)},
    "model_stock": {},
    "model_stock by rows": {"filter_wise": True},
    "multislerp": {},
    "karcher": {},
    "emr": {},
    "tsv": {},
}


def merge_of(shelf, name, dtype, shape):
    """A merge of three members, one of which is twice another vector."""
    base, *tuned = (shelf.put(tensor(seed, shape), dtype) for seed in range(4))
    members = tuple(
        PlannedMember(weight, (Scaled(scale, Difference(ref, Copy(base))),), key)
        for weight, scale, ref, key in (
            (Fraction(1), Fraction(1), tuned[0], "one"),
            (Fraction(-1, 2), Fraction(1), tuned[1], "two"),
            (Fraction(2), Fraction(2), tuned[2], "three"),
        )
    )
    options = tuple(METHODS[name].items())
    merged = Merged(name.split(" ")[0], base, base.spec, members, options, name)
    return Combine(base, (Scaled(Fraction(3, 4), merged),), base.spec), {name: {"w": merged}}


@pytest.mark.parametrize("name", METHODS)
def test_one_result_whatever_the_pieces_the_memory_and_the_instructions(name, monkeypatch):
    """Streamed and kept, in any pieces, with every kind of loop: the same bytes."""
    shape, found = (390, 512), []
    for level in loops.levels():
        for piece, kept in ((1 << 22, 96 << 20), (1 << 17, 0), (3 * 7 * 1024, 0)):
            shelf = Shelf(piece)
            monkeypatch.setattr("tvc.evaluation.engine.KEPT_BYTES", kept)
            action, merges = merge_of(shelf, name, "BF16", shape)
            loops.use(level)
            try:
                plan = Plan({"w": action}, merges, 390 * 512)
                evaluator = Evaluator(shelf, plan, workers=2)
                evaluator.prepare()
                found.append(evaluator.tensor("w")[1].tobytes())
            finally:
                loops.use(loops.levels()[0])
    assert len(set(found)) == 1


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
def test_large_tensors_of_every_type_are_merged_in_windows(dtype):
    shelf = Shelf()
    action, merges = merge_of(shelf, "linear", dtype, (300, 300))
    _, found = shelf.run(action, merges, 90_000)
    base, one, two, three = (
        tensor(seed, (300, 300)).to(FLOATS[dtype]).double() for seed in range(4)
    )
    mean = ((one - base) - (two - base) / 2 + (three - base) * 4) / 2.5
    expected = (base + mean * 0.75).to(FLOATS[dtype]).double()
    assert torch.allclose(found, expected, rtol=2e-3 if dtype == "F16" else 1e-5, atol=1e-3)


def test_what_is_read_once_is_not_kept_and_what_is_read_again_is():
    shelf = Shelf()
    action, merges = merge_of(shelf, "linear", "BF16", (200, 512))
    shelf.run(action, merges)
    assert shelf.streamed == 1
    action, merges = merge_of(shelf, "ties", "BF16", (200, 512))
    shelf.run(action, merges)
    assert shelf.streamed == 2


def test_what_is_too_large_to_be_kept_is_sampled_and_streamed_twice(monkeypatch):
    monkeypatch.setattr("tvc.evaluation.engine.KEPT_BYTES", 0)
    shelf = Shelf()
    action, merges = merge_of(shelf, "ties", "BF16", (600, 512))
    shelf.run(action, merges)
    assert shelf.streamed == 3


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
    wide = to_numbers(data, spec.dtype, np.float64)
    again = to_numbers(from_numbers(wide, spec.dtype), spec.dtype, np.float64)
    assert np.array_equal(wide, again, equal_nan=True)
    keep = ~np.isnan(wide)
    assert np.array_equal(np.signbit(wide[keep]), np.signbit(again[keep]))


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
        keys = {"seed": 1, "tensor": "w", "members": ["a", "b"], **changes}
        return Draws(**keys).block(0, 15)

    first = draw()
    assert first.shape == (2, 15)
    assert first.dtype == np.float32
    assert np.array_equal(first, draw())
    assert np.array_equal(first[::-1], draw(members=["b", "a"]))
    assert np.array_equal(first[:1], draw(members=["a"]))
    for other in (draw(seed=2), draw(tensor="v"), draw(members=["a", "c"])):
        assert not np.array_equal(first, other)
    same = draw(members=["a", "a"])
    assert not np.array_equal(same[0], same[1])
    # Frozen: a recipe with a seed means these numbers.
    found = Draws(seed=0, tensor="w", members=["a"]).block(0, 4)
    assert [round(float(x), 6) for x in found[0]] == FROZEN


FROZEN = [0.996849, 0.796436, 0.455504, 0.799549]


@given(st.lists(st.integers(0, 99), max_size=4))
def test_draws_of_blocks_are_those_of_the_whole(cuts):
    draws = Draws(seed=7, tensor="w", members=["a", "b"])
    ends = sorted({0, 100, *cuts})
    blocks = [draws.block(start, stop) for start, stop in itertools.pairwise(ends)]
    assert np.array_equal(np.concatenate(blocks, axis=1), draws.block(0, 100))


def test_draws_are_uniform():
    found = Draws(seed=3, tensor="w", members=["a"]).block(0, 100_001)
    assert found.min() >= 0
    assert found.max() < 1
    assert abs(float(found.mean()) - 0.5) < 0.005
    assert abs(float((found < 0.1).mean()) - 0.1) < 0.005


def test_the_first_error_stops_the_rest():
    done = []

    def work(item):
        if item == 3:
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="3"):
        run_each(work, range(1000), workers=2)
    assert len(done) < 1000


def vector_ties(shelf, density):
    """TIES over a vector of two tensors, one of which a member leaves alone."""
    tensors = {}
    for name, seed in (("a", 0), ("b", 10)):
        base, *tuned = (shelf.put(tensor(seed + i, (600, 512)), "BF16") for i in range(3))
        members = tuple(
            PlannedMember(
                Fraction(1),
                ()
                if (name, key) == ("b", "two")
                else (Scaled(Fraction(1), Difference(ref, Copy(base))),),
                key,
            )
            for key, ref in zip(("one", "two"), tuned[:2], strict=True)
        )
        options = (("density", density), ("scope", "vector"))
        tensors[name] = Merged("ties", base, base.spec, members, options, "key")
    actions = {
        name: Combine(m.base, (Scaled(Fraction(1), m),), m.base.spec) for name, m in tensors.items()
    }
    return Plan(actions, {"key": tensors}, 3 * 600 * 512)


def test_what_a_pass_over_a_vector_counted_is_remembered(tmp_path):
    """The same bytes with a cache, from the cache, for another density, and past a damaged one."""

    def run(density, cache):
        shelf = Shelf()
        plan = vector_ties(shelf, density)
        evaluator = Evaluator(shelf, plan, workers=2, cache=cache)
        evaluator.prepare()
        passes = shelf.streamed
        return [evaluator.tensor(name)[1].tobytes() for name in plan.actions], passes

    cache = Cache(tmp_path / "cache")
    fifth, tenth = Fraction(1, 5), Fraction(1, 10)
    plain, passes = run(fifth, None)
    assert passes > 2
    first, passes = run(fifth, cache)
    assert passes in (4, 6)  # a sample and a round of two tensors, and one more if it misled
    again, passes = run(fifth, cache)
    assert passes == 0
    assert first == again == plain
    other, passes = run(tenth, cache)
    assert passes == 2  # the bins are known, what is in them is not
    assert run(tenth, cache) == (other, 0)
    assert other == run(tenth, None)[0]
    for path in (tmp_path / "cache").iterdir():
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-3] + b"abc")
    assert run(fifth, cache)[0] == plain


def test_what_was_counted_of_weighted_members_is_not_taken_for_others(tmp_path):
    cache = Cache(tmp_path / "cache")
    tensors = vector_ties(Shelf(), Fraction(1, 5)).merges["key"]
    doubled = {
        name: dataclasses.replace(
            merged,
            members=tuple(dataclasses.replace(m, weight=Fraction(2)) for m in merged.members),
        )
        for name, merged in tensors.items()
    }

    def memory(of, kind, *, weighted):
        return MemberMemory(cache, of, 9, kind=kind, weighted=weighted)

    counts = np.arange(4)
    memory(tensors, "a", weighted=True).keep(0, "high", counts)
    assert np.array_equal(memory(tensors, "a", weighted=True).recall(0, "high", 4), counts)
    assert memory(doubled, "a", weighted=True).recall(0, "high", 4) is None
    assert memory(tensors, "b", weighted=True).recall(0, "high", 4) is None
    memory(tensors, "a", weighted=False).keep(0, "low", counts)
    assert np.array_equal(memory(doubled, "a", weighted=False).recall(0, "low", 4), counts)
