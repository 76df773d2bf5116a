"""A snapshot: the canonical list of a model's tensors and of the files carried with them.

Its id is the hash of that list. The list is stored as a blob in the object store; what is read back
is checked as strictly as any foreign file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tvc.domain.names import check_file_name, printable, refuse_case_twins
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError, TvcError
from tvc_store.ids import ObjectId, blob_id, parse_id

__all__ = ["BadManifest", "Snapshot", "TensorRef", "read_json_object"]

MAX_TENSORS: Final = 1_000_000
_VERSION: Final = 1


class BadManifest(IntegrityError):
    """A stored list of tensors is not what tvc writes."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor by its content: id, type and shape."""

    id: ObjectId
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a model consists of.

    Args:
        tensors: Tensor name → content, in the order of the names.
        files: Relative path → id of the blob, in the order of the paths.
    """

    tensors: Mapping[str, TensorRef] = field(default_factory=dict[str, TensorRef])
    files: Mapping[str, ObjectId] = field(default_factory=dict[str, ObjectId])

    @property
    def id(self) -> ObjectId:
        """Hash of the canonical list."""
        return blob_id(self.to_bytes())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, a shared one counted as often as it is named."""
        return sum(ref.spec.nbytes for ref in self.tensors.values())

    def to_bytes(self) -> bytes:
        """Write the canonical list: JSON with sorted keys, no spaces and one final newline."""
        body = {
            "files": dict(sorted(self.files.items())),
            "format": f"tvc.snapshot/{_VERSION}",
            "tensors": {
                name: [ref.spec.dtype, list(ref.spec.shape), ref.id]
                for name, ref in sorted(self.tensors.items())
            },
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> "Snapshot":
        """Read a canonical list.

        Raises:
            BadManifest: It is not one that `to_bytes` writes.
        """
        body = read_json_object(data, expected=f"tvc.snapshot/{_VERSION}")
        try:
            tensors = {str(name): _tensor_ref(entry) for name, entry in body["tensors"].items()}
            files = {check_file_name(path): parse_id(blob) for path, blob in body["files"].items()}
            refuse_case_twins(files, what="files")
            snapshot = cls(tensors, files)
        except (KeyError, TypeError, ValueError, AttributeError, TvcError) as error:
            raise BadManifest(f"a snapshot cannot be read: {printable(str(error))}") from None
        if len(tensors) > MAX_TENSORS or snapshot.to_bytes() != data:
            raise BadManifest("a snapshot is not in canonical form")
        return snapshot


def read_json_object(data: bytes, *, expected: str) -> dict[str, Any]:
    """Read a JSON object whose `format` is `expected`.

    Raises:
        BadManifest: It is no JSON object, or of another format.
    """
    try:
        body: object = json.loads(data)
    except (ValueError, RecursionError):
        raise BadManifest(f"expected {expected}, found something that is not JSON") from None
    if not isinstance(body, dict):
        raise BadManifest(f"expected {expected}, found no JSON object")
    found = cast("dict[str, Any]", body)
    if found.get("format") != expected:
        shown = printable(str(found.get("format")))
        raise BadManifest(f"expected {expected}, found {shown}", hint="a newer tvc may read it")
    return found


def _tensor_ref(entry: list[Any]) -> TensorRef:
    dtype, shape, identity = entry
    if not all(type(extent) is int for extent in shape):
        raise BadManifest(f"impossible shape {printable(str(shape))}")
    return TensorRef(parse_id(identity), TensorSpec(dtype, tuple(shape)))
