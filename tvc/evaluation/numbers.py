"""Bytes ↔ numbers: stored element types to the type that arithmetic is done in, and back, once.

Sums are made in float32, for float64 models in float64, and rounded to the stored type to nearest,
ties to even; NaN becomes the canonical one. Integers have no place here: the plan refuses to
combine them. Torch is not imported: the formats of 8 bits are written out here.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tvc.merging import kernels
from tvc.merging.loops import Floats
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import ITEMSIZE, TensorSpec

__all__ = ["compute_dtype", "from_numbers", "to_numbers", "wide_dtype"]


@dataclass(frozen=True, slots=True)
class _Small:
    """A floating type of 8 bits.

    Args:
        mantissa: Bits of the mantissa.
        bias: Of the exponent.
        greatest: Pattern of what is too large: infinity, or the largest number.
        infinite: Whether that is infinity.
    """

    mantissa: int
    bias: int
    greatest: int
    infinite: bool

    def values(self) -> npt.NDArray[np.float32]:
        """Return the number of every pattern, float32 (256,)."""
        codes = np.arange(256)
        exponent = (codes & 0x7F) >> self.mantissa
        fraction = codes & ((1 << self.mantissa) - 1)
        whole = np.where(exponent == 0, fraction, fraction + (1 << self.mantissa))
        scale = np.maximum(exponent, 1) - self.bias - self.mantissa
        values = np.ldexp(whole.astype(np.float64), scale)
        values[(codes & 0x7F) > self.greatest] = np.nan
        if self.infinite:
            values[(codes & 0x7F) == self.greatest] = np.inf
        return np.where(codes & 0x80, -values, values).astype(np.float32)

    def patterns(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Return the patterns of numbers rounded to nearest, ties to even."""
        bits = values.view(np.uint32)
        nan = np.isnan(values)
        rest = np.where(nan, np.uint32(0), bits & np.uint32(0x7FFFFFFF))
        drop = 23 - self.mantissa
        # Adding this number leaves the rounded multiples of the smallest one in the low bits.
        magic = np.uint32((127 - self.bias + drop + 1) << 23)
        tiny = (rest.view(np.float32) + magic.view(np.float32)).view(np.uint32) - magic
        odd = (rest >> np.uint32(drop)) & np.uint32(1)
        half = np.uint32((1 << (drop - 1)) - 1)
        normal = (rest - np.uint32((127 - self.bias) << 23) + half + odd) >> np.uint32(drop)
        least = np.uint32((127 - self.bias + 1) << 23)
        found = np.minimum(np.where(rest < least, tiny, normal), np.uint32(self.greatest))
        signed = found | (bits >> np.uint32(24)) & np.uint32(0x80)
        return np.where(nan, np.uint32(_NAN), signed).astype(np.uint8)


_NAN: Final = 0x7F
_SMALL: Final = {
    # It has no infinities: what is too large becomes the largest number, as in torch.
    "F8_E4M3": _Small(mantissa=3, bias=7, greatest=0x7E, infinite=False),
    "F8_E5M2": _Small(mantissa=2, bias=15, greatest=0x7C, infinite=True),
}
_VALUES: Final = {name: small.values() for name, small in _SMALL.items()}


def compute_dtype(spec: TensorSpec) -> type[np.floating]:
    """Return the type in which a tensor of this stored type is computed."""
    return np.float64 if spec.dtype == "F64" else np.float32


def wide_dtype(one: TensorSpec, other: TensorSpec) -> type[np.floating]:
    """Return the type in which a tensor is cast from one stored type to another, rounded once."""
    return np.float64 if "F64" in (one.dtype, other.dtype) else np.float32


def to_numbers(data: ByteArray, dtype: str, wide: type[np.floating]) -> Floats:
    """Return stored bytes as numbers.

    Args:
        data: uint8 (n * itemsize,), little-endian; not changed.
        dtype: Stored type, a floating one.
        wide: float32 or float64; float32 only for types that it holds exactly.

    Returns:
        (n,) of type `wide`, the caller's own.
    """
    if dtype == "F64":
        return data.view("<f8").astype(wide)
    numbers = np.empty(data.size // ITEMSIZE[dtype], np.float32)
    if dtype in _VALUES:
        np.take(_VALUES[dtype], data, out=numbers)
    else:
        kernels.widen(data, dtype, numbers)
    if wide == np.float32:
        return numbers
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        return numbers.astype(wide)


def from_numbers(values: Floats, dtype: str) -> ByteArray:
    """Round numbers once to a stored type and return their bytes.

    Args:
        values: (n,), float32 or float64.
        dtype: Stored type, a floating one.

    Returns:
        uint8 (n * itemsize,), little-endian.
    """
    if dtype == "F64":
        wide = values.astype("<f8")
        wide[np.isnan(wide)] = np.nan
        return wide.view(np.uint8)
    single = values if values.dtype == np.float32 else _sticky(values, exact=dtype == "F32")
    if dtype in _SMALL:
        return _SMALL[dtype].patterns(single)
    out = np.empty(values.size * ITEMSIZE[dtype], np.uint8)
    kernels.narrow(single, dtype, out)
    return out


def cast_elements(block: ByteArray, dtype: str, target: str) -> ByteArray:
    """Return whole elements in another type, each rounded once.

    Args:
        block: Their bytes.
        dtype: What they are, as safetensors names it.
        target: What they shall be.
    """
    if dtype == target:
        return block
    count = block.size // ITEMSIZE[dtype]
    wide = wide_dtype(TensorSpec(dtype, (count,)), TensorSpec(target, (count,)))
    return from_numbers(to_numbers(block, dtype, wide), target)


def _sticky(values: Floats, *, exact: bool) -> npt.NDArray[np.float32]:
    """Return float64 numbers as float32; unless exact, rounded to odd.

    The next rounding, to a narrower type, is then as if it had been the only one.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = values.astype(np.float32)
        if exact:
            return single
        bits = single.view(np.uint32)
        # An infinity made by rounding is one step too far as well: the largest number is odd.
        bits -= (np.abs(single) > np.abs(values)).astype(np.uint32)
        bits |= (single != values) & ~np.isnan(values)
    return single
