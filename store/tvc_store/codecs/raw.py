"""The codec that does nothing: for objects so small that no coding could pay."""

from typing import ClassVar

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.interface import MalformedFrame

__all__ = ["Raw"]


class Raw:
    """Leaves every frame as it is; the store keeps such frames raw, so none is ever coded."""

    uses_base: ClassVar[bool] = False

    def encode(self, frame: ByteArray, *, dtype: str | None, base: ByteArray | None) -> Buffer:
        """Return the frame itself, which is never shorter."""
        del dtype, base
        return frame

    def decode(
        self, stored: ByteArray, out: ByteArray, *, dtype: str | None, base: ByteArray | None
    ) -> None:
        """Refuse: no frame of a raw object is coded.

        Raises:
            MalformedFrame: Always.
        """
        del stored, out, dtype, base
        raise MalformedFrame("a raw object has no coded frames")
