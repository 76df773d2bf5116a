"""What a codec is.

Absent on purpose: headers, ids, checksums and the choice between codecs. Those are the store's, and
no codec can get them wrong: whatever a codec returns is checked against the object's id.
"""

from typing import ClassVar, Protocol

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.errors import IntegrityError

__all__ = ["Codec", "MalformedFrame"]


class MalformedFrame(IntegrityError):
    """The stored bytes of a frame are not ones that the codec could have written."""


class Codec(Protocol):
    """Codes one frame, at most 4 MiB of whole elements, independently of all others.

    A codec keeps no state between calls and is called from several threads at once.
    """

    uses_base: ClassVar[bool]
    """Whether it codes a difference from another tensor of the same type and shape."""

    def encode(self, frame: ByteArray, *, dtype: str | None, base: ByteArray | None) -> Buffer:
        """Return the frame coded; where that is not shorter, the store keeps the frame raw.

        Args:
            frame: uint8 (n,), n > 0, read-only.
            dtype: The element type, a key of ITEMSIZE, or None for a blob.
            base: uint8 (n,), the same frame of the base, where `uses_base`; else None.
        """
        ...

    def decode(
        self, stored: ByteArray, out: ByteArray, *, dtype: str | None, base: ByteArray | None
    ) -> None:
        """Fill `out` from what `encode` returned, trusting nothing in it.

        Args:
            stored: uint8 (m,), 0 <= m < n, read-only and possibly hostile.
            out: uint8 (n,), to be filled whole; nothing larger than it may be allocated for it.
            dtype: As for `encode`.
            base: As for `encode`.

        Raises:
            MalformedFrame: The stored bytes cannot be decoded to exactly n bytes.
        """
        ...
