"""Content ids: BLAKE3 over a tag and length-prefixed fields, so that no two inputs look alike.

Absent on purpose: anything about storage. Compressing, borrowing or moving never renames an object.
"""

import re
import struct
from typing import Final, NewType

from blake3 import blake3

from tvc_store.buffers import Buffer, flat_view
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import StoreError

__all__ = ["ObjectId", "TensorHasher", "blob_id", "hash_fields", "parse_id", "tensor_id"]

ObjectId = NewType("ObjectId", str)
"""64 lower-case hexadecimal digits."""

_ID: Final = re.compile(r"[0-9a-f]{64}")
_LENGTH: Final = struct.Struct("<Q")


def parse_id(text: str) -> ObjectId:
    """Return the text as an id.

    Raises:
        StoreError: The text is not 64 lower-case hexadecimal digits.
    """
    if not _ID.fullmatch(text):
        raise StoreError(f"not an object id: {text[:80]!r}", hint="an id is 64 hexadecimal digits")
    return ObjectId(text)


def hash_fields(tag: str, *fields: Buffer) -> ObjectId:
    """Hash a tag and ordered fields, each with its length before it.

    Args:
        tag: What is hashed, such as "tvc.snapshot"; different tags never share an id.
        fields: The parts, in a fixed order.
    """
    return ObjectId(_started(tag, *fields).hexdigest())


def tensor_id(spec: TensorSpec, data: Buffer) -> ObjectId:
    """Return the id of a tensor: the hash of its dtype, shape and raw little-endian bytes.

    Args:
        spec: Type and shape.
        data: The bytes, row-major.

    Raises:
        StoreError: The number of bytes is not the one that the spec asks for.
    """
    hasher = TensorHasher(spec)
    hasher.update(data)
    return hasher.finish()


def blob_id(data: Buffer) -> ObjectId:
    """Return the id of a blob of bytes."""
    return hash_fields("tvc.blob", data)


class TensorHasher:
    """Computes a `tensor_id` from chunks as they come.

    Args:
        spec: Type and shape of the tensor whose bytes will be fed.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._fed = 0
        shape = struct.pack(f"<{len(spec.shape)}Q", *spec.shape)
        self._hash = _started("tvc.tensor", spec.dtype.encode(), shape)
        self._hash.update(_LENGTH.pack(spec.nbytes))

    def update(self, chunk: Buffer) -> None:
        """Feed the next bytes; chunks may end anywhere."""
        view = flat_view(chunk)
        self._fed += view.nbytes
        self._hash.update(view)

    def finish(self) -> ObjectId:
        """Return the id of what was fed.

        Raises:
            StoreError: More or fewer bytes were fed than the spec asks for.
        """
        if self._fed != self._spec.nbytes:
            raise StoreError(
                f"a tensor {self._spec.dtype} {list(self._spec.shape)} has {self._spec.nbytes} "
                f"bytes, {self._fed} were given"
            )
        return ObjectId(self._hash.hexdigest())


def _started(tag: str, *fields: Buffer) -> blake3:
    hasher = blake3()
    for field in (tag.encode(), *fields):
        view = flat_view(field)
        hasher.update(_LENGTH.pack(view.nbytes))
        hasher.update(view)
    return hasher
