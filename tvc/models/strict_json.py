"""JSON from outside: bounded, without duplicate keys, and an object at the top.

Python's own parser keeps the last of two equal keys and nests until it runs out of stack; the first
lets a file say one thing to us and another to the next reader. Writing JSON is deliberately absent.
"""

import json
from collections.abc import Iterable
from typing import Any, Final, cast

from tvc.domain.names import printable
from tvc_store.errors import IntegrityError

__all__ = ["BadJson", "parse_object"]

_MAX_DEPTH: Final = 64


class BadJson(IntegrityError):
    """A file that should hold a JSON object does not."""


def parse_object(data: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`; the caller has bounded its length.

    Args:
        data: UTF-8 text.
        what: The file, as a message names it.

    Raises:
        BadJson: It is no UTF-8, no JSON, no object, nested too deep, or names a key twice.
    """
    try:
        value: object = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise BadJson(f"{what} is nested too deep") from None
    except BadJson as error:
        raise BadJson(f"{what} {error.message}") from None
    except ValueError as error:
        raise BadJson(f"{what} is not JSON: {printable(str(error))}") from None
    if not isinstance(value, dict):
        raise BadJson(f"{what} is not a JSON object")
    found = cast("dict[str, Any]", value)
    if _deeper_than(found, _MAX_DEPTH):
        raise BadJson(f"{what} is nested too deep")
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadJson(f"has the key '{printable(key)}' twice")
            seen.add(key)
    return found


def _deeper_than(value: object, depth: int) -> bool:
    level = [value]
    while level and depth:
        depth -= 1
        level = [inner for outer in level for inner in _containers(outer)]
    return bool(level)


def _containers(value: object) -> list[object]:
    children = cast("dict[str, object]", value).values() if isinstance(value, dict) else value
    return [child for child in cast("Iterable[object]", children) if type(child) in (dict, list)]
