"""The codec for a matrix into which an adapter was merged: its factors once, and what they leave.

A merged adapter changes every element by its part of a product of two thin matrices, then rounds.
The factors are found again from the two matrices, as small integers, so that their product is exact
in any order of summation and on any machine. What is coded per frame is the distance from the base
plus the product, rounded: mostly nothing. However wrong the factors are, the result is exact.

Whether there is such a product is told by a small piece: its singular values end, after the rank,
at what rounding leaves.

Absent on purpose: types other than 16-bit floats, in which adapters are merged, and the coding of
distances, which is that of `rans`.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import numpy as np
import numpy.typing as npt

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.byteplanes import join, pack, split, unpack
from tvc_store.codecs.factors import EXPONENTS, FORMATS, Factors
from tvc_store.codecs.interface import Coder, MalformedFrame
from tvc_store.codecs.native import expected
from tvc_store.codecs.rans import Rans
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["LowRank", "is_suited"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_MOST_RANK: Final = 64
_WEIGHTED_RANK: Final = (
    24  # up to this, noise is weighed element by element: its cost is the square
)
_LEAST_SIDE: Final = 512
_PROBE: Final = 160  # rows and columns of the piece that is probed
_NOISE: Final = 1.5  # times the energy of rounding that may be left
_SIGNAL: Final = 4.0  # times that energy that the whole change has at least
_LARGEST: Final = (1 << 12) - 1  # of the factors' integers
_HEAD: Final = struct.Struct("<Bh")
_BLOCK: Final = 1 << 20  # elements worked on at a time
_WILD: Final = np.float32(1e6)  # no weight changes by as much


def is_suited(spec: TensorSpec) -> bool:
    """Say whether a tensor is a matrix of a type and size for which factors could pay."""
    return spec.dtype in FORMATS and len(spec.shape) == 2 and min(spec.shape) >= _LEAST_SIDE


class LowRank:
    """Codes distances from the base plus a product of two thin matrices of integers."""

    uses_base: ClassVar[bool] = True

    def survey(self, spec: TensorSpec | None, content: Elements, base: Elements | None) -> bytes:
        """Return the factors, or that there are none.

        A byte says the rank, an i16 the exponent; then, where the rank is not 0, the integers of
        the left factor's rows and of the right one's, zigzagged, as byte planes.
        """
        nothing = _HEAD.pack(0, 0)
        if spec is None or base is None or not is_suited(spec):
            return nothing
        pair = _Pair(spec, content, base)
        rank = _probe(pair)
        if not rank:
            return nothing
        factors = _integers(spec.dtype, *_fit(pair, rank))
        packed = _pack(factors)
        is_sound = factors.exponent in EXPONENTS and _fits(len(packed), spec, rank)
        return packed if is_sound else nothing

    def coder(self, spec: TensorSpec | None, shared: bytes) -> "_Coder":
        """Return the coder of an object.

        Raises:
            MalformedFrame: The parameters are not `survey`'s for such a tensor.
        """
        if spec is None or len(shared) < _HEAD.size:
            raise MalformedFrame("no factors")
        distances = Rans().coder(spec, b"")
        rank, exponent = _HEAD.unpack_from(shared)
        if not rank and not exponent and len(shared) == _HEAD.size:
            return _Coder(distances, None)
        if not is_suited(spec) or rank > _MOST_RANK or not rank or exponent not in EXPONENTS:
            raise MalformedFrame(f"factors of rank {rank} for {spec.dtype} {list(spec.shape)}")
        # Before anything is allocated for them.
        if not _fits(len(shared), spec, rank):
            raise MalformedFrame(f"{len(shared)} bytes for factors of rank {rank}")
        return _Coder(distances, _unpack(shared, spec, rank, exponent))


@dataclass(frozen=True, slots=True)
class _Coder:
    distances: Coder
    factors: Factors | None

    def encode(self, frame: ByteArray, *, at: int, base: ByteArray | None) -> Buffer:
        """Return the coded frame, or the frame where coding does not shrink it."""
        return self.distances.encode(frame, at=at, base=self._expected(base, at))

    def decode(self, stored: ByteArray, out: ByteArray, *, at: int, base: ByteArray | None) -> None:
        """Fill `out` with what was expected plus the distances.

        Raises:
            MalformedFrame: The stored bytes are not a frame of this length.
        """
        self.distances.decode(stored, out, at=at, base=self._expected(base, at))

    def _expected(self, base: ByteArray | None, at: int) -> ByteArray:
        if base is None:
            raise MalformedFrame("a difference has no base")
        return expected(self.factors, base, first=at // 2) if self.factors else base


class _Pair:
    """Both matrices, read as float32 by rows."""

    def __init__(self, spec: TensorSpec, content: Elements, base: Elements) -> None:
        self.rows, self.columns = spec.shape
        self.format = FORMATS[spec.dtype]
        self._content = content
        self._base = base

    def change(self, row: int, count: int) -> tuple[Floats, Floats]:
        """Return float32 (count, columns) twice: the change of rows, and what rounding moves by.

        The latter is the unit in the last place; both are 0 where a number is none, or wild.
        """
        sides = np.empty((2, count, self.columns), np.uint16)
        for side, elements in zip(sides, (self._content, self._base), strict=True):
            elements.read(2 * row * self.columns, side.reshape(-1).view(np.uint8))
        return self._changed(sides)

    def changes(self, rows: Iterable[int], columns: slice) -> tuple[Floats, Floats]:
        """Return what `change` does, of some columns of several rows: (k, m) twice."""
        places = list(rows)
        sides = np.empty((2, len(places), columns.stop - columns.start), np.uint16)
        for side, elements in zip(sides, (self._content, self._base), strict=True):
            for row, place in zip(places, side, strict=True):
                elements.read(2 * (row * self.columns + columns.start), place.view(np.uint8))
        return self._changed(sides)

    def _changed(self, sides: npt.NDArray[np.uint16]) -> tuple[Floats, Floats]:
        tuned, base = sides
        exponents = self.format.exponents(sides).astype(np.int32)
        with np.errstate(invalid="ignore", over="ignore"):
            change = self.format.widen(tuned) - self.format.widen(base)
            is_sane = np.abs(change) < _WILD
        units = np.ldexp(np.float32(1), np.maximum(exponents[0], 1) - 1 + self.format.unit)
        zero = np.float32(0)
        return np.where(is_sane, change, zero), np.where(is_sane, units, zero)

    def blocks(self) -> Iterator[tuple[int, Floats, Floats]]:
        """Yield the whole by rows: the first row, and what `change` returns."""
        step = max(_BLOCK // self.columns, 1)
        for row in range(0, self.rows, step):
            yield row, *self.change(row, min(step, self.rows - row))


def _probe(pair: _Pair) -> int:
    """Return the rank of the change, or 0 where it has none that is small."""
    start = (pair.columns - _PROBE) // 2
    places = np.linspace(0, pair.rows - 1, _PROBE).astype(int)
    columns = slice(start, start + _PROBE)
    change, units = (part.astype(np.float64) for part in pair.changes(places.tolist(), columns))
    noise = float((units**2).sum()) / 12
    if float((change**2).sum()) < _SIGNAL * noise or not noise:
        return 0
    energies = np.sort(np.linalg.eigvalsh(change @ change.T))[::-1]
    for rank in range(1, _MOST_RANK + 1):
        if energies[rank:].sum() <= _NOISE * noise * (1 - rank / _PROBE) ** 2:
            return rank
    return 0


def _fit(pair: _Pair, rank: int) -> tuple[Doubles, Doubles]:
    """Return factors (rows, rank) and (columns, rank) of the change, by alternating least squares.

    What rounding hides differs from element to element; small elements tell the most. The right
    factor is begun from some rows, then each is fitted to the other, the left one twice.
    """
    right = _begin(pair, rank)
    weighted = rank <= _WEIGHTED_RANK
    left = np.empty((pair.rows, rank))
    for is_last in (False, True):
        squares = np.zeros((pair.columns, rank * rank if weighted else 1), np.float32)
        images = np.zeros((pair.columns, rank), np.float32)
        for row, change, units in pair.blocks():
            weights = _weights(units) if weighted else np.ones_like(units)
            # At first the right factor is not worth the weighing.
            part = _solve(change, weights, right, weighted=weighted and is_last)
            left[row : row + len(change)] = part
            if is_last:
                continue
            images += (weights * change).T @ part.astype(np.float32)
            if weighted:
                squares += weights.T @ _outer(part)
        if not is_last:
            right = _solved(squares, images, left, weighted=weighted)
    return left, right


def _begin(pair: _Pair, rank: int) -> Doubles:
    """Return the directions that explain most of some rows, (columns, rank)."""
    count = min(4 * rank + 64, pair.rows)
    places = np.linspace(0, pair.rows - 1, count).astype(int)
    whole = slice(0, pair.columns)
    rows = pair.changes(places.tolist(), whole)[0]
    vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))[1][:, -rank:]
    directions = rows.T.astype(np.float64) @ vectors
    return np.linalg.qr(directions)[0]


def _weights(units: Floats) -> Floats:
    """Return one over the noise's variance, for no element more than a thousand times the usual."""
    usual = float(np.median(units)) or 1.0
    scaled = np.maximum(units / np.float32(usual), np.float32(1 / 32))
    return np.reciprocal(scaled * scaled)


