"""The head of an object file: what it holds, said in few bytes and believed only after checking.

Layout, little-endian (README.md has the page for readers):

    8  magic             1  has base (0, 1)      32  the object's own id     .. dtype name
    2  version           1  reserved, 0          32  the base's id, if any   .. extents, u64 each
    1  kind              8  raw length           ..  codec id                16 seal
    1  codec id length, 1 dtype name length, 1 number of extents

The seal is BLAKE3 of all that stands before it, so that type and shape can be believed without
reading the payload. Absent on purpose: reading files, and the payload.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final, Literal

from blake3 import blake3

from tvc_store.dtypes import MAX_DIMENSIONS, TensorSpec
from tvc_store.errors import IntegrityError, StoreError
from tvc_store.ids import ObjectId

__all__ = ["FRAME_BYTES", "MAX_HEADER", "VERSION", "Header", "MalformedObject"]

VERSION: Final = 1
FRAME_BYTES: Final = 1 << 22
"""Raw bytes of every frame but the last; part of the format, a multiple of every width."""

_MAGIC: Final = b"\x89tvc\r\n\x1a\n"  # a transfer as text, or a cut to 7 bits, breaks it
_FIXED: Final = struct.Struct("<8sHBBBBBBQ")
_SEAL: Final = 16
_MAX_CODEC: Final = 32
_MAX_DTYPE: Final = 16
_MAX_RAW: Final = 1 << 39
_CODEC: Final = re.compile(rb"[a-z][a-z0-9_.-]*")
_KINDS: Final = {1: "tensor", 2: "blob"}
_KIND_NUMBERS: Final = {"tensor": 1, "blob": 2}

MAX_HEADER: Final = _FIXED.size + 64 + _MAX_CODEC + _MAX_DTYPE + 8 * MAX_DIMENSIONS + _SEAL
"""No header has more bytes than this."""


class MalformedObject(IntegrityError):
    """The bytes of an object file cannot be those of any object."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an object file says of itself; valid once built.

    Args:
        id: The id of the content.
        kind: Tensor or blob.
        codec: The id of the codec of its coded frames.
        raw_length: Bytes of the content.
        spec: Type and shape; None for a blob.
        base: The tensor from which this one is a difference, or None.

    Raises:
        MalformedObject: The parts contradict each other.
    """

    id: ObjectId
    kind: Literal["tensor", "blob"]
    codec: str
    raw_length: int
    spec: TensorSpec | None
    base: ObjectId | None

    def __post_init__(self) -> None:
        if (self.kind == "tensor") != (self.spec is not None):
            raise MalformedObject(f"a {self.kind} with the type of another kind")
        if self.spec is not None and self.spec.nbytes != self.raw_length:
            raise MalformedObject(
                f"a tensor of {self.spec.nbytes} bytes announces {self.raw_length}"
            )
        if self.base is not None and (self.kind == "blob" or self.base == self.id):
            raise MalformedObject(f"a {self.kind} that is a difference from itself or a blob")
        if self.raw_length > _MAX_RAW:
            raise MalformedObject(f"an object of {self.raw_length} bytes")

    def to_bytes(self) -> bytes:
        """Return the header as it stands in the file."""
        dtype, shape = (self.spec.dtype, self.spec.shape) if self.spec else ("", ())
        codec = self.codec.encode()
        if len(codec) > _MAX_CODEC or not _CODEC.fullmatch(codec):
            raise StoreError(f"impossible codec id {self.codec!r}")
        fixed = _FIXED.pack(
            _MAGIC,
            VERSION,
            _KIND_NUMBERS[self.kind],
            len(codec),
            len(dtype),
            len(shape),
            self.base is not None,
            0,
            self.raw_length,
        )
        ids = bytes.fromhex(self.id) + bytes.fromhex(self.base or "")
        body = fixed + ids + codec + dtype.encode() + struct.pack(f"<{len(shape)}Q", *shape)
        return body + _seal(body)

    @classmethod
    def parse(cls, head: bytes) -> tuple["Header", int]:
        """Read a header from the first MAX_HEADER bytes of a file, or all of a shorter one.

        Args:
            head: The bytes, possibly hostile.

        Returns:
            The header, and its length in bytes.

        Raises:
            MalformedObject: These bytes are not a header.
        """
        if len(head) < _FIXED.size or not head.startswith(_MAGIC):
            raise MalformedObject("not an object file")
        fields = _FIXED.unpack_from(head)
        version, kind, codec_length, dtype_length, extents, has_base, reserved, raw_length = fields[
            1:
        ]
        if version != VERSION:
            # A store of a newer version says so in its `format` file; within this one it is damage.
            raise MalformedObject(f"object version {version} in a store of version {VERSION}")
        if kind not in _KINDS or has_base > 1 or reserved:
            raise MalformedObject("impossible kind or flags")
        if not 0 < codec_length <= _MAX_CODEC or dtype_length > _MAX_DTYPE:
            raise MalformedObject("impossible lengths of names")
        if extents > MAX_DIMENSIONS:
            raise MalformedObject(f"a shape of {extents} extents")
        sizes = (32, 32 * has_base, codec_length, dtype_length, 8 * extents)
        end = _FIXED.size + sum(sizes)
        if len(head) < end + _SEAL:
            raise MalformedObject("the header is cut short")
        if _seal(head[:end]) != head[end : end + _SEAL]:
            raise MalformedObject("the header does not match its seal")
        own, base, codec, dtype, shape = _cut(head[_FIXED.size : end], sizes)
        if not _CODEC.fullmatch(codec):
            raise MalformedObject(f"impossible codec id {codec!r}")
        header = cls(
            id=ObjectId(own.hex()),
            kind="tensor" if _KINDS[kind] == "tensor" else "blob",
            codec=codec.decode(),
            raw_length=raw_length,
            spec=_spec(dtype, struct.unpack(f"<{extents}Q", shape)),
            base=ObjectId(base.hex()) if has_base else None,
        )
        return header, end + _SEAL

    @property
    def frames(self) -> int:
        """Number of frames of the payload."""
        return -(-self.raw_length // FRAME_BYTES)


def _seal(body: bytes) -> bytes:
    return blake3(body).digest(length=_SEAL)


def _cut(body: bytes, sizes: tuple[int, ...]) -> list[bytes]:
    parts: list[bytes] = []
    for size in sizes:
        parts.append(body[:size])
        body = body[size:]
    return parts


def _spec(dtype: bytes, shape: tuple[int, ...]) -> TensorSpec | None:
    if not dtype and not shape:
        return None
    try:
        return TensorSpec(dtype.decode("ascii", "replace"), shape)
    except StoreError as error:
        raise MalformedObject(f"impossible type: {error.message}") from error
