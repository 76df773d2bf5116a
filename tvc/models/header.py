"""The header of a safetensors file, read as hostile input and written deterministically.

The format: eight bytes of little-endian length, that many bytes of JSON, then the tensors' bytes.
The parser that comes with the format accepts names with escapes, duplicate keys and impossible
shapes, and spends seconds on large headers; so limits come first here, and what passes is exactly
what it says. Tensors' bytes are deliberately not touched in this module.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.models.strict_json import parse_object
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.errors import IntegrityError, StoreError

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_TENSORS",
    "BadHeader",
    "BadTensorName",
    "Header",
    "TensorEntry",
    "UnsupportedFile",
    "check_tensor_name",
    "make_header",
    "parse_header",
    "read_header",
]

MAX_HEADER_BYTES: Final = 32 << 20
MAX_TENSORS: Final = 200_000
_MAX_NAME: Final = 512
_MAX_METADATA: Final = 1 << 20  # characters, keys and values together
_METADATA: Final = "__metadata__"
_FIELDS: Final = frozenset({"dtype", "shape", "data_offsets"})
_ALIGNMENT: Final = 8
# What JSON may hold at most, counted before it is parsed: a parser builds objects a hundred times
# the size of the text. A tensor has five strings, at most 18 commas, one brace and two brackets;
# the rest is room for metadata.
_MAX_MARKS: Final = {
    b'"': 10 * MAX_TENSORS + 100_000,
    b",": 19 * MAX_TENSORS + 100_000,
    b"{": MAX_TENSORS + 100_000,
    b"[": 2 * MAX_TENSORS + 100_000,
}
_LFS_POINTER: Final = b"version "


class BadHeader(IntegrityError):
    """A safetensors file is not what its header says."""


class UnsupportedFile(InputError):
    """A safetensors file that may be well-formed, but that tvc does not read."""


class BadTensorName(InputError):
    """A tensor's name cannot be printed, or be part of a path, safely."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor's bytes are.

    Args:
        name: The tensor's name.
        spec: Its type and shape.
        file: Name of the shard, relative to the model folder.
        offset: First byte, from the start of the file.
    """

    name: str
    spec: TensorSpec
    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself, checked against its size.

    Args:
        entries: Every tensor, in the order of its bytes.
        metadata: The free text of the file.
        raw: The length and the JSON as they stand in the file.
    """

    entries: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]
    raw: bytes


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor as messages name it; made into text only when there is a message."""

    name: str
    file: str

    def __str__(self) -> str:
        return f"tensor '{printable(self.name)}' in {printable(self.file)}"


def check_tensor_name(name: str) -> None:
    """Refuse a tensor name that is unsafe to print or to use in a path.

    Raises:
        BadTensorName: It has not 1 to 512 printable characters, or has a backslash, or empty,
            `.` or `..` segments between slashes.
    """
    bad = (
        not 1 <= len(name) <= _MAX_NAME
        or not name.isprintable()
        or "\\" in name
        or any(segment in ("", ".", "..") for segment in name.split("/"))
    )
    if bad:
        raise BadTensorName(f"'{printable(name)}' cannot name a tensor")


def read_header(fd: int, *, file: str) -> Header:
    """Read and check the header of an open safetensors file.

    Args:
        fd: A file opened for reading.
        file: Its name, for entries and messages.

    Raises:
        BadHeader: The file is not what its header says.
        UnsupportedFile: A limit is exceeded, or an element type is unknown.
        BadTensorName: A tensor's name is unsafe.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedFile(f"{printable(file)} is not a plain file")
    prefix = os.pread(fd, 8, 0)
    length = _header_length(prefix, size=status.st_size, file=printable(file))
    raw = prefix + os.pread(fd, length, 8)
    if len(raw) != 8 + length:
        raise BadHeader(f"{printable(file)} became shorter while it was read")
    return parse_header(raw, size=status.st_size, file=file)


def parse_header(raw: bytes, *, size: int | None, file: str) -> Header:
    """Check the length and JSON that begin a safetensors file.

    Args:
        raw: The eight bytes of length and the JSON.
        size: Bytes of the whole file; None where the file is yet to be written.
        file: Its name, for entries and messages.

    Raises:
        BadHeader: The file is not what its header says.
        UnsupportedFile: A limit is exceeded, or an element type is unknown.
        BadTensorName: A tensor's name is unsafe.
    """
    shown = printable(file)
    if len(raw) != 8 + _header_length(raw[:8], size=size or len(raw), file=shown):
        raise BadHeader(f"the header of {shown} is cut short")
    body = raw[8:]
    for mark, limit in _MAX_MARKS.items():
        if body.count(mark) > limit:
            raise UnsupportedFile(
                f"the header of {shown} announces more than {MAX_TENSORS} tensors"
            )
    if body[:1] != b"{":
        raise BadHeader(f"the header of {shown} does not begin with '{{'")
    fields = parse_object(body, what=f"the header of {shown}")
    metadata = _metadata(fields.pop(_METADATA, {}), file=shown)
    if len(fields) > MAX_TENSORS:
        raise UnsupportedFile(f"the header of {shown} announces more than {MAX_TENSORS} tensors")
    entries = [_entry(name, field, file=file, start=len(raw)) for name, field in fields.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.spec.nbytes))
    _check_cover(entries, start=len(raw), size=size, file=shown)
    return Header(tuple(entries), metadata, raw)


