"""Which version of the carried files (config, tokenizer, chat template, …) a recipe has.

A file that no vector changes is the base's. One that vectors change alike is theirs; a vector
trained on top of another supersedes it. JSON settings changed at different keys are joined key by
key; what two vectors change differently is a conflict, decided by a choice in the recipe's `files`.
A file that a fine-tune's folder lacks is not changed by it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from tvc.domain.errors import ConflictError
from tvc.domain.library import Library
from tvc.domain.recipe import Recipe, Sum, VectorName, vector_names
from tvc_store.ids import ObjectId

__all__ = ["FileConflict", "FileVersion", "plan_files"]

_JOINED: Final = frozenset(["config.json", "generation_config.json", "tokenizer_config.json"])
# Written by every save, and without meaning for what the model computes.
_VOLATILE: Final = frozenset(["_name_or_path", "transformers_version"])


@dataclass(frozen=True, slots=True)
class FileVersion:
    """The content of one carried file: a stored blob, or JSON joined from several."""

    blob: ObjectId | None
    joined: bytes | None = None

    def read(self, read_blob: Callable[[ObjectId], bytes]) -> bytes:
        """Return the bytes."""
        return self.joined if self.blob is None else read_blob(self.blob)  # pyright: ignore[reportReturnType]  # one of the two is set


class FileConflict(ConflictError):
    """Two vectors change one file differently, and the recipe does not say whose to take."""

    def __init__(self, path: str, owners: tuple[str, ...]) -> None:
        names = " and ".join(owners)
        super().__init__(
            f"{path} is changed differently by {names}",
            hint=f"say whose to take: in recipe.toml, under [files], \"{path}\" = '{owners[0]}'",
        )
        self.path = path
        self.owners = owners


def plan_files(recipe: Recipe, library: Library) -> dict[str, FileVersion]:
    """Return the version of every carried file of a recipe in normal form, by path.

    Raises:
        FileConflict: Two vectors change one file differently and the recipe does not choose.
    """
    base = library.snapshot(recipe.base).files
    changes = _changes(recipe, library)
    choices = dict(recipe.files)
    paths = sorted({*base, *(path for files in changes.values() for path in files)})
    versions = {
        path: _version(
            path,
            base.get(path),
            {vector: files[path] for vector, files in changes.items() if path in files},
            choices.get(path),
            library,
        )
        for path in paths
    }
    return {path: version for path, version in versions.items() if version is not None}


def _changes(recipe: Recipe, library: Library) -> dict[str, dict[str, ObjectId]]:
    """Return vector → the files it changes, for vectors that count and are not superseded."""
    counted = list(dict.fromkeys(_positive(recipe.terms)))
    changes: dict[str, dict[str, ObjectId]] = {}
    for vector in counted:
        record = library.record(vector)
        if record.kind == "adapter":
            continue
        before = library.snapshot(record.parent_snapshot).files
        after = library.snapshot(record.content).files
        changes[vector] = {path: blob for path, blob in after.items() if before.get(path) != blob}
    for vector, later in changes.items():
        for below in set(vector_names(library.record(vector).parent.terms)) & set(changes):
            for path in later:
                changes[below].pop(path, None)
    return changes


def _positive(terms: Sum) -> list[str]:
    """Vectors that are added rather than taken away; a negated one brings no files along."""
    found: list[str] = []
    for term in terms:
        if term.coefficient < 0:
            continue
        if isinstance(term.atom, VectorName):
            found.append(term.atom.name)
        else:
            for member in term.atom.members:
                found += _positive(member.terms) if member.weight > 0 else []
    return found


def _version(
    path: str,
    base: ObjectId | None,
    changes: Mapping[str, ObjectId],
    choice: str | None,
    library: Library,
) -> FileVersion | None:
    """Return whose version of a file is taken; None where that one has no such file."""
    versions = set(changes.values())
    if choice is not None or len(versions) <= 1:
        blob = next(iter(versions), base) if choice is None else changes.get(choice, base)
        return FileVersion(blob) if blob is not None else None
    owners = tuple(sorted(library.name_of(vector) for vector in changes))
    if path.rpartition("/")[2] not in _JOINED or base is None:
        raise FileConflict(path, owners)
    ordered = [library.read_blob(changes[vector]) for vector in sorted(changes)]
    joined = _join(library.read_blob(base), ordered)
    if joined is None:
        raise FileConflict(path, owners)
    return FileVersion(None, joined)


def _join(base: bytes, versions: list[bytes]) -> bytes | None:
    """Join JSON objects key by key against their base; None where two change a key differently."""
    before, *afters = [_object(data) for data in (base, *versions)]
    result = dict(before)
    decided: dict[str, object] = {}
    for after in afters:
        for key in sorted({*before, *after} - _VOLATILE):
            value = after.get(key, _ABSENT)
            if value == before.get(key, _ABSENT):
                continue
            if decided.setdefault(key, value) != value:
                return None
            result[key] = value
    kept = {key: value for key, value in result.items() if value is not _ABSENT}
    return json.dumps(kept, indent=2, ensure_ascii=False).encode() + b"\n"


_ABSENT: Final = object()


def _object(data: bytes) -> dict[str, Any]:
    try:
        body: object = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}
