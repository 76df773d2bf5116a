"""Which codec an object is best stored with, by a piece of its content.

Absent on purpose: names of codecs from outside, which are only used where they are asked for.
"""

from typing import Final

import numpy as np

from tvc_store.arrays import ByteArray, byte_view
from tvc_store.codecs.lowrank import is_suited
from tvc_store.codecs.registry import BUILT_IN
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["choose"]

_TINY: Final = 64  # bytes below which no coding is tried
_PIECE: Final = 1 << 18
_ALIGNED: Final = 64
_ID_BYTES: Final = 32  # what naming a base costs
_FAR: Final = 0.4  # of the content: weights alone never shrink to less
_WORTH: Final = 0.75  # of what else it would take: factors are slower to find, and to multiply


def choose(spec: TensorSpec | None, content: Elements, base: Elements | None) -> tuple[str, bytes]:
    """Return the id of the codec that a sample says is best, and its shared parameters.

    Args:
        spec: Type and shape; None for a blob.
        content: What will be stored.
        base: The tensor that it was trained from, of the same type and shape, or None.
    """
    if content.nbytes < _TINY:
        return "raw", b""
    if base is None or spec is None:
        return "planes", b""
    start = (content.nbytes - min(content.nbytes, _PIECE)) // 2 // _ALIGNED * _ALIGNED
    piece, origin = _piece(content, start), _piece(base, start)

    def cost(name: str, shared: bytes, beside: ByteArray | None) -> float:
        """Return the bytes that the whole would take."""
        coded = BUILT_IN[name].coder(spec, shared).encode(piece, at=start, base=beside)
        size = min(len(byte_view(coded)), piece.size)
        return (
            size * content.nbytes / piece.size
            + len(shared)
            + (_ID_BYTES if beside is not None else 0)
        )

    shared = BUILT_IN["rans"].survey(spec, content, base)
    least, best = cost("rans", shared, origin), ("rans", shared)
    if least > _FAR * content.nbytes:
        apart = cost("planes", b"", None)
        if apart <= least:
            least, best = apart, ("planes", b"")
    if is_suited(spec):
        factors = BUILT_IN["lowrank"].survey(spec, content, base)
        if cost("lowrank", factors, origin) < _WORTH * least:
            return "lowrank", factors
    return best


def _piece(content: Elements, start: int) -> ByteArray:
    out = np.empty(min(content.nbytes - start, _PIECE), np.uint8)
    content.read(start, out)
    return out
