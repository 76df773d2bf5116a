"""Random draws that depend on the recipe's seed, the tensor's name and the member, on nothing else.

Philox is a counter-based generator whose stream NumPy keeps stable between versions; order, threads
and machine do not matter.
"""

import numpy as np
import torch
from torch import Tensor

from tvc_store.ids import hash_fields

__all__ = ["draw_uniforms"]


def draw_uniforms(*, seed: int, tensor: str, members: list[str], shape: tuple[int, ...]) -> Tensor:
    """Draw uniform numbers for the members of a merge.

    Args:
        seed: The recipe's.
        tensor: Name of the tensor that is merged.
        members: Canonical text of each member.
        shape: Shape of the tensor.

    Returns:
        float32, (k, *shape), multiples of 2^-24 in [0, 1).
    """
    numel = int(np.prod(shape, dtype=np.int64))
    drawn = np.empty((len(members), numel), np.float32)
    for index, member in enumerate(members):
        occurrence = members[:index].count(member)
        parts = (str(seed), tensor, member, str(occurrence))
        key = int(hash_fields("tvc.draw", *(part.encode() for part in parts))[:32], 16)
        words = np.random.Philox(key=key).random_raw((numel + 1) // 2)
        halves = np.asarray(words, dtype="<u8").view("<u4")[:numel]
        np.multiply(halves >> np.uint32(8), np.float32(2**-24), out=drawn[index], casting="unsafe")
    return torch.from_numpy(drawn).reshape(len(members), *shape)  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial
