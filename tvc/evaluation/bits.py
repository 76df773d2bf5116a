"""Comparing tensors by their bits, whatever they mean as numbers."""

import numpy as np

from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec

__all__ = ["changed_elements"]


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
    width = np.dtype(f"u{spec.itemsize}")
    differ = np.count_nonzero(data[:common].view(width) != other[:common].view(width))
    return int(differ) + (data.nbytes - common) // spec.itemsize
