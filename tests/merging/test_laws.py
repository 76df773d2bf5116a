"""Laws that every merge method keeps, and TIES' own, over arbitrary numbers.

The conformance suite runs over the installed methods: a new one is held to it by being installed.
"""

import itertools
import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tvc.merging.method import Method
from tvc.merging.passes import Part, over_tensor
from tvc.merging.registry import load_methods
from tvc.merging.selection import kth_largest, magnitudes, share_of
from tvc.merging.ties import ties

METHODS = load_methods()
NAMES = sorted(METHODS)
SHAPES = [(), (1,), (0,), (3, 0), (0, 4), (7,), (5, 4), (2, 3, 4), (1, 1)]


def members_of(method: Method) -> int:
    return min(3, method.members[1] or 3)


def supplies(deltas: Tensor, seed: int = 0, weights: Tensor | None = None) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "weights": torch.ones(len(deltas)) if weights is None else weights,
        "base": torch.randn(deltas.shape[1:], generator=draw, dtype=deltas.dtype),
        "uniforms": torch.rand(deltas.shape, generator=draw),
        "statistics": {},
    }


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def merge(method: Method, deltas: Tensor, given: Mapping[str, Any], **options: Any) -> Tensor:
    return method.merge(deltas, options=method.check_options(options), **given)


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape_and_type_and_its_inputs(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    method = METHODS[name]
    deltas = normal(members_of(method), *shape, dtype=dtype)
    given = supplies(deltas)
    before = deltas.clone(), {k: v.clone() for k, v in given.items() if isinstance(v, Tensor)}
    merged = merge(method, deltas, given)
    assert merged.shape == shape
    assert merged.dtype == dtype
    assert merged.isfinite().all()
    assert torch.equal(deltas, before[0])
    assert all(torch.equal(given[k], v) for k, v in before[1].items())
    assert merged.data_ptr() == 0 or merged.untyped_storage().data_ptr() != (
        deltas.untyped_storage().data_ptr()
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changed_stays_unchanged(name: str) -> None:
    method = METHODS[name]
    deltas = torch.zeros(members_of(method), 6, 4)
    merged = merge(method, deltas, supplies(deltas))
    # Models are averaged on the sphere up to rounding; all others give zero exactly.
    assert merged.abs().max() <= (1e-6 if method.space == "model" else 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_does_not_crash(name: str, bad: float) -> None:
    method = METHODS[name]
    deltas = normal(members_of(method), 6, 4)
    deltas[0, 0, 0] = bad
    given = supplies(deltas)
    given["uniforms"].zero_()
    merged = merge(method, deltas, given)
    assert merged.shape == (6, 4)
    # Clipping and masks by importance may remove an infinity, but nothing removes NaN.
    if bad != bad:
        assert merged.isnan().any()


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_in_any_thread_and_layout(name: str) -> None:
    method = METHODS[name]
    deltas = normal(members_of(method), 64, 48)
    given = supplies(deltas)
    padded = torch.zeros(len(deltas) + 1, 64, 48)
    padded[1:] = deltas
    found: list[Tensor] = []

    def work(data: Tensor) -> None:
        torch.set_num_threads(1)
        found.append(merge(method, data, given))

    for data in (deltas, padded[1:], deltas.clone()):
        worker = threading.Thread(target=work, args=(data,))
        worker.start()
        worker.join()
    assert same_bytes(found[0], found[1])
    assert same_bytes(found[0], found[2])


@pytest.mark.parametrize("name", sorted(n for n in NAMES if METHODS[n].commutative))
def test_order_of_members_means_nothing(name: str) -> None:
    method = METHODS[name]
    k = members_of(method)
    deltas, weights = normal(k, 9, 6), torch.tensor([1.0, 0.5, 0.25])[:k]
    given = supplies(deltas, weights=weights)
    order = list(reversed(range(k)))
    turned = {**given, "weights": weights[order], "uniforms": given["uniforms"][order]}
    torch.testing.assert_close(
        merge(method, deltas, given),
        merge(method, deltas[order], turned),
        rtol=1e-5,
        atol=1e-5,
    )


SCALE_FREE = sorted(
    set(NAMES) - {"nearswap", "arcee_fusion", "slerp", "karcher"}  # these have an absolute length
)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_twice_the_deltas_is_twice_the_result(name: str) -> None:
    method = METHODS[name]
    deltas = normal(members_of(method), 9, 6)
    given = supplies(deltas)
    once, twice = merge(method, deltas, given), merge(method, 2 * deltas, given)
    torch.testing.assert_close(twice, 2 * once, rtol=1e-5, atol=1e-5)


SINGLE = {
    "ties": {"density": 1.0},
    "dare": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "della": {"density": 1.0, "epsilon": 0.0},
    "della_linear": {"density": 1.0, "epsilon": 0.0},
    "breadcrumbs": {"density": 1.0},
    "breadcrumbs_ties": {"density": 1.0},
    "knots": {"density": 1.0},
    "nearswap": {"t": 100.0},
    "slerp": {"t": 1.0},
}


@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"model_stock", "nuslerp", "arcee_fusion", "iso_c"})
)
def test_one_member_kept_whole_is_returned(name: str) -> None:
    deltas = normal(1, 9, 6)
    merged = merge(METHODS[name], deltas, supplies(deltas), **SINGLE.get(name, {}))
    torch.testing.assert_close(merged, deltas[0], rtol=1e-5, atol=1e-5)


