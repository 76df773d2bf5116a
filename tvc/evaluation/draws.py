"""Random draws that depend on the recipe's seed, the tensor's name and the member, on nothing else.

Philox is a counter-based generator whose stream NumPy keeps stable between versions, and which can
begin anywhere: order, threads, blocks and machine do not matter.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from tvc_store.ids import hash_fields

__all__ = ["Draws"]

_DRAWS_A_STEP: Final = 8
"""A step of the generator's counter gives four words of 64 bits, two draws each."""


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
            self._keys.append(int(key[:32], 16))

    def block(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the draws for some elements of the tensor.

        Args:
            start: First element.
            stop: After the last.

        Returns:
            float32 (k, stop - start), multiples of 2^-24 in [0, 1).
        """
        drawn = np.empty((len(self._keys), stop - start), np.float32)
        first = start // _DRAWS_A_STEP
        words = 4 * (-(-stop // _DRAWS_A_STEP) - first)
        for row, key in zip(drawn, self._keys, strict=True):
            generator = np.random.Philox(key=key, counter=first)
            raw = np.asarray(generator.random_raw(words), dtype="<u8").view("<u4")
            halves = raw[start - first * _DRAWS_A_STEP :][: stop - start]
            np.multiply(halves >> np.uint32(8), np.float32(2**-24), out=row, casting="unsafe")
        return drawn
