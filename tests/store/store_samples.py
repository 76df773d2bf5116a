"""Tensors to store, made by hypothesis or by a seed, and a few stores full of them."""

import os
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from tvc_store.borrowed import BorrowedTensor, Source
from tvc_store.codecs import BUILT_IN, Coder
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.ids import ObjectId, tensor_id
from tvc_store.layout import place
from tvc_store.local import Store

LAW = settings(deadline=None, max_examples=40)
SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


def specs() -> st.SearchStrategy[TensorSpec]:
    return st.builds(TensorSpec, st.sampled_from(sorted(ITEMSIZE)), SHAPES)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[TensorSpec, bytes]:
    spec = draw(specs())
    return spec, draw(patterns(spec.nbytes))


def patterns(nbytes: int) -> st.SearchStrategy[bytes]:
    """Any bit patterns, also long runs and nearly equal ones."""
    seeds = st.integers(0, 2**32 - 1).map(lambda s: np.random.default_rng(s).bytes(nbytes))
    fills = st.integers(0, 255).map(lambda b: bytes([b]) * nbytes)
    exact = st.binary(min_size=nbytes, max_size=nbytes) if nbytes < 300 else seeds
    return st.one_of(exact, seeds, fills)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[TensorSpec, bytes, bytes]:
    """A base and a tensor: anything, or the base with some elements changed."""
    spec, base = draw(tensors())
    if not base or draw(st.booleans()):
        return spec, base, draw(patterns(spec.nbytes))
    tuned = bytearray(base)
    for place_, value in draw(
        st.lists(st.tuples(st.integers(0, len(base) - 1), st.integers(0, 255)), max_size=20)
    ):
        tuned[place_] = value
    return spec, base, bytes(tuned)


def coder_of(name: str, count: int, *, dtype: str) -> Coder:
    """The coder of one of our codecs, for a tensor of one dimension."""
    return BUILT_IN[name].coder(TensorSpec(dtype, (count,)), b"")


def bf16(count: int, *, seed: int = 0) -> np.ndarray:
    """Weights as a base model has them: bf16 bit patterns of normal numbers, uint16 (count,)."""
    values = np.random.default_rng(seed).standard_normal(count).astype(np.float32) * np.float32(
        0.02
    )
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def tuned(base: np.ndarray, *, seed: int = 1, units: int = 3) -> np.ndarray:
    """The base, moved by a few units in the last place here and there."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-units, units + 1, base.size) * (rng.random(base.size) < 0.3)
    return (base.astype(np.int64) + steps).astype(np.uint16)


def vector_spec(array: np.ndarray) -> TensorSpec:
    return TensorSpec("BF16", (array.size,))


def borrow(store: Store, folder: Path, *arrays: np.ndarray, name: str = "base") -> list[ObjectId]:
    """Write bf16 arrays into one file of a folder, and register it as a source."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "weights.bin"
    file.write_bytes(b"head" + b"".join(array.tobytes() for array in arrays))
    places, offset = {}, 4
    for array in arrays:
        spec = vector_spec(array)
        places[tensor_id(spec, array)] = BorrowedTensor("weights.bin", offset, spec)
        offset += array.nbytes
    status = file.stat()
    files = {"weights.bin": (status.st_size, status.st_mtime_ns)}
    store.borrow(Source(name, folder, files, places))
    return list(places)


def alter(path: Path, position: int, bit: int) -> None:
    """Flip one bit of a file, in place and without changing its modification time."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def overwrite(store: Store, object_id: ObjectId, content: bytes) -> Path:
    """Put any bytes into an object's place."""
    path = place(store.path, object_id)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path
