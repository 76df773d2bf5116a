"""Where things lie in a store's folder.

    format           the version of everything here
    ab/cdef…         an object, by its id
    sources/…json    where tensors are borrowed from

Absent on purpose: opening anything.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import Final

from tvc_store.ids import ObjectId

__all__ = ["FORMAT_FILE", "SOURCES_FOLDER", "fan_folders", "object_at", "place"]

FORMAT_FILE: Final = "format"
SOURCES_FOLDER: Final = "sources"

_FAN: Final = re.compile(r"[0-9a-f]{2}")
_NAME: Final = re.compile(r"[0-9a-f]{62}")


def place(root: Path, object_id: ObjectId) -> Path:
    """Return the path at which an object is stored, or would be."""
    return root / object_id[:2] / object_id[2:]


def fan_folders(root: Path) -> Iterator[Path]:
    """Yield the folders that hold objects, in order."""
    for path in sorted(root.iterdir()):
        if _FAN.fullmatch(path.name) and S_ISDIR(path.lstat().st_mode):
            yield path


def object_at(path: Path) -> ObjectId | None:
    """Return the id of the object whose place a path is, or None where it is no object's."""
    if _FAN.fullmatch(path.parent.name) and _NAME.fullmatch(path.name):
        return ObjectId(path.parent.name + path.name)
    return None
