"""Removing the objects that nothing needs.

Absent on purpose: what needs objects (the caller knows every branch and tag), and locking: the
caller keeps writers out, and the grace period protects what a crashed or careless one has written.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from os import stat_result
from pathlib import Path

from tvc_store.durable import is_temporary, sync_folder, write_errors
from tvc_store.ids import ObjectId
from tvc_store.layout import SOURCES_FOLDER, fan_folders, place
from tvc_store.local import Store
from tvc_store.opened import Damaged
from tvc_store.reading import Missing

__all__ = ["Collected", "collect"]


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed, or would be.

    Args:
        objects: Number of objects removed.
        object_bytes: Their bytes on the disk.
        temporaries: Number of unfinished files removed.
        temporary_bytes: Their bytes.
        kept: Number of objects that stay, needed or young.
    """

    objects: int
    object_bytes: int
    temporaries: int
    temporary_bytes: int
    kept: int


def collect(
    store: Store,
    live: Collection[ObjectId],
    *,
    grace_seconds: float,
    now: float,
    dry_run: bool = False,
) -> Collected:
    """Remove the stored objects that are neither live nor young, and old unfinished files.

    The base of a difference that stays, stays too.

    Args:
        store: The store; nobody else writes to it meanwhile.
        live: The objects that are needed; ids that are not stored do no harm.
        grace_seconds: Files younger than this stay.
        now: The time, in seconds since the epoch.
        dry_run: Remove nothing, only count.

    Raises:
        WriteFailed: The system refused to remove a file.
    """
    oldest = now - grace_seconds
    stored = {object_id: _status(store, object_id) for object_id in store.object_ids()}
    wanted = set(live)
    kept = {i for i, status in stored.items() if i in wanted or status.st_mtime > oldest}
    kept |= {base for object_id in kept if (base := _base(store, object_id))}
    doomed = {place(store.path, i): status.st_size for i, status in stored.items() if i not in kept}
    stale = {path: s.st_size for path, s in _temporaries(store) if s.st_mtime <= oldest}
    if not dry_run:
        _remove([*doomed, *stale])
    return Collected(
        objects=len(doomed),
        object_bytes=sum(doomed.values()),
        temporaries=len(stale),
        temporary_bytes=sum(stale.values()),
        kept=len(stored) - len(doomed),
    )


def _status(store: Store, object_id: ObjectId) -> stat_result:
    return place(store.path, object_id).lstat()


def _base(store: Store, object_id: ObjectId) -> ObjectId | None:
    # The base of a difference whose header is damaged is not known, nor of use: what mends the one
    # brings or names the other.
    with contextlib.suppress(Damaged, Missing):
        return store.reader.base(object_id)
    return None


def _temporaries(store: Store) -> Iterator[tuple[Path, stat_result]]:
    for folder in (store.path, store.path / SOURCES_FOLDER, *fan_folders(store.path)):
        for path in sorted(folder.iterdir()):
            if is_temporary(path.name):
                with contextlib.suppress(FileNotFoundError):  # its writer has just finished
                    yield path, path.lstat()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with write_errors(path):
            path.unlink(missing_ok=True)
    for folder in sorted({path.parent for path in paths}):
        with write_errors(folder):
            sync_folder(folder)
