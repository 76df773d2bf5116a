"""Bytes ↔ numbers: stored element types to the type that arithmetic is done in, and back, once.

Sums are made in float32, for float64 models in float64, and rounded to the stored type to nearest,
ties to even. Integers have no place here: the plan refuses to combine them.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec

__all__ = ["compute_dtype", "from_stored", "grow", "to_stored", "wide_dtype"]

_TORCH: Final = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def compute_dtype(spec: TensorSpec) -> torch.dtype:
    """Return the type in which a tensor of this stored type is computed."""
    return torch.float64 if spec.dtype == "F64" else torch.float32


def wide_dtype(one: TensorSpec, other: TensorSpec) -> torch.dtype:
    """Return the type in which a tensor is cast from one stored type to another, rounded once."""
    return torch.float64 if "F64" in (one.dtype, other.dtype) else torch.float32


def from_stored(spec: TensorSpec, data: ByteArray, dtype: torch.dtype) -> Tensor:
    """Return stored bytes as numbers.

    Args:
        spec: Stored type and shape.
        data: uint8, (nbytes,), little-endian; not changed.
        dtype: float32 or float64.

    Returns:
        A new tensor of `spec.shape` and `dtype`, the caller's to write to.
    """
    if not spec.nbytes:
        return torch.zeros(spec.shape, dtype=dtype)
    raw = torch.from_numpy(np.require(data, requirements="W"))  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial
    numbers = raw.view(_TORCH[spec.dtype]).reshape(spec.shape)
    return numbers.to(dtype, copy=True)


def to_stored(numbers: Tensor, spec: TensorSpec) -> ByteArray:
    """Round numbers once to the stored type and return their bytes.

    Args:
        numbers: `spec.shape`, float32 or float64.
        spec: Stored type and shape.

    Returns:
        uint8, (nbytes,), little-endian.
    """
    if not spec.nbytes:
        return np.empty(0, np.uint8)
    stored = numbers.to(_TORCH[spec.dtype]).reshape(-1).contiguous()
    return stored.view(torch.uint8).numpy()


def grow(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor with zero rows appended until it has `shape`; a vocabulary that grew.

    Args:
        numbers: (rows, *rest).
        shape: (at least rows, *rest).
    """
    if tuple(numbers.shape) == shape:
        return numbers
    grown = numbers.new_zeros(shape)
    grown[: numbers.shape[0]] = numbers
    return grown
