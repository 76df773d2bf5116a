"""Writing objects: which codec, and the file.

Absent on purpose: deciding whether an object needs writing at all.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from stat import S_ISDIR
from typing import Final

from tvc_store.arrays import ByteArray, byte_view
from tvc_store.buffers import Buffer
from tvc_store.codecs import BUILT_IN, find_codec
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import make_folder, write_durably
from tvc_store.errors import StoreError
from tvc_store.header import Header
from tvc_store.ids import ObjectId
from tvc_store.layout import place
from tvc_store.objectfile import object_chunks
from tvc_store.reading import Missing, Reader

__all__ = ["write_blob", "write_tensor"]

_TINY: Final = 64  # bytes below which no coding is tried
_SAMPLE: Final = 1 << 18
_ID_BYTES: Final = 32


def write_blob(root: Path, object_id: ObjectId, content: ByteArray) -> None:
    """Write a blob's file over whatever stands in its place.

    Raises:
        WriteFailed: The system refused.
    """
    codec = "raw" if content.size < _TINY else "planes"
    header = Header(object_id, "blob", codec, content.size, None, None)
    _write(root, header, object_chunks(header, content, None))


def write_tensor(
    root: Path,
    reader: Reader,
    object_id: ObjectId,
    spec: TensorSpec,
    content: ByteArray,
    *,
    base: ObjectId | None,
    codec: str | None,
) -> None:
    """Write a tensor's file over whatever stands in its place; see `Store.put_tensor`."""
    frames = None if base is None else _usable(reader, object_id, spec, base)
    first = None if frames is None else next(frames, None)
    name = codec or _choose(spec, content, first)
    if not find_codec(name).uses_base:
        header = Header(object_id, "tensor", name, spec.nbytes, spec, None)
        _write(root, header, object_chunks(header, content, None))
        return
    if base is None or frames is None or first is None:
        raise StoreError(f"the codec {name!r} needs a base of the same type and shape")
    header = Header(object_id, "tensor", name, spec.nbytes, spec, base)
    # A difference from bytes that are not the base's could never be undone: they are verified as
    # they are used, and the object gets its name only after.
    origin = reader.verified(base, spec, chain([first], frames))
    _write(root, header, object_chunks(header, content, origin))


def _usable(
    reader: Reader, object_id: ObjectId, spec: TensorSpec, base: ObjectId
) -> Iterator[ByteArray] | None:
    """Return the frames of a base, or None where no difference from it may be stored."""
    if base == object_id or reader.spec(base) != spec:
        return None
    try:
        if reader.base(base) is not None:
            return None
    except Missing:  # not stored, so borrowed
        pass
    return reader.frames(base)


def _choose(spec: TensorSpec, content: ByteArray, first: ByteArray | None) -> str:
    """Return the id of the codec that a sample says is best."""
    if spec.nbytes < _TINY:
        return "raw"
    if first is None:
        return "planes"
    sample, origin = content[:_SAMPLE], first[:_SAMPLE]
    sizes = {
        name: len(byte_view(BUILT_IN[name].encode(sample, dtype=spec.dtype, base=origin)))
        for name in ("distance", "planes")
    }
    worth = sizes["distance"] + _ID_BYTES < min(sizes["planes"], sample.size)
    return "distance" if worth else "planes"


def _write(root: Path, header: Header, chunks: Iterator[Buffer]) -> None:
    path = place(root, header.id)
    make_folder(path.parent)
    if not S_ISDIR(path.parent.lstat().st_mode):
        raise StoreError(f"{path.parent} is not a folder", hint="remove it; tvc did not make it")
    write_durably(path, chunks, mode=0o444)
