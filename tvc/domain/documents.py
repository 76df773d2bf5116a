"""The text files of a repository: recipe.toml, vectors/NAME.toml and bases/NAME.toml.

Text ↔ records, made for `git diff`: one term a line, keys in a fixed order. What is read may come
from a hostile clone: size, types and names are checked before anything is used.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final, cast

from tvc.domain.errors import ConflictError, InputError
from tvc.domain.grammar import parse_sum
from tvc.domain.names import check_file_name, check_name, printable
from tvc.domain.recipe import Recipe, Sum, fold, format_term
from tvc.domain.vector import BaseRecord, Scalar, VectorRecord
from tvc_store.errors import TvcError
from tvc_store.ids import ObjectId, parse_id

__all__ = [
    "MAX_DOCUMENT",
    "BadDocument",
    "UnresolvedConflict",
    "format_base",
    "format_conflicted_recipe",
    "format_recipe_document",
    "format_vector",
    "parse_base",
    "parse_recipe_document",
    "parse_vector",
]

MAX_DOCUMENT: Final = 4 << 20
_MAX_TERMS: Final = 10_000
_FORMAT: Final = 1
_MARKER: Final = re.compile(r"^(<{7}|={7}|>{7})", re.MULTILINE)


class BadDocument(InputError):
    """A text file of the repository is not what tvc reads."""


class UnresolvedConflict(ConflictError):
    """recipe.toml still has conflict markers."""


def _quote(text: str) -> str:
    # JSON's escapes are a subset of TOML's; DEL is the one character JSON leaves bare.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quote(name)


def _value(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quote(value) if isinstance(value, str) else repr(value)


def _table(name: str, values: Mapping[str, Scalar]) -> str:
    if not values:
        return ""
    lines = "".join(f"{_key(key)} = {_value(value)}\n" for key, value in values.items())
    return f"\n[{name}]\n{lines}"


def _term_lines(terms: Sum) -> str:
    return "".join(f"  {_quote(format_term(term))},\n" for term in terms)


def _term_list(terms: Sum) -> str:
    return f"[\n{_term_lines(terms)}]" if terms else "[]"


def format_recipe_document(recipe: Recipe) -> str:
    """Write recipe.toml."""
    head = f"format = {_FORMAT}\nbase = {_quote(recipe.base)}\nterms = {_term_list(recipe.terms)}\n"
    return head + _table("files", dict(recipe.files))


def format_conflicted_recipe(
    recipe: Recipe,
    conflicts: list[tuple[Sum, Sum]],
    file_conflicts: Mapping[str, tuple[str | None, str | None]],
    *,
    ours: str,
    theirs: str,
) -> str:
    """Write recipe.toml with what two sides changed differently between git's markers.

    Args:
        recipe: What is agreed on.
        conflicts: Pairs of our terms and theirs.
        file_conflicts: Path of a carried file → the vectors whose version our side and theirs take.
        ours: What our side is called.
        theirs: What their side is called.
    """
    blocks = "".join(
        _conflict(_term_lines(mine), _term_lines(other), ours, theirs) for mine, other in conflicts
    )
    choices = "".join(
        _conflict(_choice(path, mine), _choice(path, other), ours, theirs)
        for path, (mine, other) in file_conflicts.items()
    )
    head = f"format = {_FORMAT}\nbase = {_quote(recipe.base)}\n"
    body = f"terms = [\n{_term_lines(recipe.terms)}{blocks}]\n"
    files = _table("files", dict(recipe.files)) or ("\n[files]\n" if choices else "")
    return head + body + files + choices


def _conflict(mine: str, other: str, ours: str, theirs: str) -> str:
    return f"<<<<<<< {ours}\n{mine}=======\n{other}>>>>>>> {theirs}\n"


def _choice(path: str, owner: str | None) -> str:
    return f"{_key(path)} = {_quote(owner)}\n" if owner else ""


def _parse(text: str, *, path: str) -> dict[str, Any]:
    if len(text) > MAX_DOCUMENT:
        raise BadDocument(f"{path} is larger than {MAX_DOCUMENT >> 20} MiB")
    try:
        body = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadDocument(f"{path}: {printable(str(error) or 'nested too deep')}") from None
    if body.get("format") != _FORMAT:
        found = printable(str(body.get("format")))
        raise BadDocument(
            f"{path} has format {found}, expected {_FORMAT}", hint="a newer tvc may read it"
        )
    return body


def _string(table: Mapping[str, Any], key: str, *, path: str) -> str:
    value: object = table.get(key)
    if not isinstance(value, str):
        raise BadDocument(f"{path}: {key} must be a string")
    return value


def _terms(value: object, *, path: str) -> Sum:
    lines = cast("list[object]", value) if isinstance(value, list) else None
    if lines is None or len(lines) > _MAX_TERMS:
        raise BadDocument(f"{path}: terms must be a list of at most {_MAX_TERMS} strings")
    terms: Sum = ()
    for line in lines:
        if not isinstance(line, str):
            raise BadDocument(f"{path}: a term must be a string")
        try:
            terms += parse_sum(line)
        except InputError as error:
            raise BadDocument(f"{path}: {error.message}", hint=error.hint) from None
    return fold(terms)


def _subtable(body: Mapping[str, Any], key: str, *, path: str) -> dict[str, Any]:
    value: object = body.get(key, {})
    if not isinstance(value, dict):
        raise BadDocument(f"{path}: {key} must be a table")
    return cast("dict[str, Any]", value)


def _known(body: Mapping[str, Any], *keys: str, path: str) -> None:
    unknown = sorted(set(body) - {"format", *keys})
    if unknown:
        raise BadDocument(
            f"{path}: unknown key {printable(unknown[0])!r}", hint=f"known: {', '.join(keys)}"
        )


def parse_recipe_document(text: str, *, path: str = "recipe.toml") -> Recipe:
    """Read recipe.toml.

    Raises:
        UnresolvedConflict: It has conflict markers.
        BadDocument: It is not TOML of this form; a term that does not parse shows a caret.
    """
    if _MARKER.search(text):
        raise UnresolvedConflict(
            f"{path} has unresolved conflicts",
            hint="edit it and `tvc commit`, or take it all back with `tvc merge --abort`",
        )
    body = _parse(text, path=path)
    _known(body, "base", "terms", "files", path=path)
    base = check_name(_string(body, "base", path=path), what="base")
    choices = _subtable(body, "files", path=path)
    files = [
        (check_file_name(name), check_name(_string(choices, name, path=path)))
        for name in sorted(choices)
    ]
    return Recipe(base, _terms(body.get("terms"), path=path), tuple(files))


def format_base(record: BaseRecord) -> str:
    """Write bases/NAME.toml."""
    revision = f"revision = {_quote(record.revision)}\n" if record.revision else ""
    return (
        f"format = {_FORMAT}\nsource = {_quote(record.source)}\n{revision}"
        f"snapshot = {_quote(record.snapshot)}\n"
    )


def parse_base(text: str, *, path: str) -> BaseRecord:
    """Read bases/NAME.toml.

    Raises:
        BadDocument: It is not TOML of this form.
    """
    body = _parse(text, path=path)
    _known(body, "source", "revision", "snapshot", path=path)
    revision = _string(body, "revision", path=path) if "revision" in body else None
    source = _string(body, "source", path=path)
    if printable(source, limit=4096) != source:
        raise BadDocument(f"{path}: source has characters that cannot be printed")
    return BaseRecord(source, revision, _identity(body, "snapshot", path=path))


def _identity(table: Mapping[str, Any], key: str, *, path: str) -> ObjectId:
    try:
        return parse_id(_string(table, key, path=path))
    except BadDocument:
        raise
    except TvcError as error:
        raise BadDocument(f"{path}: {key}: {error.message}") from None


def format_vector(record: VectorRecord) -> str:
    """Write vectors/NAME.toml."""
    parent = record.parent
    delta = f"delta = {_quote(record.delta)}\n" if record.delta else ""
    return (
        f"format = {_FORMAT}\nid = {_quote(record.id)}\nkind = {_quote(record.kind)}\n"
        f"content = {_quote(record.content)}\n{delta}"
        f"\n[trained_from]\nbase = {_quote(parent.base)}\nterms = {_term_list(parent.terms)}\n"
        f"snapshot = {_quote(record.parent_snapshot)}\n"
        + _table("trained_from.files", dict(parent.files))
        + _table("provenance", record.provenance)
        + _table("measured", record.measured)
    )


def parse_vector(text: str, *, path: str) -> VectorRecord:
    """Read vectors/NAME.toml.

    Raises:
        BadDocument: It is not TOML of this form, or its id is not the hash of what it says.
    """
    body = _parse(text, path=path)
    known = ("id", "kind", "content", "delta", "trained_from", "provenance", "measured")
    _known(body, *known, path=path)
    origin = _subtable(body, "trained_from", path=path)
    kind = _string(body, "kind", path=path)
    if kind not in ("fine-tune", "adapter"):
        raise BadDocument(f"{path}: kind {printable(kind)!r} is neither 'fine-tune' nor 'adapter'")
    if kind == "adapter" and "delta" in body:
        raise BadDocument(f"{path}: an adapter is its own difference, and keeps no other")
    choices = _subtable(origin, "files", path=path)
    files = [(check_file_name(name), _string(choices, name, path=path)) for name in sorted(choices)]
    parent = Recipe(
        str(_identity(origin, "base", path=path)),
        _terms(origin.get("terms"), path=path),
        tuple(files),
    )
    record = VectorRecord(
        kind,
        _identity(body, "content", path=path),
        parent,
        _identity(origin, "snapshot", path=path),
        _scalars(_subtable(body, "provenance", path=path), path=path),
        _scalars(_subtable(body, "measured", path=path), path=path),
        _identity(body, "delta", path=path) if "delta" in body else None,
    )
    if record.id != _identity(body, "id", path=path):
        raise BadDocument(
            f"{path}: its id does not match what it says: it was edited or damaged",
            hint=f"restore it from git: git checkout HEAD -- {path}",
        )
    return record


def _scalars(table: Mapping[str, Any], *, path: str) -> dict[str, Scalar]:
    for key, value in table.items():
        if not isinstance(value, str | int | float | bool):
            raise BadDocument(f"{path}: {printable(key)} must be a string or a number")
    return dict(table)
