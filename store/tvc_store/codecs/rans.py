"""The codec for a tensor that was trained from another: distances, by what predicts their size.

The distance is a plain subtraction with wrap-around of the bit patterns taken as unsigned integers.
The alternative, first mapping sign and magnitude to an order-preserving integer, differs only where
a value changed its sign, has the same entropy on real fine-tunes within 0.01 bit, and costs two
more passes. Either is a bijection for every pattern, NaN payloads and -0.0 included. XOR, which
others use, turns a step across a power of two into many set bits and is larger (see README.md).

How large a distance is depends on the unit of the base's last place, which the decoder has, and on
how much its row and its column were trained. The logarithms of these three are added, and the sum
says which frequency table codes the distance. What rows and columns cost to say is asked of a
sample: they are left out where they do not pay.

Absent on purpose: the coding itself, which is compiled, with a twin in NumPy (`native`).
"""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.grid import UNCHANGED, Grid
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.codecs.native import column_sizes, decode, encode
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["Rans"]

EXPONENTS: Final[dict[str, tuple[int, int]]] = {
    "F8_E4M3": (3, 15),
    "F8_E5M2": (2, 31),
    "F16": (10, 31),
    "BF16": (7, 255),
    "F32": (23, 255),
    "C64": (23, 255),
    "F64": (52, 2047),
}
"""Where the exponent of an element lies: how far to shift, and a mask. Others have none."""

_LEAST_COLUMNS: Final = 64  # below, what rows and columns cost is never won back
_LEAST_ROWS: Final = 16
_SAMPLE: Final = 1 << 17  # bytes that are looked at first; twice that in small tensors
_LARGE: Final = 1 << 20
_SAMPLED_ROWS: Final = 64  # at least
_RUN: Final = 1 << 14  # bytes of a sample that lie together
_FLAT: Final = b""
_BY_ROW: Final = 1
_BY_BOTH: Final = 2


class Rans:
    """Codes distances from the base by frequency tables for predicted sizes."""

    uses_base: ClassVar[bool] = True

    def survey(self, spec: TensorSpec | None, content: Elements, base: Elements | None) -> bytes:
        """Return whether rows and columns are told apart, and the classes of columns.

        Nothing where they are not. Otherwise a byte, 1 for rows, whose classes stand in the frames,
        2 for both; after 2 the columns' classes, four bits each.
        """
        if spec is None or base is None or not _has_grid(spec):
            return _FLAT
        sample, origin = _sample(spec, content), _sample(spec, base)
        columns = _pack(_column_classes(spec, sample, origin))
        candidates = [_FLAT, bytes([_BY_ROW]), bytes([_BY_BOTH]) + columns]
        costs = [_cost(spec, shared, sample, origin, content) for shared in candidates]
        return candidates[costs.index(min(costs))]

    def coder(self, spec: TensorSpec | None, shared: bytes) -> "_Coder":
        """Return the coder of an object.

        Raises:
            MalformedFrame: The parameters are not `survey`'s, or the object is a blob.
        """
        if spec is None:
            raise MalformedFrame("a blob is not a difference")
        return _Coder(_grid(spec, shared))


@dataclass(frozen=True, slots=True)
class _Coder:
    grid: Grid

    def encode(self, frame: ByteArray, *, at: int, base: ByteArray | None) -> Buffer:
        """Return the coded frame, or the frame where coding does not shrink it."""
        first = at // self.grid.itemsize
        coded = encode(self.grid, frame, _present(base), first=first)
        return frame if coded is None else coded

    def decode(self, stored: ByteArray, out: ByteArray, *, at: int, base: ByteArray | None) -> None:
        """Fill `out` with the base plus the distances.

        Raises:
            MalformedFrame: The stored bytes are not a frame of this length.
        """
        first = at // self.grid.itemsize
        if not decode(self.grid, stored, out, _present(base), first=first):
            raise MalformedFrame("the coded distances are not of this frame")


def _present(base: ByteArray | None) -> ByteArray:
    if base is None:
        raise MalformedFrame("a difference has no base")
    return base


