"""`tvc fsck --repair`: restores what can be had again, and removes what is of no use to anybody.

Good bytes come from borrowed files, from objects that lie in another's place, from the folders that
vectors and bases were made of, and from folders that the user names. All are matched by content, so
that nothing wrong is ever taken. The caller keeps every other process out.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tvc.domain.names import printable
from tvc.domain.snapshot import Snapshot
from tvc.domain.vector import BaseRecord, VectorRecord
from tvc.repository.layout import BASES
from tvc.repository.leftovers import remove_unfinished_files
from tvc.repository.position import BadPosition
from tvc.repository.repository import Repository
from tvc.upkeep.inspection import Inspection, inspect, work_bytes
from tvc.upkeep.needs import ListRef, Needs
from tvc.upkeep.offers import Offer, Progress, open_offer
from tvc_store.borrowed import BorrowedTensor, DamagedRecord, Source, SourceChanged, check_file
from tvc_store.durable import is_temporary, make_folder, write_durably
from tvc_store.errors import TvcError
from tvc_store.ids import ObjectId, blob_id
from tvc_store.layout import place
from tvc_store.local import Store
from tvc_store.objectfile import ObjectFile
from tvc_store.repair import replace_damaged, replace_damaged_blob

__all__ = ["Repair", "repair"]

_ROUNDS: Final = 4  # a list that is found again may name further objects that are lost


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair came to.

    Args:
        done: What was repaired, a line each.
        notes: Folders that could not be read, a line each.
        left: What is wrong still.
    """

    done: tuple[str, ...]
    notes: tuple[str, ...]
    left: Inspection


def repair(
    repository: Repository,
    store: Store,
    found: Inspection,
    *,
    folders: Sequence[Path],
    progress: Progress,
) -> Repair:
    """Mend what an inspection found.

    Args:
        repository: The repository, locked.
        store: Its store; nobody else uses it.
        found: What is wrong.
        folders: Folders in which to look first.
        progress: Shows how far it is.

    Raises:
        WriteFailed: The disk is full, or may not be written.
    """
    with suppress(BadPosition):  # a damaged journal is removed below
        repository.recover()
    offers = _Offers(repository.layout.root, folders, progress)
    done: list[str] = []
    for _ in range(_ROUNDS):
        if not found.problems and not found.strays:
            break
        mended = _Mender(repository, store, found, offers).run()
        done += mended
        if not mended:
            break
        with progress("checking again", work_bytes(store)) as on_bytes:
            found = inspect(repository, store, on_bytes=on_bytes)
    return Repair(tuple(done), tuple(offers.notes), found)


class _Offers:
    """Folders, each opened and hashed once, when it is first looked into."""

    def __init__(self, root: Path, named: Sequence[Path], progress: Progress) -> None:
        self._root = root
        self._named = named
        self._progress = progress
        self._opened: dict[Path, Offer | None] = {}
        self.notes: list[str] = []

    def among(self, further: Sequence[str]) -> Iterator[Offer]:
        """Yield the folders named by the user, and then others, relative to the repository."""
        for folder in (*self._named, *(self._root / text for text in further)):
            offer = self._open(folder, quiet=folder not in self._named)
            if offer is not None:
                yield offer

    def _open(self, folder: Path, *, quiet: bool) -> Offer | None:
        if folder not in self._opened:
            self._opened[folder] = None
            try:
                if quiet and not folder.exists():
                    return None
                self._opened[folder] = open_offer(folder, progress=self._progress)
            except (TvcError, OSError, ValueError) as error:  # a hostile name may have a NUL
                self.notes.append(printable(f"{folder}: {error}", limit=500))
        return self._opened[folder]


