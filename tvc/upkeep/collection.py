"""`tvc gc`: removes the objects that no branch, tag or recent operation needs.

What was written for servers goes too: models that none of them uses any longer, old adapters.

What cannot be read may need anything: nothing is removed then. The caller keeps every other process
out; what a killed command wrote last stays for the grace period too.
"""

from dataclasses import dataclass

from tvc.domain.errors import IntegrityError
from tvc.repository.leftovers import (
    remove_old_adapters,
    remove_pushed,
    remove_served,
    remove_unfinished_files,
)
from tvc.repository.repository import Repository
from tvc.upkeep.inspection import survey
from tvc_store.collect import collect
from tvc_store.errors import TvcError
from tvc_store.local import Store
from tvc_store.reading import Missing

__all__ = ["Freed", "UnknownNeeds", "collect_garbage"]


class UnknownNeeds(IntegrityError):
    """What the repository needs cannot be told, so nothing may be removed."""

    def __init__(self, reason: TvcError) -> None:
        super().__init__(
            f"nothing was removed, since not all that is needed is known: {reason.message}",
            hint="see what is wrong with `tvc fsck`, and mend it with `tvc fsck --repair`",
        )


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed, or would be.

    Args:
        objects: Number of objects.
        object_bytes: Their bytes on the disk.
        temporaries: Number of unfinished files in the store.
        temporary_bytes: Bytes of all unfinished files.
        served_bytes: Bytes of models and adapters that were written for servers.
        kept: Number of objects that stay.
    """

    objects: int
    object_bytes: int
    temporaries: int
    temporary_bytes: int
    served_bytes: int
    kept: int


def collect_garbage(
    repository: Repository, store: Store, *, grace_seconds: float, now: float, dry_run: bool = False
) -> Freed:
    """Remove what nothing needs.

    Args:
        repository: The repository, locked.
        store: Its store; nobody else uses it.
        grace_seconds: Objects, entries of git's reflog and operations that are younger count.
        now: The time, in seconds since the epoch.
        dry_run: Remove nothing, only count.

    Raises:
        UnknownNeeds: A commit, a list of tensors or the operation log cannot be read.
        WriteFailed: The system refused to remove a file.
    """
    history, needs = survey(repository, store, since=now - grace_seconds)
    # A list that an earlier `tvc gc --grace 0` removed is still named by records of what once was.
    gone = {ref for ref, error in needs.unreadable.items() if isinstance(error, Missing)}
    uses = needs.users({ref.id for ref in gone})
    lost = {r for r in gone if any(history.is_current(use.document) for use in uses[r.id])}
    unknown = [e for ref, e in needs.unreadable.items() if ref in lost or ref not in gone]
    for reason in (*history.failures, *unknown):
        raise UnknownNeeds(reason)
    done = collect(store, needs.objects(), grace_seconds=grace_seconds, now=now, dry_run=dry_run)
    stale = remove_unfinished_files(repository.layout, dry_run=dry_run)
    stale += remove_pushed(repository.layout, dry_run=dry_run)
    served = remove_served(repository.layout, dry_run=dry_run)
    served += remove_old_adapters(repository.layout, before=now - grace_seconds, dry_run=dry_run)
    return Freed(
        done.objects,
        done.object_bytes,
        done.temporaries,
        done.temporary_bytes + stale,
        served,
        done.kept,
    )
