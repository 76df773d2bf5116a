"""What a codec is.

Absent on purpose: headers, ids, checksums and how codecs are chosen. Headers and ids are the
store's, and no codec can get them wrong: whatever it returns is checked against the object's id.
"""

from typing import ClassVar, Protocol

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements
from tvc_store.errors import IntegrityError

__all__ = ["Codec", "Coder", "MalformedFrame"]


class MalformedFrame(IntegrityError):
    """The stored bytes of a frame are not ones that the codec could have written."""


class Coder(Protocol):
    """Codes the frames of one object, each independently; called from several threads at once."""

    def encode(self, frame: ByteArray, *, at: int, base: ByteArray | None) -> Buffer:
        """Return the frame coded; where that is not shorter, the store keeps the frame raw.

        Args:
            frame: uint8 (n,), n > 0, at most 4 MiB of whole elements; read-only.
            at: Its first byte in the content.
            base: uint8 (n,), the same frame of the base, where the codec uses one; else None.
        """
        ...

    def decode(self, stored: ByteArray, out: ByteArray, *, at: int, base: ByteArray | None) -> None:
        """Fill `out` from what `encode` returned, trusting nothing in it.

        Args:
            stored: uint8 (m,), 0 <= m < n, read-only and possibly hostile.
            out: uint8 (n,), to be filled whole; little more than it may be allocated for it.
            at: As for `encode`.
            base: As for `encode`.

        Raises:
            MalformedFrame: The stored bytes cannot be decoded to exactly n bytes.
        """
        ...


class Codec(Protocol):
    """A way to make content smaller; it keeps no state between objects."""

    uses_base: ClassVar[bool]
    """Whether it codes a difference from another tensor of the same type and shape."""

    def survey(self, spec: TensorSpec | None, content: Elements, base: Elements | None) -> bytes:
        """Return the parameters that all frames of an object share, b"" where there are none.

        They are stored once, at most an eighth of the content and 4 KiB more.

        Args:
            spec: Type and shape; None for a blob.
            content: What will be coded; a sample of it should do.
            base: The base's, where `uses_base`; else None.
        """
        ...

    def coder(self, spec: TensorSpec | None, shared: bytes) -> Coder:
        """Return what codes the frames of an object.

        Args:
            spec: Type and shape; None for a blob.
            shared: What `survey` returned, possibly hostile.

        Raises:
            MalformedFrame: `survey` could not have returned it.
        """
        ...
