"""The codec that does nothing: for objects so small that no coding could pay."""

from typing import ClassVar

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements

__all__ = ["Raw"]


class Raw:
    """Leaves every frame as it is; the store keeps such frames raw, so none is ever coded."""

    uses_base: ClassVar[bool] = False

    def survey(self, spec: TensorSpec | None, content: Elements, base: Elements | None) -> bytes:
        """Return nothing: there are no parameters."""
        del spec, content, base
        return b""

    def coder(self, spec: TensorSpec | None, shared: bytes) -> "Raw":
        """Return itself.

        Raises:
            MalformedFrame: There are parameters.
        """
        del spec
        if shared:
            raise MalformedFrame("parameters, where a raw object has none")
        return self

    def encode(self, frame: ByteArray, *, at: int, base: ByteArray | None) -> Buffer:
        """Return the frame itself, which is never shorter."""
        del at, base
        return frame

    def decode(self, stored: ByteArray, out: ByteArray, *, at: int, base: ByteArray | None) -> None:
        """Refuse: no frame of a raw object is coded.

        Raises:
            MalformedFrame: Always.
        """
        del stored, out, at, base
        raise MalformedFrame("a raw object has no coded frames")
