"""Distances by predicted size: the same bytes on every processor, and no trust in any."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from store_samples import LAW

from tvc_store.codecs import native
from tvc_store.codecs.grid import UNCHANGED, Grid
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.codecs.rans import EXPONENTS, Rans
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.elements import InMemory

LEVELS = native.supported()
BF16, FP32 = Grid(2, 7, 255, 0, b"", False), Grid(4, 23, 255, 0, b"", False)


@pytest.fixture(autouse=True)
def _restore():
    used = native.in_use()
    yield
    native.use(used)


def on_all(function, *arguments, **named):
    """Return what every level says, once they all say the same."""
    said = []
    for level in LEVELS:
        native.use(level)
        said.append(function(*arguments, **named))
    assert all(each == said[0] for each in said)
    return said[0]


def decoded(grid, stored, base, first=0):
    out = np.zeros_like(base)
    good = native.decode(grid, np.frombuffer(stored, np.uint8), out, base, first=first)
    return out.tobytes() if good else None


def returns(grid, frame, base, first=0):
    """Encode on every level, decode on every level; return the stored bytes, or None."""
    stored = on_all(native.encode, grid, frame, base, first=first)
    if stored is not None:
        assert on_all(decoded, grid, stored, base, first) == frame.tobytes()
    return stored


@st.composite
def grids(draw):
    itemsize = draw(st.sampled_from([1, 2, 4, 8]))
    places = [(0, 0), *(p for d, p in EXPONENTS.items() if ITEMSIZE[d] == itemsize and d != "C64")]
    shift, mask = draw(st.sampled_from(places))
    columns = draw(st.sampled_from([0, 1, 5, 64, 100, 1025, 2100]))
    if not columns:
        return Grid(itemsize, shift, mask, 0, b"", False)
    terms = b""
    if draw(st.booleans()):
        random = np.random.default_rng(draw(st.integers(0, 99)))
        chosen = np.where(random.random(columns) < 0.1, UNCHANGED, random.integers(0, 16, columns))
        terms = chosen.astype(np.int8).tobytes()
    return Grid(itemsize, shift, mask, columns, terms, draw(st.booleans()))


@st.composite
def frames(draw):
    """A grid, a base and what came of it: steps of any size, runs without any, wild patterns."""
    grid = draw(grids())
    count = draw(st.sampled_from([1, 2, 15, 16, 17, 255, 257, 4095, 4097, 9000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = np.dtype(f"<u{grid.itemsize}")
    base = random.integers(0, 256, count * grid.itemsize, np.uint8)
    if grid.itemsize > 1 and draw(st.booleans()):
        floats = {2: np.float16, 4: np.float32, 8: np.float64}[grid.itemsize]
        base = (random.standard_normal(count) * 0.02).astype(floats).view(np.uint8)
    scale = 2.0 ** draw(st.integers(-4, 8 * grid.itemsize - 3))
    steps = np.rint(random.standard_normal(count) * scale).astype(np.int64)
    steps[random.random(count) < draw(st.sampled_from([0, 0.5, 0.99, 1]))] = 0
    frame = (base.view(kind).astype(np.uint64) + steps.view(np.uint64)).astype(kind)
    wild = random.random(count) < draw(st.sampled_from([0, 0.01]))
    frame[wild] = random.integers(0, 256, count * grid.itemsize, np.uint8).view(kind)[wild]
    return grid, frame.view(np.uint8), base, draw(st.integers(0, 5000))


@LAW
@given(frames())
def test_every_level_writes_and_reads_the_same_bytes(drawn):
    returns(*drawn)


@pytest.mark.parametrize("count", [1 << 18, (1 << 19) + 5, (1 << 20) + 77])
def test_large_frames_too(count):
    """Other tables and samples are used for them."""
    random = np.random.default_rng(count)
    base = (random.standard_normal(count) * 0.02).astype(np.float32)
    words = base.view(np.uint32) >> 16
    steps = np.rint(random.standard_normal(count) * 3).astype(np.int64)
    frame = (words.astype(np.int64) + steps).astype(np.uint16).view(np.uint8)
    stored = returns(BF16, frame, words.astype(np.uint16).view(np.uint8))
    assert stored is not None
    assert len(stored) < 0.3 * frame.size


def test_every_pair_of_bytes_comes_back():
    pairs = np.arange(1 << 16)
    frame, base = (pairs & 255).astype(np.uint8), (pairs >> 8).astype(np.uint8)
    for shift, mask in [(0, 0), (3, 15), (2, 31)]:
        grid = Grid(1, shift, mask, 0, b"", False)
        returns(grid, frame, base)
        # All patterns among few of them, so that something is coded.
        mixed = np.where(pairs % 9 == 0, frame, base)
        assert returns(grid, mixed, base) is not None


@pytest.mark.parametrize("step", [1, 2, 40503, 65535])
def test_every_pattern_of_16_bits_comes_back(step):
    """NaN payloads, infinities and -0.0 are among them."""
    base = np.arange(1 << 16).astype(np.uint16)
    frame = np.where(base % 5 == 0, base * np.uint16(step) + np.uint16(step), base)
    assert returns(BF16, frame.view(np.uint8), base.view(np.uint8)) is not None


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_nothing_changed_takes_next_to_nothing(itemsize):
    base = np.random.default_rng(0).integers(0, 256, 1 << 15, np.uint8)
    stored = returns(Grid(itemsize, 0, 0, 0, b"", False), base, base)
    assert stored is not None
    assert len(stored) < 30


def test_noise_is_given_up():
    noise = np.random.default_rng(0).integers(0, 256, (2, 1 << 16), np.uint8)
    assert returns(BF16, *noise) is None


@LAW
@given(frames(), st.data())
def test_damaged_frames_are_refused_or_read_by_all_alike(drawn, data):
    grid, frame, base, first = drawn
    stored = native.encode(grid, frame, base, first=first) or bytes(200)
    damaged = bytearray(stored)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        how = data.draw(st.sampled_from(["flip", "set", "cut", "grow"]))
        if how == "cut" and len(damaged) > 1:
            del damaged[max(place, 1) :]
        elif how == "grow":
            damaged += data.draw(st.binary(max_size=9))
        else:
            damaged[place] = data.draw(st.integers(0, 255)) if how == "set" else damaged[place] ^ 8
    on_all(decoded, grid, bytes(damaged), base, first)


@LAW
@given(grids(), st.binary(max_size=400))
def test_any_bytes_are_refused_or_read_by_all_alike(grid, stored):
    base = np.zeros(1000 * grid.itemsize, np.uint8)
    on_all(decoded, grid, stored, base, 0)


def test_a_frame_is_read_with_its_own_base_only():
    base = np.zeros(4000, np.uint8)
    frame = base.copy()
    frame[::7] = 3
    stored = np.frombuffer(native.encode(BF16, frame, base, first=0) or b"", np.uint8)
    coder = Rans().coder(TensorSpec("BF16", (2000,)), b"")
    with pytest.raises(MalformedFrame, match="not of this frame"):
        coder.decode(stored[:-2], np.empty(4000, np.uint8), at=0, base=base)
    with pytest.raises(MalformedFrame, match="no base"):
        coder.decode(stored, np.empty(4000, np.uint8), at=0, base=None)


@pytest.mark.parametrize(
    ("shape", "shared"),
    [
        ((64, 64), b"\0"),
        ((64, 64), b"\3"),
        ((64, 64), b"\0\0"),
        ((64, 64), b"\1\1"),
        ((64, 64), b"\2" + bytes(31)),
        ((64, 64), b"\2" + bytes(33)),
        ((64, 63), b"\1"),
        ((4096,), b"\1"),
        ((8, 64), b"\2" + bytes(32)),
    ],
)
def test_parameters_that_are_not_ours_are_refused(shape, shared):
    with pytest.raises(MalformedFrame):
        Rans().coder(TensorSpec("BF16", shape), shared)


def test_a_blob_is_no_difference():
    with pytest.raises(MalformedFrame, match="blob"):
        Rans().coder(None, b"")


def fine_tune(rows, columns, row_scale, column_scale):
    """bf16 weights, moved by steps whose size differs by row and column."""
    random = np.random.default_rng(1)
    base = (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)
    scales = np.exp(random.standard_normal((rows, 1)) * row_scale)
    scales = scales * np.exp(random.standard_normal((1, columns)) * column_scale)
    words = (base.view(np.uint32) >> 16).astype(np.uint16)
    tuned = (words.astype(np.uint32) << 16).view(np.float32)
    tuned = tuned + (random.standard_normal((rows, columns)) * scales * 1e-4).astype(np.float32)
    return (tuned.view(np.uint32) >> 16).astype(np.uint16), words


def entropy(symbols, contexts):
    """Return the bits an element of symbols given contexts."""
    _, pairs = np.unique(contexts.astype(np.int64) << 32 | symbols, return_counts=True)
    _, alone = np.unique(contexts, return_counts=True)
    return ((alone * np.log2(alone)).sum() - (pairs * np.log2(pairs)).sum()) / symbols.size


def bits(tuned, words):
    spec = TensorSpec("BF16", tuned.shape)
    content, base = (each.reshape(-1).view(np.uint8) for each in (tuned, words))
    shared = Rans().survey(spec, InMemory(content), InMemory(base))
    stored = Rans().coder(spec, shared).encode(content, at=0, base=base)
    assert on_all(Rans().survey, spec, InMemory(content), InMemory(base)) == shared
    return shared[:1], 8 * (len(stored) + len(shared)) / tuned.size


def given_exponent(tuned, words):
    distance = (tuned - words).astype(np.int64).reshape(-1)
    return entropy(distance & 0xFFFF, words.reshape(-1) >> 7 & 255)


def test_without_rows_and_columns_it_comes_within_two_percent_of_the_entropy():
    pair = fine_tune(1024, 1024, 0, 0)
    mode, used = bits(*pair)
    assert mode == b""
    assert used < 1.02 * given_exponent(*pair)


@pytest.mark.parametrize(("scales", "mode"), [((1.5, 0), b"\1"), ((1, 1), b"\2")])
def test_rows_and_columns_take_it_below_the_entropy_given_the_exponent(scales, mode):
    pair = fine_tune(1024, 1024, *scales)
    chosen, used = bits(*pair)
    assert chosen == mode
    assert used < 0.9 * given_exponent(*pair)


def test_rows_that_did_not_change_cost_next_to_nothing():
    tuned, words = fine_tune(1024, 256, 0, 0)
    tuned[100:] = words[100:]
    mode, used = bits(tuned, words)
    assert mode != b""
    assert used < 0.12 * given_exponent(tuned[:100], words[:100])


def test_sizes_of_columns_are_the_same_on_every_level():
    tuned, words = fine_tune(64, 200, 1, 1)
    for itemsize, shift, mask in [(1, 3, 15), (2, 7, 255), (4, 23, 255), (8, 52, 2047)]:
        grid = Grid(itemsize, shift, mask, 400 // itemsize, b"", True)
        flat = [each.reshape(-1).view(np.uint8) for each in (tuned, words)]
        sums = on_all(lambda g, f, b: native.column_sizes(g, f, b).tolist(), grid, *flat)
        assert any(sums)


def test_frames_are_coded_beside_each_other():
    pairs = [fine_tune(64, 64 + seed, 1, 1) for seed in range(8)]
    flat = [[each.reshape(-1).view(np.uint8) for each in pair] for pair in pairs]
    alone = [native.encode(BF16, *pair, first=0) for pair in flat]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda pair: native.encode(BF16, *pair, first=0), flat * 5))
    assert beside == alone * 5


def test_frames_may_lie_at_odd_addresses():
    tuned, words = fine_tune(64, 64, 1, 1)
    store = [np.empty(tuned.nbytes + 1, np.uint8)[1:] for _ in range(2)]
    for place, content in zip(store, (tuned, words), strict=True):
        place[:] = content.reshape(-1).view(np.uint8)
    frame, base = store
    stored = on_all(native.encode, BF16, frame, base, first=0)
    odd = np.frombuffer(b"x" + stored, np.uint8)[1:]
    for level in LEVELS:
        native.use(level)
        out = np.empty(tuned.nbytes + 1, np.uint8)[1:]
        assert native.decode(BF16, odd, out, base, first=0)
        assert (out == frame).all()


def test_noise_below_the_distance_is_stored_plainly():
    """fp32: some twenty bits of a distance are noise, and cost no more than themselves."""
    random = np.random.default_rng(2)
    base = (random.standard_normal(1 << 18) * 0.02).astype(np.float32)
    tuned = base + (random.standard_normal(1 << 18) * 1e-5).astype(np.float32)
    stored = returns(FP32, tuned.view(np.uint8), base.view(np.uint8))
    assert stored is not None
    # What a Gaussian step of 1e-5 says, in units of the last place of each base.
    exponents = np.frexp(base)[1].astype(np.float64)
    say = np.log2(1e-5 * np.sqrt(2 * np.pi * np.e)) - (exponents - 24)
    assert 8 * len(stored) / base.size < 1.02 * np.maximum(say, 1).mean()


def test_the_bytes_are_frozen():
    """A change here is a new format."""
    place = np.arange(40_000, dtype=np.uint64)
    noise = place * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)
    said = blake3()
    for grid in [
        Grid(1, 3, 15, 0, b"", False),
        Grid(2, 7, 255, 100, b"", True),
        Grid(4, 23, 255, 100, bytes(place[:100].astype(np.uint8) % 16), True),
        Grid(8, 52, 2047, 0, b"", False),
    ]:
        bits = np.uint64(8 * grid.itemsize - 4)
        base = (noise << np.uint64(24) >> np.uint64(64) - bits).astype(f"<u{grid.itemsize}")
        steps = (noise >> np.uint64(8)) % (np.uint64(1) << noise % np.uint64(20))
        frame = (base + steps).astype(base.dtype).view(np.uint8)
        said.update(returns(grid, frame, base.view(np.uint8), 77) or b"")
    assert said.hexdigest(length=8) == "33f0723741d01a0d"


def test_where_there_is_a_compiler_there_is_compiled_coding():
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no compiler")
    assert "plain C" in LEVELS
    assert LEVELS[-1] == "NumPy"


def test_a_level_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no AVX-9000"):
        native.use("AVX-9000")
