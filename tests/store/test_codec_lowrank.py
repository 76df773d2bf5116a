"""Merged adapters: found again, stored as factors, exact whatever the factors are."""

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from store_samples import LAW

from tvc_store.codecs import native
from tvc_store.codecs.choosing import choose
from tvc_store.codecs.factors import EXPONENTS, FORMATS, Factors
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.codecs.lowrank import LowRank, is_suited
from tvc_store.codecs.rans import Rans
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import InMemory

LEVELS = native.supported()


@pytest.fixture(autouse=True)
def _restore():
    used = native.in_use()
    yield
    native.use(used)


def merged(dtype, rows, columns, rank, size=0.005):
    """A base, and the same with a product of rank `rank` added and rounded."""
    random = np.random.default_rng(rows + columns + rank)
    form = FORMATS[dtype]
    base = form.narrow((random.standard_normal((rows, columns)) * 0.05).astype(np.float32))
    down = random.standard_normal((rank, columns)) * size / max(rank, 1) ** 0.5
    change = random.standard_normal((rows, rank)) @ down
    tuned = form.narrow(form.widen(base) + change.astype(np.float32))
    spec = TensorSpec(dtype, (rows, columns))
    return spec, tuned.reshape(-1).view(np.uint8), base.reshape(-1).view(np.uint8)


def stored_bytes(codec, spec, shared, content, base):
    """Code a tensor in pieces that end inside rows, check that it comes back, return its size."""
    coder = codec.coder(spec, shared)
    size = len(shared)
    for at in range(0, content.size, 200_002):
        frame, origin = content[at : at + 200_002], base[at : at + 200_002]
        coded = coder.encode(frame, at=at, base=origin)
        size += len(coded)
        if coded is not frame:
            out = np.empty_like(frame)
            coder.decode(np.frombuffer(coded, np.uint8), out, at=at, base=origin)
            assert (out == frame).all()
    return size


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("rank", [1, 7, 32])
def test_a_merged_adapter_is_found_and_small(dtype, rank):
    spec, content, base = merged(dtype, 1030, 1100, rank)
    name, shared = choose(spec, InMemory(content), InMemory(base))
    assert name == "lowrank"
    size = stored_bytes(LowRank(), spec, shared, content, base)
    flat = stored_bytes(Rans(), spec, b"", content, base)
    # fp16 keeps more of what rounding hides from the factors.
    assert size < (0.3 if dtype == "BF16" else 0.6) * flat


def test_a_fine_tune_of_full_rank_is_not_taken_for_one():
    spec, content, base = merged("BF16", 600, 600, 600)
    assert LowRank().survey(spec, InMemory(content), InMemory(base)) == b"\0\0\0"
    assert choose(spec, InMemory(content), InMemory(base))[0] == "rans"


def test_an_unchanged_matrix_has_no_factors():
    spec, _, base = merged("BF16", 600, 600, 1)
    assert LowRank().survey(spec, InMemory(base), InMemory(base)) == b"\0\0\0"


def test_numbers_that_are_none_come_back_too():
    spec, content, base = merged("BF16", 600, 700, 4)
    shared = LowRank().survey(spec, InMemory(content), InMemory(base))
    random = np.random.default_rng(0)
    for side in (content.view("<u2"), base.view("<u2")):
        places = random.integers(0, side.size, 200)
        side[places] = random.choice([0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x8000, 1, 0x7F7F], 200)
    LowRank().survey(spec, InMemory(content), InMemory(base))  # does not fail, whatever it finds
    assert stored_bytes(LowRank(), spec, shared, content, base) < content.size // 5