class _Mender:
    """One round of repair."""

    def __init__(
        self, repository: Repository, store: Store, found: Inspection, offers: _Offers
    ) -> None:
        self._repository = repository
        self._store = store
        self._found = found
        self._needs: Needs = found.needs
        self._offers = offers
        self._done: list[str] = []

    def run(self) -> list[str]:
        self._remove_strays()
        self._remove_records()
        self._mend_sources()
        self._put_back()
        lost = self._lost()
        self._mend_lists(lost)
        self._mend_contents(lost)
        self._remove_useless()
        return self._done

    def _remove_strays(self) -> None:
        temporary = [p.path for p in self._found.strays if p.path and is_temporary(p.path.name)]
        for path in temporary:
            path.unlink(missing_ok=True)
        if temporary:
            self._done.append(f"removed {len(temporary)} unfinished files")
        remove_unfinished_files(self._repository.layout)

    def _remove_records(self) -> None:
        for problem in self._found.problems:
            if problem.kind == "operation" and problem.path:
                problem.path.unlink(missing_ok=True)
                self._done.append(f"removed {problem.path.name}: it was damaged, and is for undo")

    def _mend_sources(self) -> None:
        changed = [p.path for p in self._found.problems if p.kind == "source" and p.path]
        for record in list(self._store.book.records()):
            try:
                source = self._store.book.load(record)
            except DamagedRecord:
                self._mend_record(record)
            else:
                if any(path.is_relative_to(source.root) for path in changed):
                    self._mend_source(source)

    def _mend_record(self, record: Path) -> None:
        """Make a damaged record again from the folder that it was made of, or remove it."""
        for document, base in self._needs.records.items():
            name = document.path.removeprefix(BASES).removesuffix(".toml")
            if not isinstance(base, BaseRecord) or self._store.book.record_of(name) != record:
                continue
            listed = self._needs.lists.get(ListRef(base.snapshot, "base"))
            if isinstance(listed, Snapshot):
                wanted = {ref.id for ref in listed.tensors.values()}
                if self._borrow(name, wanted, [base.source]):
                    return
        record.unlink(missing_ok=True)
        self._done.append(f"removed the damaged record {record.name} of a source")

    def _mend_source(self, source: Source) -> None:
        wanted = {i for i in source.tensors if i in self._needs.tensors} or set(source.tensors)
        if self._borrow(source.name, wanted, [str(source.root), *self._base_folders(source.name)]):
            return
        # What still is as it was goes on being borrowed; the rest is looked for like any object.
        kept = {f: state for f, state in source.files.items() if _is_unchanged(source, f)}
        lost = {i for i in wanted if source.tensors[i].file not in kept}
        for identity in self._needed(lost):
            self._mend_tensor(identity)
        if all(self._store.is_stored(identity) for identity in lost):
            places = {i: t for i, t in source.tensors.items() if t.file in kept}
            self._store.borrow(Source(source.name, source.root, kept, places))
            self._done.append(f"source {source.name!r}: what is gone is stored here now")

    def _base_folders(self, name: str) -> list[str]:
        path = f"{BASES}{name}.toml"
        records = self._needs.records.items()
        return [r.source for d, r in records if d.path == path and isinstance(r, BaseRecord)]

    def _borrow(self, name: str, wanted: set[ObjectId], folders: Sequence[str]) -> bool:
        for offer in self._offers.among(folders):
            source = offer.source(name, wanted)
            if source is not None:
                self._store.borrow(source)
                self._done.append(f"source {printable(name)!r} is borrowed from {source.root}")
                return True
        return False

    def _put_back(self) -> None:
        """Bring objects that lie in another's place to their own."""
        found: list[tuple[ObjectId, bytes]] = []
        for problem in self._found.problems:
            if problem.kind == "misplaced" and problem.path:
                with suppress(TvcError, OSError), ObjectFile(problem.path) as file:
                    found.append((file.header.id, problem.path.read_bytes()))
        for identity, data in found:
            if not self._is_sound(identity):
                path = place(self._store.path, identity)
                make_folder(path.parent)
                write_durably(path, [data], mode=0o444)
                self._done.append(f"object {identity} is back in its place")

    def _lost(self) -> list[ObjectId]:
        wanted = {p.id for p in self._found.problems if p.id}
        return [identity for identity in self._needed(wanted) if not self._is_sound(identity)]

    def _needed(self, identities: set[ObjectId]) -> list[ObjectId]:
        return sorted(i for i in identities if i in self._needs.tensors or i in self._needs.blobs)

    def _is_sound(self, identity: ObjectId) -> bool:
        read = self._store.read_blob if identity in self._needs.blobs else self._store.read_tensor
        try:
            read(identity)
        except TvcError:
            return False
        return True

    def _folders(self, identity: ObjectId) -> list[str]:
        """Return the folders that those who need an object were made of."""
        folders: dict[str, None] = {}
        for use in self._needs.users([identity])[identity]:
            record = self._needs.records[use.document]
            source = (
                record.source
                if isinstance(record, BaseRecord)
                else record.provenance.get("source", "")
            )
            if isinstance(source, str) and source:
                folders[source] = None
        return list(folders)

    def _mend_lists(self, lost: Sequence[ObjectId]) -> None:
        for ref in self._needs.unreadable:
            if ref.id in lost and not self._is_sound(ref.id):
                data = self._list_again(ref)
                if data is not None:
                    replace_damaged_blob(self._store, data)
                    self._done.append(f"made list {ref.id} again")

    def _list_again(self, ref: ListRef) -> bytes | None:
        for offer in self._offers.among(self._folders(ref.id)):
            for data in self._candidates(ref, offer):
                if blob_id(data) == ref.id:
                    return data
        return None

    def _candidates(self, ref: ListRef, offer: Offer) -> Iterator[bytes]:
        known = [each for each in self._needs.lists.values() if isinstance(each, Snapshot)]
        if ref.kind != "adapter":
            yield from (each.to_bytes() for each in offer.snapshots(iter(known)))
            return
        for each in known:
            with suppress(TvcError):
                manifest = offer.manifest(each)
                if manifest is not None:
                    yield manifest.to_bytes()

    def _mend_contents(self, lost: Sequence[ObjectId]) -> None:
        origins = self._origins()
        for identity in sorted(lost, key=lambda each: each in origins):  # bases come first
            if self._is_sound(identity):
                continue
            if identity in self._needs.blobs:
                self._mend_blob(identity)
            else:
                self._mend_tensor(identity, origin=origins.get(identity))

    def _mend_blob(self, identity: ObjectId) -> None:
        for offer in self._offers.among(self._folders(identity)):
            path = offer.find_blob(identity)
            if path is not None and blob_id(data := offer.read_blob(path)) == identity:
                replace_damaged_blob(self._store, data)
                self._done.append(f"restored {identity} from {offer.folder / path}")
                return

    def _mend_tensor(self, identity: ObjectId, *, origin: ObjectId | None = None) -> None:
        for source, tensor in self._places(identity):
            with suppress(SourceChanged):
                data = self._store.reader.borrowed_from(identity, source, tensor)
                replace_damaged(self._store, tensor.spec, data)
                self._done.append(f"restored {identity} from {source.root / tensor.file}")
                return
        for offer in self._offers.among(self._folders(identity)):
            name = offer.find_tensor(identity)
            if name is None:
                continue
            usable = origin if origin is not None and self._is_sound(origin) else None
            spec = offer.tensors[name].spec
            replace_damaged(self._store, spec, offer.read_tensor(name), base=usable)
            if self._is_sound(identity):
                self._done.append(f"restored {identity}, {printable(name)} of {offer.folder}")
                return

    def _places(self, identity: ObjectId) -> list[tuple[Source, BorrowedTensor]]:
        with suppress(DamagedRecord):
            return self._store.book.places(identity)
        return []

    def _origins(self) -> dict[ObjectId, ObjectId]:
        """Return tuned tensor → the base's tensor of its name, which it is a difference from."""
        found: dict[ObjectId, ObjectId] = {}
        for record in self._needs.records.values():
            if not isinstance(record, VectorRecord) or record.kind != "fine-tune":
                continue
            base = self._needs.lists.get(ListRef(ObjectId(record.parent.base), "base"))
            tuned = self._needs.lists.get(ListRef(record.content, "fine-tune"))
            if isinstance(base, Snapshot) and isinstance(tuned, Snapshot):
                for name, ref in tuned.tensors.items():
                    if name in base.tensors and base.tensors[name] != ref:
                        found[ref.id] = base.tensors[name].id
        bases = set(found.values())
        return {tuned: base for tuned, base in found.items() if tuned not in bases}

    def _remove_useless(self) -> None:
        """Remove damaged objects that nothing needs, where all that is needed is known."""
        if self._needs.unreadable or any(p.kind == "git" for p in self._found.problems):
            return
        needed = self._needs.objects() | set(self._bases())
        for problem in self._found.problems:
            useless = problem.id and problem.id not in needed and problem.kind != "source"
            if useless and problem.path and problem.path.is_relative_to(self._store.path):
                problem.path.unlink(missing_ok=True)
                self._done.append(f"removed {problem.id}, which was damaged and nothing needs")

    def _bases(self) -> Iterator[ObjectId]:
        for identity in self._store.object_ids():
            with suppress(TvcError):
                base = self._store.reader.base(identity)
                if base is not None:
                    yield base


def _is_unchanged(source: Source, file: str) -> bool:
    try:
        check_file(source, file)
    except SourceChanged:
        return False
    return True
