"""What travels to a running server: the tensors that differ, whole or as the elements that changed.

A file of its own form: the values one after another, then a manifest in JSON, then its length in
eight bytes. Nothing in it is code, and all of it is checked before a weight is touched: by the hash
that the sender named, by bounds, and by the id that every tensor will have. Absent: the server.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from tvc.domain.errors import InputError, IntegrityError
from tvc.domain.names import printable
from tvc.models.header import check_tensor_name
from tvc.models.strict_json import parse_object
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.errors import StoreError
from tvc_store.ids import ObjectId, blob_id, parse_id

__all__ = [
    "TRAINING",
    "BadDelta",
    "Change",
    "Delta",
    "Kind",
    "changed_elements",
    "pack_delta",
    "read_delta",
    "state_id",
    "unpack_delta",
]

Kind = Literal["dense", "sparse"]
Positions = NDArray[np.uint32]

TRAINING: Final = "train:"
"""What the label of a training's step begins with, where no commit is served."""

_FORMAT: Final = "tvc.delta/1"
_LENGTH: Final = 8
_MAX_MANIFEST: Final = 64 << 20
_MAX_POSITION: Final = 1 << 32
_POSITION_BYTES: Final = 4
_WORDS: Final = ("before", "label", "commit", "recipe", "repository")


class BadDelta(IntegrityError):
    """A delta is not what its sender said, or does not fit what it is for."""


@dataclass(frozen=True, slots=True)
class Change:
    """One tensor that a delta changes.

    Args:
        spec: Type and shape, as the server holds it.
        id: What the tensor is afterwards.
        values: The bytes of the whole tensor, or of the elements at `positions`.
        positions: Flat, ascending; None for the whole tensor.
    """

    spec: TensorSpec
    id: ObjectId
    values: ByteArray
    positions: Positions | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that travel."""
        return self.values.nbytes + (0 if self.positions is None else self.positions.nbytes)


@dataclass(frozen=True, slots=True)
class Delta:
    """What makes one state of a server another.

    Args:
        before: The state that it is for, by `state_id`.
        label: What the server serves afterwards: a commit's hash, `recipe:` and an id, or another.
        commit: The commit's hash; empty where it is none.
        recipe: In names; for people.
        repository: Where it lies; for people.
        changes: Tensor name → its change.
    """

    before: str
    label: str
    commit: str = ""
    recipe: str = ""
    repository: str = ""
    changes: Mapping[str, Change] = field(default_factory=dict[str, Change])

    @property
    def kind(self) -> Kind:
        """Whether elements travel, or whole tensors; what does not change may be named in both."""
        positions = [c.positions for c in self.changes.values() if c.positions is not None]
        return "sparse" if any(each.size for each in positions) else "dense"

    @property
    def nbytes(self) -> int:
        """Bytes of what changes, without the manifest."""
        return sum(change.nbytes for change in self.changes.values())


def state_id(ids: Mapping[str, ObjectId]) -> str:
    """Return the hash of what a server holds: the canonical list of its tensors."""
    return blob_id("".join(f"{name}\t{i}\n" for name, i in sorted(ids.items())).encode())


def changed_elements(old: ByteArray, new: ByteArray, spec: TensorSpec) -> Positions | None:
    """Return the flat positions of elements whose bits differ; None where whole is shorter.

    Args:
        old: A tensor's bytes.
        new: The same tensor's, changed.
        spec: Its type and shape.
    """
    size = ITEMSIZE[spec.dtype]
    if spec.nbytes // size >= _MAX_POSITION:
        return None
    words = np.dtype(f"u{size}")
    found = np.flatnonzero(old.view(words) != new.view(words))
    shorter = found.size * (size + _POSITION_BYTES) < spec.nbytes
    return found.astype(np.uint32) if shorter or not found.size else None


def pack_delta(delta: Delta) -> list[memoryview]:
    """Return the parts of a delta's file, in order."""
    parts: list[memoryview] = []
    at = 0
    tensors: dict[str, Any] = {}
    for name, change in sorted(delta.changes.items()):
        entry = {
            "dtype": change.spec.dtype,
            "shape": list(change.spec.shape),
            "id": change.id,
            "values": [at, change.values.nbytes],
            "positions": None,
        }
        parts.append(change.values.data)
        at += change.values.nbytes
        if change.positions is not None:
            entry["positions"] = [at, change.positions.nbytes]
            parts.append(change.positions.view(np.uint8).data)
            at += change.positions.nbytes
        tensors[name] = entry
    body = {"format": _FORMAT, "kind": delta.kind, "tensors": tensors}
    body |= {word: getattr(delta, word) for word in _WORDS}
    manifest = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    length = len(manifest).to_bytes(_LENGTH, "little")
    return [*parts, memoryview(manifest), memoryview(length)]


