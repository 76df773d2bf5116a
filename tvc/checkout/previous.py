"""The checkout that stands where another is about to be: what of it can be kept.

Its tvc.json says what each tensor is. That is believed of no tensor until its bytes were hashed in
their new place; so a folder that somebody else made, or changed, costs time and nothing else.
Absent on purpose: what is wanted, and everything beside weights.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, cast

from tvc.domain.errors import TvcError
from tvc.models.folder import PlainFile, list_folder, open_plain, read_plain, resolve_folder
from tvc.models.header import Header, TensorEntry
from tvc.models.strict_json import parse_object
from tvc.models.weights import find_shards, read_entries
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId, parse_id

__all__ = ["FACTS", "FORMAT", "Previous"]

FACTS: Final = "tvc.json"
"""The file of a checkout that says what it is."""

FORMAT: Final = "tvc.checkout/1"
"""The version of that file."""

_MAX_FACTS: Final = 64 << 20


@dataclass(frozen=True)
class Previous:
    """A checkout that is there; nothing that it says is verified.

    Args:
        shards: Name of each file with weights → the file, as it was when it was looked at.
        entries: Tensor name → where its bytes are.
        ids: Tensor name → what it is said to be.
    """

    shards: Mapping[str, PlainFile]
    entries: Mapping[str, TensorEntry]
    ids: Mapping[str, ObjectId]

    @classmethod
    def read(cls, folder: Path) -> "Previous | None":
        """Read what a folder says; None where there is none, or it is no checkout."""
        try:
            listing = list_folder(resolve_folder(folder))
            facts = listing.files.get(FACTS)
            if facts is None:
                return None
            ids = _ids(parse_object(read_plain(facts, limit=_MAX_FACTS), what=FACTS))
            names = find_shards(listing.files)
            entries = read_entries(listing.files, names)
        except TvcError:
            return None  # it is replaced, like any other model
        return cls({name: listing.files[name] for name in names}, entries, ids)

    def has(self, name: str, spec: TensorSpec, identity: ObjectId) -> bool:
        """Say whether a tensor is said to be there."""
        entry = self.entries.get(name)
        return entry is not None and entry.spec == spec and self.ids.get(name) == identity

    def file_of(self, name: str) -> PlainFile:
        """Return the file with a tensor that is said to be there."""
        return self.shards[self.entries[name].file]

    def link_shard(self, first: str, header: Header, nbytes: int, target: Path) -> bool:
        """Give a shard that has just this header a second name; its tensors are not verified.

        Args:
            first: One of its tensors.
            header: What it must begin with.
            nbytes: Bytes of its tensors.
            target: The second name, free.

        Returns:
            Whether it was done.
        """
        file = self.file_of(first)
        if file.size != len(header.raw) + nbytes:
            return False
        try:
            with open_plain(file) as fd:
                return _begins(fd, header.raw) and _linked(file, fd, target)
        except TvcError:
            return False


def _begins(fd: int, raw: bytes) -> bool:
    try:
        return os.pread(fd, len(raw), 0) == raw
    except OSError:
        return False


def _linked(file: PlainFile, fd: int, target: Path) -> bool:
    """Link a file that nobody else has a name for, so that only this folder's users change it."""
    status = os.fstat(fd)
    if status.st_nlink != 1 or status.st_uid != os.geteuid():
        return False
    try:
        os.link(file.path, target, follow_symlinks=False)
    except OSError:
        return False  # another disk, or one without links
    linked = target.lstat()
    same = (linked.st_dev, linked.st_ino) == (status.st_dev, status.st_ino)
    if not (same and S_ISREG(linked.st_mode)):
        target.unlink()
        return False
    return True


def _ids(facts: Mapping[str, Any]) -> dict[str, ObjectId]:
    found = facts.get("tensors")
    if facts.get("format") != FORMAT or not isinstance(found, dict):
        return {}
    said = cast("dict[str, object]", found)
    return {name: parse_id(text) for name, text in said.items() if isinstance(text, str)}