def _columns(spec: TensorSpec) -> int:
    """Return the elements of a row, those of the last dimension; complex ones count twice."""
    return spec.shape[-1] * (2 if spec.dtype == "C64" else 1)


def _has_grid(spec: TensorSpec) -> bool:
    return (
        len(spec.shape) >= 2
        and _columns(spec) >= _LEAST_COLUMNS
        and spec.numel >= _LEAST_ROWS * spec.shape[-1]
    )


def _grid(spec: TensorSpec, shared: bytes) -> Grid:
    shift, mask = EXPONENTS.get(spec.dtype, (0, 0))
    itemsize = 4 if spec.dtype == "C64" else spec.itemsize
    if shared == _FLAT:
        return Grid(itemsize, shift, mask, 0, b"", with_rows=False)
    if not _has_grid(spec):
        raise MalformedFrame("rows, where a tensor has none")
    columns, mode = _columns(spec), shared[0]
    if mode == _BY_ROW and len(shared) == 1:
        return Grid(itemsize, shift, mask, columns, b"", with_rows=True)
    if mode != _BY_BOTH or len(shared) != 1 + (columns + 1) // 2:
        raise MalformedFrame(f"{len(shared)} bytes of parameters for {columns} columns")
    terms = _unpack(shared[1:], columns).astype(np.int8)
    terms[terms == 0] = UNCHANGED
    return Grid(itemsize, shift, mask, columns, terms.tobytes(), with_rows=True)


def _pack(classes: npt.NDArray[np.uint8]) -> bytes:
    """Return two classes a byte, the first in the low bits."""
    even = np.concatenate([classes, np.zeros(classes.size % 2, np.uint8)])
    return (even[::2] | even[1::2] << 4).astype(np.uint8).tobytes()


def _unpack(packed: bytes, count: int) -> npt.NDArray[np.uint8]:
    pairs = np.frombuffer(packed, np.uint8)
    return np.stack([pairs & 15, pairs >> 4], axis=1).astype(np.uint8).reshape(-1)[:count]


def _cost(
    spec: TensorSpec, shared: bytes, sample: ByteArray, origin: ByteArray, content: Elements
) -> float:
    """Return the bytes that the object would take with some parameters, by those of a sample."""
    coded = encode(_grid(spec, shared), sample, origin, first=0)
    size = sample.size if coded is None else len(coded)
    if shared[:1] == bytes([_BY_BOTH]):
        # Columns were fitted to this very sample: what that gains by chance is about a bit each.
        size += _columns(spec) // 8
    return size * content.nbytes / sample.size + len(shared)


def _sample(spec: TensorSpec, elements: Elements) -> ByteArray:
    """Return some rows, in runs from all over the tensor; few rows are all returned."""
    row = spec.shape[-1] * spec.itemsize
    rows = elements.nbytes // row
    size = _SAMPLE if elements.nbytes > _LARGE else 2 * _SAMPLE
    wanted = max(size // row, _SAMPLED_ROWS)
    run = rows if wanted >= rows else max(_RUN // row, 1)
    runs = -(-min(wanted, rows) // run)
    out = np.empty((runs, run * row), np.uint8)
    for index, place in enumerate(out):
        elements.read(min(index * rows // runs, rows - run) * row, place)
    return out.reshape(-1)


def _column_classes(
    spec: TensorSpec, sample: ByteArray, origin: ByteArray
) -> npt.NDArray[np.uint8]:
    """Return the class of each column: half octaves of the mean size of its changes, 8 the middle.

    A column in which nothing changed is 0.
    """
    sizes = column_sizes(_grid(spec, bytes([_BY_ROW])), sample, origin)
    is_changed = sizes > 0
    if not is_changed.any():
        return np.zeros(sizes.size, np.uint8)
    halves = 2 * np.log2(np.maximum(sizes, 1).astype(np.float64))
    classes = np.clip(np.rint(halves - halves[is_changed].mean()) + 8, 1, 15)
    return np.where(is_changed, classes, 0).astype(np.uint8)