def _outer(factors: Doubles) -> Floats:
    products = factors[:, :, None] * factors[:, None, :]
    return products.reshape(len(factors), -1).astype(np.float32)


def _solve(change: Floats, weights: Floats, right: Doubles, *, weighted: bool) -> Doubles:
    """Return the left factor's rows that fit best, given the right factor."""
    images = (weights * change if weighted else change) @ right.astype(np.float32)
    squares = weights @ _outer(right) if weighted else np.empty(0, np.float32)
    return _solved(squares, images, right, weighted=weighted)


def _solved(squares: Floats, images: Floats, other: Doubles, *, weighted: bool) -> Doubles:
    rank = images.shape[1]
    normal = squares.reshape(-1, rank, rank).astype(np.float64) if weighted else other.T @ other
    ridge = np.eye(rank) * (1e-9 * np.abs(normal).max() + 1e-300)
    sides = images.astype(np.float64)
    if weighted:
        return cast("Doubles", np.linalg.solve(normal + ridge, sides[:, :, None]))[:, :, 0]
    return cast("Doubles", np.linalg.solve(normal + ridge, sides.T)).T


def _integers(dtype: str, left: Doubles, right: Doubles) -> Factors:
    """Return the product with factors of like size, rounded to small integers."""
    one, first = np.linalg.qr(left)
    other, second = np.linalg.qr(right)
    turn, sizes, back = np.linalg.svd(first @ second.T)
    root = np.sqrt(sizes)
    left, right = one @ turn * root, other @ back.T * root
    most = max(float(np.abs(left).max()), float(np.abs(right).max()), 1e-30)
    # A power of two, so that the step is exact.
    exponent = int(np.frexp(most / _LARGEST)[1])
    whole = [
        np.clip(np.rint(np.ldexp(factor, -exponent)), -_LARGEST, _LARGEST).astype(np.int16)
        for factor in (left, right)
    ]
    return Factors(dtype, whole[0], whole[1], 2 * exponent)