def read_delta(path: Path, *, sha256: str, kind: str, limit: int) -> Delta:
    """Read a delta that somebody else wrote, once, into memory; nothing is left to change later.

    Args:
        path: A plain file; links are not followed.
        sha256: Of the whole file, in hexadecimal.
        kind: What it is said to be.
        limit: Bytes that it may have.

    Raises:
        InputError: It cannot be read, or is larger than that.
        BadDelta: It is not what was said.
    """
    shown = printable(str(path))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"the server may not read {shown}: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise InputError(f"{shown} is not a plain file of at most {limit} bytes")
        data = np.empty(status.st_size, np.uint8)
        if file.readinto(data.data) != data.size:
            raise BadDelta(f"{shown} became shorter while it was read")
    if hashlib.sha256(data.data).hexdigest() != sha256:
        raise BadDelta(f"{shown} is not the file that was announced: its hash differs")
    delta = unpack_delta(data)
    if delta.kind != kind and delta.changes:
        raise BadDelta(f"{shown} is {delta.kind}, not {printable(kind)}")
    return delta


def unpack_delta(data: ByteArray) -> Delta:
    """Read the bytes of a delta's file.

    Raises:
        BadDelta: They are not what `pack_delta` writes.
    """
    length = int.from_bytes(data[-_LENGTH:].tobytes(), "little")
    if data.size < _LENGTH or length > min(data.size - _LENGTH, _MAX_MANIFEST):
        raise BadDelta("the delta has no manifest at its end")
    end = data.size - _LENGTH - length
    body = parse_object(data[end : end + length].tobytes(), what="the delta's manifest")
    tensors = body.get("tensors")
    words = {word: body.get(word) for word in _WORDS}
    if body.get("format") != _FORMAT or not isinstance(tensors, dict):
        raise BadDelta(f"the delta is not of the format {_FORMAT}")
    if not all(isinstance(word, str) and word.isprintable() for word in words.values()):
        raise BadDelta("the delta does not say what it is for")
    entries = cast("dict[str, object]", tensors)
    changes = {name: _change(name, entry, data[:end]) for name, entry in entries.items()}
    return Delta(**cast("dict[str, str]", words), changes=changes)


def _change(name: str, entry: object, data: ByteArray) -> Change:
    check_tensor_name(name)
    found = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    try:
        spec = TensorSpec(found["dtype"], tuple(found["shape"]))
        identity = parse_id(found["id"])
        values = _stretch(found["values"], data)
        positions = found["positions"]
        if positions is None:
            whole, indices = spec.nbytes, None
        else:
            indices = _positions(_stretch(positions, data), spec)
            whole = indices.size * ITEMSIZE[spec.dtype]
    except (KeyError, TypeError, ValueError, StoreError) as error:
        raise BadDelta(f"the delta does not describe {printable(name)}: {error}") from None
    if values.nbytes != whole:
        raise BadDelta(f"the delta has {values.nbytes} bytes of {printable(name)}, not {whole}")
    return Change(spec, identity, values, indices)


def _stretch(place: Iterable[int], data: ByteArray) -> ByteArray:
    start, count = place
    if type(start) is not int or type(count) is not int or not 0 <= start <= start + count:
        raise BadDelta("the delta has a place that is none")
    if start + count > data.size:
        raise BadDelta("the delta ends before its values do")
    return data[start : start + count]


def _positions(raw: ByteArray, spec: TensorSpec) -> Positions:
    if raw.size % _POSITION_BYTES:
        raise BadDelta("the delta has a part of a position")
    positions = np.ascontiguousarray(raw).view(np.uint32)
    ascending = bool(np.all(positions[1:] > positions[:-1]))
    if not ascending or (positions.size and positions[-1] >= spec.nbytes // ITEMSIZE[spec.dtype]):
        raise BadDelta("the delta has positions that are not in the tensor")
    return positions