def make_header(specs: Mapping[str, TensorSpec], *, file: str) -> Header:
    """Make the header of a file that holds `specs`, in their order, with metadata `format: pt`.

    Args:
        specs: Tensor name → type and shape.
        file: Name of the file, for the entries.

    Raises:
        BadTensorName: A tensor's name is unsafe.
        UnsupportedFile: There are more tensors than a file may hold.
    """
    fields: dict[str, Any] = {_METADATA: {"format": "pt"}}
    begin = 0
    begins: dict[str, int] = {}
    for name, spec in specs.items():
        check_tensor_name(name)
        begins[name] = begin
        offsets = [begin, begin + spec.nbytes]
        fields[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
        begin = offsets[1]
    body = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % _ALIGNMENT)
    if len(body) > MAX_HEADER_BYTES or len(specs) > MAX_TENSORS:
        raise UnsupportedFile(f"{len(specs)} tensors are too many for {file}", hint="more shards")
    raw = len(body).to_bytes(8, "little") + body
    entries = (
        TensorEntry(name, spec, file, len(raw) + begins[name]) for name, spec in specs.items()
    )
    return Header(tuple(entries), {"format": "pt"}, raw)


def _header_length(prefix: bytes, *, size: int, file: str) -> int:
    if prefix == _LFS_POINTER:
        raise UnsupportedFile(f"{file} is a Git LFS pointer, not weights", hint="git lfs pull")
    if len(prefix) < 8:
        raise BadHeader(f"{file} has {size} bytes: too short for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        raise BadHeader(f"the header of {file} claims {length} bytes, the file has {size}")
    if length > MAX_HEADER_BYTES:
        raise UnsupportedFile(
            f"the header of {file} has {length} bytes, more than {MAX_HEADER_BYTES}"
        )
    return length


def _metadata(value: object, *, file: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadHeader(f"{_METADATA} in {file} is not an object")
    found = cast("dict[str, object]", value)
    texts = {key: text for key, text in found.items() if isinstance(text, str)}
    if len(texts) != len(found):
        raise BadHeader(f"{_METADATA} in {file} holds something other than text")
    if sum(len(key) + len(text) for key, text in texts.items()) > _MAX_METADATA:
        raise UnsupportedFile(f"{_METADATA} in {file} has more than {_MAX_METADATA} characters")
    return texts


def _entry(name: str, field: object, *, file: str, start: int) -> TensorEntry:
    try:
        check_tensor_name(name)
    except BadTensorName as error:
        raise BadTensorName(f"{error.message} (in {printable(file)})") from None
    where = _Place(name, file)
    if not isinstance(field, dict):
        raise BadHeader(f"{where} is not described by an object")
    found = cast("dict[str, object]", field)
    if found.keys() != _FIELDS:
        raise BadHeader(f"{where} is not described by dtype, shape and data_offsets")
    spec = _spec(found["dtype"], found["shape"], where=where)
    begin, end = _offsets(found["data_offsets"], where=where)
    if end - begin != spec.nbytes:
        raise BadHeader(
            f"{where} has {end - begin} bytes, but {spec.dtype} {list(spec.shape)}"
            f" needs {spec.nbytes}"
        )
    return TensorEntry(name, spec, file, start + begin)


def _spec(dtype: object, shape: object, *, where: _Place) -> TensorSpec:
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise BadHeader(f"{where} has no dtype and shape of the right kind")
    if dtype not in ITEMSIZE:
        raise UnsupportedFile(
            f"{where} has the element type '{printable(dtype)}', which is not supported",
            hint=f"supported: {', '.join(ITEMSIZE)}",
        )
    extents = cast("list[object]", shape)
    if not all(type(extent) is int for extent in extents):
        raise BadHeader(f"{where} has an extent that is not an integer")
    try:
        return TensorSpec(dtype, tuple(cast("list[int]", extents)))
    except StoreError as error:
        raise BadHeader(f"{where}: {printable(error.message)}") from None


def _offsets(value: object, *, where: _Place) -> tuple[int, int]:
    pair = cast("list[object]", value) if isinstance(value, list) else []
    if len(pair) != 2 or not all(type(number) is int for number in pair):
        raise BadHeader(f"{where} has no pair of integers as data_offsets")
    begin, end = cast("list[int]", pair)
    if not 0 <= begin <= end < 1 << 63:
        shown = printable(f"[{begin}, {end}]")
        raise BadHeader(f"{where} has impossible data_offsets {shown}")
    return begin, end


def _check_cover(entries: list[TensorEntry], *, start: int, size: int | None, file: str) -> None:
    """Check that sorted entries follow each other without gap or overlap up to the end."""
    position = start
    for entry in entries:
        if entry.offset != position:
            kind = "overlaps the one before it" if entry.offset < position else "follows a gap"
            raise BadHeader(f"tensor '{printable(entry.name)}' in {file} {kind}")
        position += entry.spec.nbytes
    if size is not None and position != size:
        raise BadHeader(
            f"the tensors of {file} end at byte {position}, the file at byte {size}",
            hint="an interrupted download or copy" if size < position else None,
        )