# TIES, over numbers with many equal magnitudes and zeros.

values = st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -3.0, 1e-3, 7.25])
matrices = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(values, min_size=k, max_size=k), min_size=1, max_size=24)
)


def plain_ties(
    deltas: list[list[float]], weights: list[float], density: float, normalize: str
) -> list[float]:
    """Algorithm 1 of arXiv:2306.01708, in Python's floats, one element at a time."""
    n = len(deltas[0])
    k = max(1, share_of(density, n)) if density else 0
    trimmed: list[list[float]] = []
    for delta in deltas:
        bar = sorted(map(abs, delta), reverse=True)[k - 1] if k else float("inf")
        trimmed.append([x if abs(x) >= bar else 0.0 for x in delta])
    merged: list[float] = []
    for column in zip(*trimmed, strict=True):
        votes = [x * w for x, w in zip(column, weights, strict=True)]
        sign = 1 if sum(votes) >= 0 else -1
        agreeing = [(v, w) for v, w in zip(votes, weights, strict=True) if v * sign > 0]
        divisor = len(agreeing) if normalize == "count" else sum(w for _, w in agreeing)
        merged.append(sum(v for v, _ in agreeing) / (divisor or 1))
    return merged


@settings(deadline=None)
@given(
    matrices,
    st.lists(st.sampled_from([1.0, 0.5, -0.5, 2.0]), min_size=4, max_size=4),
    st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.9, 1.0]),
    st.sampled_from(["count", "weights"]),
)
def test_ties_is_the_paper_written_plainly(
    columns: list[list[float]], weights: list[float], density: float, normalize: str
) -> None:
    deltas = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    weights = weights[: len(deltas)]
    expected = plain_ties(deltas.tolist(), weights, density, normalize)
    given = supplies(deltas, weights=torch.tensor(weights, dtype=torch.float64))
    merged = merge(ties, deltas, given, density=density, normalize=normalize)
    torch.testing.assert_close(merged, torch.tensor(expected, dtype=torch.float64))


@settings(deadline=None)
@given(matrices, st.sampled_from([0.1, 0.3, 0.7]))
def test_ties_is_bounded_by_its_members(columns: list[list[float]], density: float) -> None:
    deltas = torch.tensor(columns).T.contiguous()
    merged = merge(ties, deltas, supplies(deltas), density=density)
    assert (merged <= deltas.amax(dim=0).clamp(min=0)).all()
    assert (merged >= deltas.amin(dim=0).clamp(max=0)).all()


@settings(deadline=None)
@given(matrices, st.sampled_from([0.1, 0.3, 0.7, 1.0]))
def test_a_negative_weight_negates(columns: list[list[float]], density: float) -> None:
    deltas = torch.tensor(columns).T.contiguous()
    minus = supplies(deltas, weights=-torch.ones(len(deltas)))
    merged = merge(ties, deltas, minus, density=density)
    assert torch.equal(merged, merge(ties, -deltas, supplies(deltas), density=density))


# The whole vector.


def statistics_of(
    parts: list[Tensor], numel: int, weights: Tensor, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Take the passes over a vector, as the engine does."""
    statistics: dict[str, Tensor] = {}
    for each in ties.passes_for(options, "vector"):
        counting = each(
            members=len(weights),
            numel=numel,
            options=options,
            weights=weights,
            earlier=dict(statistics),
        )
        again = counting.begin(None)
        while again:
            for part in parts:
                seen = counting.part()
                seen.observe(part)
                counting.add(seen)
            again = counting.more()
        statistics[each.name] = counting.result()
    return statistics


def through_passes(parts: list[Tensor], numel: int, weights: Tensor, **given: Any) -> list[Tensor]:
    """Merge the parts of a vector, as the engine does."""
    options = ties.check_options({"scope": "vector", **given})
    statistics = statistics_of(parts, numel, weights, options)
    return [
        ties.merge(part, options=options, weights=weights, statistics=statistics) for part in parts
    ]


@settings(deadline=None)
@given(
    matrices,
    st.lists(st.integers(0, 24), max_size=4),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 1.0, "per member"]),
    st.sampled_from(["at_least_one", "floor", "one_more"]),
    st.sampled_from(["positive", "majority"]),
    st.booleans(),
)
# A sum of zero where most elements elect -, and where weights would say +.
@example([[1.0, -1.0], [-1.0, -4.0], [-1.0, -4.0]], [1], 2, 1.0, "floor", "majority", True)
@example([[1.0, 2.0], [-1.0, 0.0]], [1], 0, 1.0, "floor", "majority", False)
def test_scope_vector_is_scope_tensor_of_all_in_one(
    columns: list[list[float]],
    cuts: list[int],
    untouched: int,
    density: float | str,
    kept: str,
    zero_sum: str,
    late: bool,
) -> None:
    whole = torch.tensor(columns).T.contiguous()
    k = len(whole)
    weights = torch.tensor([1.0, -0.5, 2.0, 0.5])[:k]
    ends = sorted({min(cut, whole.shape[1]) for cut in cuts} | {0, whole.shape[1]})
    parts = [whole[:, a:b].contiguous() for a, b in itertools.pairwise(ends)]
    # Elements that no member changed are never observed, but count.
    flat = torch.cat([whole, torch.zeros(k, untouched)], dim=1)
    share = [0.25 * (i + 1) for i in range(k)] if density == "per member" else density
    options: dict[str, Any] = {
        "density": share,
        "kept": kept,
        "zero_sum": zero_sum,
        "weights_after_election": late,
    }
    merged = torch.cat(through_passes(parts[::-1], flat.shape[1], weights, **options)[::-1])
    at_once = merge(ties, flat, supplies(flat, weights=weights), **options)
    assert same_bytes(merged, at_once[: len(merged)])
    assert not at_once[len(merged) :].any()


def test_thresholds_are_exact_with_elements_that_nobody_changed() -> None:
    part = torch.tensor([[3.0, -2.0, 0.5, 0.0], [0.0, 1e-40, 0.0, -7.0]])
    for density, expected in [(0.2, [2.0, 1e-40]), (0.3, [0.5, 0.0]), (1.0, [0.0, 0.0])]:
        options = ties.check_options({"scope": "vector", "density": density})
        statistics = statistics_of([part], 10, torch.ones(2), options)
        assert torch.equal(statistics["thresholds"][:, 0], torch.tensor(expected))


BLOCKS = [slice(0, 64), slice(64, 68), slice(68, 96)]
IN_BLOCKS = [
    name for name in NAMES if METHODS[name].unit(METHODS[name].check_options({})) != "tensor"
]


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_blocks_of_a_tensor_give_its_statistics_and_its_bytes(name: str) -> None:
    """What sees elements or rows may be shown any blocks of them."""
    method = METHODS[name]
    options = method.check_options({})
    deltas = normal(members_of(method), 96, 1 << 12)
    given = supplies(deltas)
    statistics: dict[str, Tensor] = {}
    for each in method.passes_for(options, "tensor"):
        counting = each(
            members=len(deltas),
            numel=deltas[0].numel(),
            options=options,
            weights=given["weights"],
            earlier=statistics,
        )

        def show(part: Part, wants: frozenset[str] = each.wants) -> None:
            for block in BLOCKS:
                part.observe(deltas[:, block], **{w: cut(given[w], block, w) for w in wants})

        over_tensor(counting, show)
        statistics[each.name] = counting.result()
    parts = [
        method.apply(
            deltas[:, block],
            options=options,
            weights=given["weights"],
            base=given["base"][block],
            uniforms=given["uniforms"][:, block],
            statistics=statistics,
        )
        for block in BLOCKS
    ]
    assert same_bytes(torch.cat(parts), method.merge(deltas, options=options, **given))


def cut(supply: Tensor, block: slice, want: str) -> Tensor:
    return supply[:, block] if want == "uniforms" else supply[block]


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.data())
def test_kth_largest_is_that_of_a_sort(numbers: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(numbers)))
    found = kth_largest(magnitudes(torch.tensor(numbers)), k)
    assert found == sorted(map(abs, numbers), reverse=True)[k - 1]


def test_shares_are_taken_as_written() -> None:
    assert [share_of(0.29, 100), share_of(0.2, 5), share_of(1 / 3, 3)] == [29, 1, 1]
    assert share_of(0.1, 10**12) == 10**11


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, 1e-45, 0.5, -0.5, 1.0, 1.5, -2.0, 3.0, 1e30]), min_size=1, max_size=60
    ),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, -2.0, 1e30, 7.0]), max_size=60),
    st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.99, 1.0]),
)
def test_no_sample_changes_a_threshold(
    numbers: list[float], sample: list[float], share: float
) -> None:
    """A sample that is like the tensor, unlike it, or missing: the ranks are the exact ones."""
    deltas = torch.tensor([numbers, numbers[::-1]])
    options = ties.check_options({"density": share, "kept": "floor"})
    (kind, *_) = ties.passes_for(options, "tensor")
    expected = kth_largest(magnitudes(deltas[0]), int(share_of(share, len(numbers))))
    for shown in (sample, numbers, None):
        counting = kind(
            members=2, numel=len(numbers), options=options, weights=torch.ones(2), earlier={}
        )
        part = counting.sample(len(numbers))
        if shown is not None and part is not None:
            part.observe(torch.tensor([shown, shown]))
            counting.add(part)
        over_tensor(counting, lambda part: part.observe(deltas))
        assert counting.result().tolist() == [[expected], [expected]]
