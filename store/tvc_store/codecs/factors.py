"""Factors of a merged adapter, and what they make of its base: the twin of `factors.c`.

Absent on purpose: how factors are found and stored, which is the codec's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from tvc_store.arrays import ByteArray

__all__ = ["EXPONENTS", "FORMATS", "Factors", "Format"]

Floats = npt.NDArray[np.float32]
Shorts = npt.NDArray[np.int16]
Words = npt.NDArray[np.uint16]

EXPONENTS: Final = range(-100, 60)
"""Of the powers of two that products are multiplied by: all are usual numbers of float32."""

_TINY: Final = np.float32(2.0**-100)
_BLOCK: Final = 1 << 18  # elements worked on at a time


@dataclass(frozen=True, slots=True)
class Format:
    """A 16-bit float: where its exponent lies, and how it becomes float32 and back.

    Args:
        mantissa: Bits of the mantissa.
        mask: Of the exponent.
        unit: The exponent of the last place of the smallest usual number.
        widen: From words to float32, exactly.
        narrow: From float32 to words, to nearest and ties to even; of no NaN.
    """

    mantissa: int
    mask: int
    unit: int
    widen: Callable[[Words], Floats]
    narrow: Callable[[Floats], Words]

    def exponents(self, words: Words) -> Words:
        """Return the exponent fields."""
        return (words >> self.mantissa & self.mask).astype(np.uint16)


def _widen_bf16(words: Words) -> Floats:
    return (words.astype(np.uint32) << 16).view(np.float32)


def _narrow_bf16(values: Floats) -> Words:
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def _widen_f16(words: Words) -> Floats:
    return words.view(np.float16).astype(np.float32)


def _narrow_f16(values: Floats) -> Words:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)


FORMATS: Final = {
    "BF16": Format(7, 0xFF, -133, _widen_bf16, _narrow_bf16),
    "F16": Format(10, 0x1F, -24, _widen_f16, _narrow_f16),
}
"""The types that adapters are merged in."""


@dataclass(frozen=True)
class Factors:
    """A product of thin matrices of integers, times a power of two.

    Args:
        dtype: Of what it is added to, a key of FORMATS.
        left: int16 (rows, rank), within 4095 either way.
        right: int16 (columns, rank), likewise; the rank is at most 64.
        exponent: One of EXPONENTS.
    """

    dtype: str
    left: Shorts
    right: Shorts
    exponent: int

    @property
    def columns(self) -> int:
        """Elements of a row of the product."""
        return len(self.right)

    def paired(self) -> tuple[Shorts, Shorts, int]:
        """Return the factors as the compiled module wants them, and the number of pairs.

        They are (rows, pairs, 2) and (pairs, columns, 2), zeros added where the rank is odd.
        """
        return self._paired

    @cached_property
    def _paired(self) -> tuple[Shorts, Shorts, int]:
        spare = ((0, 0), (0, self.left.shape[1] % 2))
        left, right = (np.pad(factor, spare) for factor in (self.left, self.right))
        pairs = left.shape[1] // 2
        turned = right.reshape(-1, pairs, 2).swapaxes(0, 1)
        return np.ascontiguousarray(left), np.ascontiguousarray(turned), pairs

    def expected(self, base: ByteArray, *, first: int) -> ByteArray:
        """Return the base plus the product, rounded; see `native.expected`."""
        words = base.view("<u2")
        out = np.empty_like(words)
        step, done = max(_BLOCK // self.columns, 1), 0
        while done < words.size:
            row, column = divmod(first + done, self.columns)
            # Sums of integers below 2^53 are exact in any order.
            sums = self.left[row : row + step].astype(np.float64) @ self.right.T.astype(np.float64)
            change = sums.astype(np.float32).reshape(-1)[column:] * np.float32(2.0**self.exponent)
            part = slice(done, min(done + change.size, words.size))
            out[part] = _rounded(FORMATS[self.dtype], words[part], change[: part.stop - done])
            done = part.stop
        return out.view(np.uint8)


def _rounded(format_: Format, words: Words, change: Floats) -> Words:
    # Single steps of float32, each rounded once, give the same on every machine. Numbers so small
    # that some processors are told to take them for 0 are left out, as are infinities and NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        summed = format_.widen(words) + change
        is_usual = np.abs(summed) >= _TINY
    is_usual &= format_.exponents(words) != format_.mask
    return np.where(is_usual, format_.narrow(np.where(is_usual, summed, np.float32(0))), words)
