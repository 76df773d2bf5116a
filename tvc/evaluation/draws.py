"""Random draws that depend on the recipe's seed, the tensor's name and the member, on nothing else.

The generator is counter-based and can begin anywhere: order, threads, blocks and machine do not
matter.
"""

import numpy as np
import numpy.typing as npt

from tvc.merging.kernels import uniforms
from tvc_store.ids import hash_fields

__all__ = ["Draws"]


class Draws:
    """Uniform numbers for the members of a merge at one tensor.

    Args:
        seed: The recipe's.
        tensor: Name of the tensor that is merged.
        members: Canonical text of each member.
    """

    def __init__(self, *, seed: int, tensor: str, members: list[str]) -> None:
        self._keys: list[int] = []
        for index, member in enumerate(members):
            parts = (str(seed), tensor, member, str(members[:index].count(member)))
            key = hash_fields("tvc.draw", *(part.encode() for part in parts))
            self._keys.append(int(key[:16], 16))

    def block(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the draws for some elements of the tensor.

        Args:
            start: First element.
            stop: After the last.

        Returns:
            float32 (k, stop - start), multiples of 2^-24 in [0, 1).
        """
        return np.stack([uniforms(key, start, stop) for key in self._keys])
