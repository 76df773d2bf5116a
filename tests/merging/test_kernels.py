"""The compiled loops give the bytes of the plain ones, at every level of vector instructions."""

from collections.abc import Callable, Generator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from tvc.merging import elections, kernels, loops
from tvc.merging.elections import Election

RNG = np.random.default_rng(0)
PATTERNS = np.arange(1 << 16, dtype=np.uint16)
NUMBERS = np.concatenate(
    [
        PATTERNS.astype(np.uint32) << 16,  # every bf16
        PATTERNS.astype(np.uint32) << 16 | 0x8000,  # every tie
        RNG.integers(0, 1 << 32, 100_003).astype(np.uint32),
        RNG.normal(0, 1e-5, 50_000).astype(np.float32).view(np.uint32),
    ]
).view(np.float32)
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@pytest.fixture(autouse=True)
def as_before() -> Generator[None]:
    level = loops.level()
    yield
    loops.use(level)


def same(work: Callable[[], Any]) -> Any:
    """Return what every level returns."""
    found = []
    for level in loops.levels():
        loops.use(level)
        found.append(work())
    assert loops.levels()[-1] == "NumPy"
    for level, each in zip(loops.levels(), found, strict=True):
        assert each == found[-1], level
    return found[-1]


def members(count: int, size: int) -> list[np.ndarray]:
    """Small whole numbers with infinities and NaN, so that sums of zero occur."""
    found = [np.round(RNG.normal(0, 2, size)).astype(np.float32) for _ in range(count)]
    found[0][:100] = np.nan
    found[1][50:200] = np.inf
    found[2][150:300] = -np.inf
    return found


def canonical(values: np.ndarray) -> bytes:
    out = np.empty(values.nbytes, np.uint8)
    kernels.narrow(values, "F32", out)
    return out.tobytes()


@pytest.mark.parametrize("dtype", TORCH)
def test_numbers_are_narrowed_as_torch_does(dtype: str) -> None:
    def work() -> bytes:
        out = np.empty(NUMBERS.size * TORCH[dtype].itemsize, np.uint8)
        kernels.narrow(NUMBERS, dtype, out)
        return out.tobytes()

    ours = torch.frombuffer(bytearray(same(work)), dtype=TORCH[dtype]).float()
    theirs = torch.from_numpy(NUMBERS).to(TORCH[dtype]).float()
    assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))


@pytest.mark.parametrize("dtype", TORCH)
def test_numbers_are_widened_and_subtracted(dtype: str) -> None:
    raw = NUMBERS.view(np.uint8) if dtype == "F32" else PATTERNS.view(np.uint8)
    other = np.roll(raw.view(f"u{TORCH[dtype].itemsize}"), 777).view(np.uint8)
    count = raw.size // TORCH[dtype].itemsize

    def widened() -> bytes:
        out = np.empty(count, np.float32)
        kernels.widen(raw, dtype, out)
        return out.tobytes()

    def subtracted() -> bytes:
        out = np.empty(count, np.float32)
        kernels.subtract(raw, other, dtype, out)
        return canonical(out)

    wide = torch.frombuffer(bytearray(same(widened)), dtype=torch.float32)
    theirs = torch.frombuffer(bytearray(raw.tobytes()), dtype=TORCH[dtype]).float()
    assert torch.equal(wide.nan_to_num(7), theirs.nan_to_num(7))
    same(subtracted)


@pytest.mark.parametrize(
    ("vote", "zero_positive", "divide", "by_weights"),
    list(product(["none", "mass", "count"], [True, False], [True, False], [True, False])),
)
def test_elections(vote: Any, zero_positive: bool, divide: bool, by_weights: bool) -> None:
    all_members = members(4, 5_003)
    how = Election(
        lower=[0.5, 0, 1, 2],
        upper=[np.inf, 3, np.inf, 2.5],
        votes=[1, -1, 0.3, 2],
        weights=[1, -1, 0.3, 2],
        vote=vote,
        zero_positive=zero_positive,
        divide=divide,
        by_weights=by_weights,
    )

    def work() -> bytes:
        out = np.empty_like(all_members[0])
        elections.elect(all_members, how, out)
        return canonical(out)

    same(work)


def test_sums_are_taken_in_one_order_and_go_on_where_they_ended() -> None:
    left, right = (RNG.normal(0, 1, 100_003).astype(np.float32) for _ in range(2))
    whole = same(lambda: kernels.dot(left, right))
    cut = 3 << 14
    assert kernels.dot(left[cut:], right[cut:], kernels.dot(left[:cut], right[:cut])) == whole
    assert abs(whole - float(left.astype(np.float64) @ right)) < 1e-9
    total = left.copy()
    kernels.add_scaled(total, right, -0.3)
    assert np.array_equal(total, left + right * np.float32(-0.3))


