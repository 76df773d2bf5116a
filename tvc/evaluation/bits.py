"""Comparing tensors by their bits, whatever they mean as numbers."""

from typing import Final

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec

__all__ = ["changed_elements", "differing_elements"]

_COMPARED: Final = 1 << 17


def changed_elements(
    spec: TensorSpec, data: ByteArray, other_spec: TensorSpec, other: ByteArray
) -> int:
    """Count the elements of a tensor whose bits differ from another's; all where the types differ.

    Args:
        spec: Type and shape of `data`.
        data: uint8, (nbytes,).
        other_spec: Type and shape of `other`.
        other: uint8, (nbytes,).
    """
    if spec.dtype != other_spec.dtype:
        return spec.numel
    common = min(data.nbytes, other.nbytes)
    differ = differing_elements(data[:common], other[:common], spec.itemsize)
    return differ + (data.nbytes - common) // spec.itemsize


def differing_elements(one: ByteArray, other: ByteArray, itemsize: int) -> int:
    """Count the elements whose bits differ.

    Args:
        one: uint8 (n * itemsize,).
        other: uint8, as many.
        itemsize: Bytes of an element.
    """
    width, count = np.dtype(f"u{itemsize}"), 0
    mine, its = one.view(width), other.view(width)
    for at in range(0, mine.size, _COMPARED):  # so that what comes of it stays in a cache
        part = slice(at, at + _COMPARED)
        count += int(np.count_nonzero(mine[part] != its[part]))
    return count
