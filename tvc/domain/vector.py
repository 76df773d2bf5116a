"""What a task vector and a base are, and where they came from.

A fine-tune is (tuned snapshot, the recipe it was trained from); an adapter is its own low-rank
factors. A fine-tune that tvc trained also keeps the difference itself, of which the tuned weights
alone have lost a part in rounding. The records here are what `vectors/NAME.toml` and
`bases/NAME.toml` hold; the text form is in tvc/domain/documents.py, the weights are in the store.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

from tvc.domain.grammar import parse_number
from tvc.domain.names import check_file_name, printable
from tvc.domain.recipe import Recipe, format_number, recipe_id
from tvc.domain.snapshot import BadManifest, TensorRef, read_json_object
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import TvcError
from tvc_store.ids import ObjectId, hash_fields, parse_id

__all__ = ["AdapterManifest", "BaseRecord", "Factors", "Scalar", "VectorKind", "VectorRecord"]

Scalar = str | int | float | bool
VectorKind = Literal["fine-tune", "adapter"]

_ADAPTER_FORMAT: Final = "tvc.adapter/1"


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """A base model: where it is had from, and exactly what it is.

    Args:
        source: A folder, or a hub id.
        revision: The commit on the hub, None for a folder.
        snapshot: Id of its snapshot.
    """

    source: str
    revision: str | None
    snapshot: ObjectId


@dataclass(frozen=True, slots=True)
class VectorRecord:
    """A task vector.

    Args:
        kind: `fine-tune` or `adapter`.
        content: Id of the tuned snapshot, or of the adapter's manifest.
        parent: The recipe it was trained from, in normal form.
        parent_snapshot: Id of the snapshot that this recipe gave when the vector was committed.
        provenance: Where it came from; not part of its identity.
        measured: What was measured at commit; not part of its identity.
        delta: Id of the snapshot that lists the difference as it was trained, before tuned weights
            were rounded; None where it is no more than tuned minus parent.
    """

    kind: VectorKind
    content: ObjectId
    parent: Recipe
    parent_snapshot: ObjectId
    provenance: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    measured: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    delta: ObjectId | None = None

    @property
    def id(self) -> ObjectId:
        """Hash of what the vector is: its kind, content, parent and, if kept, its difference."""
        kept = () if self.delta is None else (self.delta,)
        parts = (self.kind, self.content, recipe_id(self.parent), *kept)
        return hash_fields("tvc.vector", *(part.encode() for part in parts))


@dataclass(frozen=True, slots=True)
class Factors:
    """A low-rank difference of one tensor: `scale * up @ down`.

    Args:
        down: A, of shape (rank, in).
        up: B, of shape (out, rank).
        scale: Exact; a square root (rsLoRA) is the nearest double.
        transposed: The tensor it changes is stored as (in, out).
    """

    down: TensorRef
    up: TensorRef
    scale: Fraction
    transposed: bool


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """An adapter as stored: the tensors it changes, and its own files for `tvc export`.

    Args:
        factors: Name of the base's tensor → factors.
        tensors: Name in the adapter's file → content, of all its tensors.
        layout: Blob of the first bytes of the adapter's file, its header.
        files: Relative path → id of the blob, of its other files.
    """

    factors: Mapping[str, Factors]
    tensors: Mapping[str, ObjectId]
    layout: ObjectId
    files: Mapping[str, ObjectId]

    def to_bytes(self) -> bytes:
        """Write canonical JSON."""
        body = {
            "factors": {
                name: {
                    "down": _ref_json(factors.down),
                    "scale": format_number(factors.scale),
                    "transposed": factors.transposed,
                    "up": _ref_json(factors.up),
                }
                for name, factors in self.factors.items()
            },
            "files": dict(self.files),
            "format": _ADAPTER_FORMAT,
            "layout": self.layout,
            "tensors": dict(self.tensors),
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> "AdapterManifest":
        """Read what `to_bytes` wrote.

        Raises:
            BadManifest: It is not that.
        """
        body = read_json_object(data, expected=_ADAPTER_FORMAT)
        try:
            entries: dict[str, Any] = body["factors"]
            manifest = cls(
                {name: _factors(entry) for name, entry in entries.items()},
                {name: parse_id(identity) for name, identity in body["tensors"].items()},
                parse_id(body["layout"]),
                {check_file_name(path): parse_id(blob) for path, blob in body["files"].items()},
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, TvcError) as error:
            raise BadManifest(f"an adapter cannot be read: {printable(str(error))}") from None
        if manifest.to_bytes() != data:
            raise BadManifest("an adapter's manifest is not in canonical form")
        return manifest


def _ref_json(ref: TensorRef) -> list[object]:
    return [ref.spec.dtype, list(ref.spec.shape), ref.id]


def _ref(entry: list[Any]) -> TensorRef:
    dtype, shape, identity = entry
    return TensorRef(parse_id(identity), TensorSpec(dtype, tuple(int(extent) for extent in shape)))


def _factors(entry: Mapping[str, Any]) -> Factors:
    down, up = _ref(entry["down"]), _ref(entry["up"])
    ranks_agree = (
        len(down.spec.shape) == len(up.spec.shape) == 2 and down.spec.shape[0] == up.spec.shape[1]
    )
    if not ranks_agree:
        raise BadManifest(f"factors {list(up.spec.shape)} and {list(down.spec.shape)} do not fit")
    return Factors(down, up, _exact(entry["scale"]), entry["transposed"] is True)


def _exact(text: str) -> Fraction:
    # A double's exact fraction has more digits than a recipe may write, so `p/q` is read here.
    top, slash, bottom = text.partition("/")
    if slash and len(text) < 1000:
        return Fraction(int(top), int(bottom))
    return parse_number(text)