def test_counting_and_collecting() -> None:
    def high() -> bytes:
        table = np.zeros(kernels.BINS, np.int64)
        kernels.count_high(table, NUMBERS)
        return table.tobytes()

    def collected(room: int) -> tuple[tuple[int, int], bytes]:
        found = np.zeros(room, np.uint32)
        counts = kernels.collect(NUMBERS, 1 << 28, 3 << 28, found)
        return counts, found.tobytes()

    assert np.frombuffer(same(high), np.int64).sum() == NUMBERS.size
    (inside, _), _ = same(lambda: collected(NUMBERS.size))
    # Without room for all nothing beyond it is touched, and all are counted.
    for level in loops.levels():
        loops.use(level)
        assert collected(1000)[0][0] == inside


def test_draws_are_philox() -> None:
    assert same(lambda: kernels.uniforms(0x1234567890ABCDEF, 13, 100_001).tobytes())
    # The authors' test vector for counter and key of zero.
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    for level in loops.levels():
        loops.use(level)
        assert kernels.uniforms(0, 0, 4).tolist() == [(word >> 8) * 2.0**-24 for word in words]


def test_dropping_bounding_and_spreading() -> None:
    all_members = members(3, 70_001)
    chances = RNG.uniform(0, 1, 70_001).astype(np.float32)
    chances[:10] = 0
    draws = kernels.uniforms(3, 0, 70_001)
    for divide in (True, False):
        same(lambda d=divide: canonical(elections.drop(all_members[0], draws, chances, divide=d)))
    same(lambda: canonical(elections.bound(all_members[1], all_members[2], 1.0, 4.0)))

    def spread() -> bytes:
        out = np.empty_like(all_members[0])
        elections.spread(all_members, out)
        return canonical(out)

    same(spread)


@pytest.mark.parametrize("columns", [1, 7, 4096])
def test_rows_are_ordered_stably(columns: int) -> None:
    rows = NUMBERS[: NUMBERS.size // columns * columns][: columns * 40].reshape(-1, columns)
    rows = np.concatenate([rows, np.zeros((2, columns), np.float32)])
    order = np.frombuffer(same(lambda: kernels.row_order(rows).tobytes()), np.uint32)
    assert np.array_equal(order[-columns:], np.arange(columns))


def test_products_of_factors() -> None:
    up, down = RNG.normal(0, 1, (37, 5)), RNG.normal(0, 1, (5, 2001))
    found = np.frombuffer(same(lambda: kernels.low_rank(up, down, 0.25).tobytes()))
    assert np.allclose(found.reshape(37, 2001), 0.25 * (up @ down), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(loops.levels() == ["NumPy"], reason="no compiled loops here")
def test_wrong_lengths_and_kinds_are_refused_not_read() -> None:
    from tvc.merging import _fused

    small, large = np.zeros(8, np.float32), np.zeros(64, np.float32)
    raw = np.zeros(64, np.uint8)
    for attack in (
        lambda: _fused.convert(small, raw, 0, 0),
        lambda: _fused.convert(large, raw, 9, 0),
        lambda: _fused.subtract(small, raw, raw[:10], 0),
        lambda: _fused.add_scaled(small, large, 2.0),
        lambda: _fused.dot(small, large, 0.0),
        lambda: _fused.count_high(np.zeros(5, np.int64), small),
        lambda: _fused.elect(small, [small, large], np.zeros(8, np.float32), 1, True, True, True),
        lambda: _fused.elect(small, [small], np.zeros(3, np.float32), 1, True, True, True),
        lambda: _fused.elect(small, [small], np.zeros(4, np.float32), 7, True, True, True),
        lambda: _fused.elect(small, [], np.zeros(0, np.float32), 1, True, True, True),
        lambda: _fused.spread(small, [large]),
        lambda: _fused.drop(small, small, large, small, True),
        lambda: _fused.bound(small, large, small, 0.0, 1.0),
        lambda: _fused.row_order(np.zeros(8, np.uint32), small, 3),
        lambda: _fused.row_order(np.zeros(8, np.uint32), small, 0),
        lambda: _fused.product(small, np.zeros(4), np.zeros(4), 3, 1.0),
        lambda: _fused.product(small, np.zeros(4), np.zeros(4), 0, 1.0),
    ):
        with pytest.raises(ValueError):
            attack()
    with pytest.raises(ValueError, match="no AVX-1024"):
        loops.use("AVX-1024")