def _fits(size: int, spec: TensorSpec, rank: int) -> bool:
    """Say whether packed factors have at least a bit a number, and pay."""
    return sum(spec.shape) * rank <= 8 * size <= spec.nbytes


def _pack(factors: Factors) -> bytes:
    rank = factors.left.shape[1]
    # Column by column, since those of a factor are of like size.
    both = np.concatenate([factors.left, factors.right]).T.reshape(-1)
    folded = ((both << 1) ^ (both >> 15)).astype("<i2").view("<u2")
    planes = np.empty((2, folded.size), np.uint8)
    split(folded, planes, slice(0, folded.size))
    return _HEAD.pack(rank, factors.exponent) + pack(planes)


def _unpack(shared: bytes, spec: TensorSpec, rank: int, exponent: int) -> Factors:
    rows, columns = spec.shape
    count = (rows + columns) * rank
    stored = np.frombuffer(shared, np.uint8)[_HEAD.size :]
    folded = np.empty(count, "<u2")
    join(unpack(stored, count=2, length=count), folded, slice(0, count))
    both = (folded >> 1 ^ (0 - (folded & 1))).view("<i2").astype(np.int16)
    # Larger ones might not be summed exactly.
    if (folded > 2 * _LARGEST).any():
        raise MalformedFrame(f"a factor holds {int(np.abs(both.astype(int)).max())}")
    left, right = np.split(both.reshape(rank, rows + columns).T, [rows])
    return Factors(spec.dtype, left, right, exponent)
