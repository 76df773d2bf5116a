"""What `tvc train` leaves beside the weights for the commit: where they come from, and δ itself.

`training.json` names the recipe that was trained from, by id, and the provenance that the vector
will carry; the folder `delta` holds the trained difference, where it is kept. A folder may come
from others, so both are read as hostile; they can claim anything of where weights come from, but
not what they are.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from tvc.domain.vector import Scalar
from tvc.models.directory import ModelDirectory
from tvc.models.folder import list_folder, read_plain
from tvc.models.strict_json import BadJson, parse_object
from tvc_store.durable import write_durably
from tvc_store.errors import TvcError
from tvc_store.ids import ObjectId, parse_id

__all__ = ["DELTA", "TRAINING_FILES", "Training", "read_training", "write_training"]

Facts = Mapping[str, Scalar]

DELTA: Final = "delta"
_RECORD: Final = "training.json"
TRAINING_FILES: Final = frozenset([_RECORD, f"{DELTA}/"])
"""What a training leaves in a model's folder that is no part of the model."""

_FORMAT: Final = "tvc.training/1"
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Training:
    """A training's own record.

    Args:
        recipe: Id of the recipe that was trained from.
        provenance: What the vector will carry.
        measured: What was measured of it.
        deltas: The trained differences, where they are kept.
    """

    recipe: ObjectId
    provenance: Facts
    measured: Facts
    deltas: ModelDirectory | None


def write_training(folder: Path, *, recipe: ObjectId, provenance: Facts, measured: Facts) -> None:
    """Write the record of a training into its model's folder.

    Raises:
        WriteFailed: The system refused.
    """
    body = {
        "format": _FORMAT,
        "recipe": recipe,
        "provenance": dict(provenance),
        "measured": dict(measured),
    }
    text = json.dumps(body, indent=1, ensure_ascii=False)
    write_durably(folder / _RECORD, [text.encode() + b"\n"])


def read_training(model: ModelDirectory) -> Training | None:
    """Read the record of a training, where a model's folder has one.

    Raises:
        BadJson: It is not what `write_training` writes.
        InputError: The folder of differences is not one.
    """
    listing = list_folder(model.root)
    if _RECORD not in listing.files:
        return None
    body = parse_object(read_plain(listing.files[_RECORD], limit=_MAX_BYTES), what=_RECORD)
    provenance, measured = body.get("provenance"), body.get("measured")
    if body.get("format") != _FORMAT or not (_are_scalars(provenance) and _are_scalars(measured)):
        raise BadJson(f"{_RECORD} is not the record of a training")
    try:
        recipe = parse_id(str(body.get("recipe")))
    except TvcError as error:
        raise BadJson(f"{_RECORD}: recipe: {error.message}") from None
    kept = ModelDirectory.open(model.root / DELTA) if DELTA in listing.folders else None
    return Training(recipe, cast("Facts", provenance), cast("Facts", measured), kept)


def _are_scalars(value: object) -> bool:
    return isinstance(value, dict) and all(
        _is_text(name) and (isinstance(each, int | float | bool) or _is_text(each))
        for name, each in cast("dict[str, object]", value).items()
    )


def _is_text(value: object) -> bool:
    # JSON can write half a surrogate pair; no document can hold one.
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)
