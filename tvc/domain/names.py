"""What may be called what: vectors, bases, methods and the files a snapshot carries.

A name that passes here is safe as a file name on every common file system, in a git ref, on a
terminal and in a recipe. Nothing here touches a file.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from tvc.domain.errors import InputError

__all__ = [
    "BadName",
    "check_file_name",
    "check_name",
    "is_bare",
    "nearest",
    "printable",
    "refuse_case_twins",
]

_BARE: Final = re.compile(r"[a-z][a-z0-9_]*(?:/[a-z][a-z0-9_]*)*")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAX_NAME: Final = 100
_MAX_FILE_NAME: Final = 255
_RESERVED: Final = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
)


class BadName(InputError):
    """A name that cannot be used."""


def is_bare(name: str) -> bool:
    """Say whether a name can stand in a recipe without quotes."""
    return _BARE.fullmatch(name) is not None


def printable(text: str, *, limit: int = 120) -> str:
    """Return `text` safe to print: control and format characters escaped, cut at `limit`."""
    safe = "".join(
        char
        if unicodedata.category(char)[0] not in "CZ" or char == " "
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text[: limit + 1]
    )
    return safe if len(text) <= limit else safe[:limit] + "…"


def check_name(name: str, *, what: str = "vector") -> str:
    """Return `name` if it may name a vector or a base.

    Raises:
        BadName: It is empty, too long, has a segment that is no plain file name, or is reserved.
    """
    segments = name.split("/")
    bad = (
        len(name) > _MAX_NAME
        or not all(_SEGMENT.fullmatch(segment) for segment in segments)
        or any(segment.endswith((".", ".lock")) or ".." in segment for segment in segments)
        or any(segment.split(".")[0].lower() in _RESERVED for segment in segments)
    )
    if bad:
        raise BadName(
            f"{printable(name)!r} cannot name a {what}",
            hint="use letters, digits, '_', '-' and '.', in segments separated by '/'",
        )
    return name


def check_file_name(path: str) -> str:
    """Return `path` if it is a plain relative path, with `/` between its segments.

    Raises:
        BadName: It is empty, absolute, too long, leaves its folder, or has control characters.
    """
    segments = path.split("/")
    bad = (
        len(path.encode("utf-8", "surrogateescape")) > _MAX_FILE_NAME
        or any(segment in ("", ".", "..") for segment in segments)
        or any(segment.lower() == ".git" for segment in segments)
        or "\\" in path
        or ":" in path
        or printable(path, limit=_MAX_FILE_NAME) != path
    )
    if bad:
        raise BadName(f"{printable(path)!r} is not a plain relative file name")
    return path


def refuse_case_twins(names: Iterable[str], *, what: str) -> None:
    """Refuse names that are one name on a file system without case.

    Raises:
        BadName: Two names differ only by case.
    """
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            raise BadName(f"{what} {printable(twin)!r} and {printable(name)!r} differ only by case")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the known name nearest to `name`, or None."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else None
