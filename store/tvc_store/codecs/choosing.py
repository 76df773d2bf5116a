"""Which codec an object is best stored with, by a sample of its content."""

from typing import Final

import numpy as np

from tvc_store.arrays import byte_view
from tvc_store.codecs.registry import BUILT_IN
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["choose"]

_TINY: Final = 64  # bytes below which no coding is tried
_SAMPLE: Final = 1 << 18
_ID_BYTES: Final = 32


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
    sample, origin = (np.empty(min(content.nbytes, _SAMPLE), np.uint8) for _ in range(2))
    content.read(0, sample)
    base.read(0, origin)
    sizes = {
        name: len(byte_view(BUILT_IN[name].coder(spec, b"").encode(sample, at=0, base=origin)))
        for name in ("distance", "planes")
    }
    worth = sizes["distance"] + _ID_BYTES < min(sizes["planes"], sample.size)
    return ("distance" if worth else "planes"), b""