@st.composite
def factors(draw):
    """Any factors within their bounds, and bf16 numbers of every pattern."""
    rows, columns, rank = (draw(st.sampled_from(s)) for s in ([1, 3], [5, 64, 130], [1, 2, 5, 64]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    left, right = (
        random.integers(-4095, 4096, (count, rank)).astype(np.int16) for count in (rows, columns)
    )
    exponent = draw(st.sampled_from([EXPONENTS[0], -60, -30, -20, 0, EXPONENTS[-1]]))
    first = draw(st.integers(0, rows * columns - 1))
    count = draw(st.integers(1, rows * columns - first))
    base = random.integers(0, 256, 2 * count, np.uint8)
    if draw(st.booleans()):
        base = (random.standard_normal(count) * 0.02).astype(np.float32).view(np.uint16)[1::2]
        base = np.ascontiguousarray(np.resize(base, count)).view(np.uint8)
    return Factors("BF16", left, right, exponent), base, first


@LAW
@given(factors())
def test_every_level_expects_the_same(drawn):
    given_, base, first = drawn
    said = []
    for level in LEVELS:
        native.use(level)
        said.append(native.expected(given_, base, first=first).tobytes())
    assert all(each == said[0] for each in said)


def test_the_product_is_added_and_rounded_to_even():
    one = Factors("BF16", np.array([[3]], np.int16), np.array([[5], [-2]], np.int16), -8)
    base = np.array([1.0, -0.5], np.float32).view(np.uint16)[1::2].copy().view(np.uint8)
    out = native.expected(one, base, first=0).view(np.uint16).astype(np.uint32) << 16
    # 1 + 15/256 lies between 135/128 and 136/128, halfway: to the even one.
    assert out.view(np.float32).tolist() == [136 / 128, -0.5 - 6 / 256]


def test_what_is_expected_is_frozen():
    """A change here is a new format."""
    place = np.arange(3000, dtype=np.uint64)
    noise = place * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)
    whole = (noise % np.uint64(8191)).astype(np.int64) - 4095
    words = (noise >> np.uint64(9)).astype(np.uint16)
    said = blake3()
    for dtype in FORMATS:
        pair = [whole[start : start + 250].reshape(50, 5).astype(np.int16) for start in (0, 250)]
        for exponent in (-32, -20):
            given_ = Factors(dtype, *pair, exponent)
            said.update(native.expected(given_, words[:2500].view(np.uint8), first=0).tobytes())
    assert said.hexdigest(length=8) == "f222897b26d57d3e"


def test_only_matrices_of_16_bit_floats_are_suited():
    assert is_suited(TensorSpec("BF16", (512, 512)))
    for spec in [
        TensorSpec("BF16", (512, 511)),
        TensorSpec("BF16", (2, 512, 512)),
        TensorSpec("F32", (512, 512)),
        TensorSpec("I16", (512, 512)),
    ]:
        assert not is_suited(spec)
        with pytest.raises(MalformedFrame):
            LowRank().coder(spec, b"\1\0\0" + bytes(50))


def test_parameters_that_are_not_ours_are_refused():
    spec, content, base = merged("BF16", 600, 600, 3)
    shared = LowRank().survey(spec, InMemory(content), InMemory(base))
    assert shared[0] == 3
    large = bytearray(shared)
    raw = len(shared) - 3
    hostile = [
        b"",
        b"\0\0",
        b"\0\1\0",
        b"\0\0\0\0",
        b"\1\0\0",
        shared[:-1],
        shared + b"\0",
        bytes([4]) + shared[1:],
        bytes([64]) + shared[1:],
        bytes([65]) + shared[1:],
        shared[:1] + b"\xff\x7f" + shared[3:],
        # Raw planes with integers that are too large to be summed exactly.
        b"\1\0\0" + (b"\0" + (1200).to_bytes(4, "little") + b"\xff" * 1200) * 2,
    ]
    assert raw > 0
    for each in hostile:
        with pytest.raises(MalformedFrame):
            LowRank().coder(spec, bytes(each))
    for place in range(3, len(large), max(len(large) // 60, 1)):
        damaged = bytearray(shared)
        damaged[place] ^= 0x41
        try:
            coder = LowRank().coder(spec, bytes(damaged))
        except MalformedFrame:
            continue
        assert len(coder.encode(content[:2000], at=0, base=base[:2000]))
