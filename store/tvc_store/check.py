"""Checking everything in a store: every byte of every object, and every borrowed file.

A check reports and goes on; it never raises for what it finds, and changes nothing. Absent on
purpose: which vectors need what is damaged, and mending it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tvc_store.borrowed import DamagedRecord, Source, SourceChanged, check_file
from tvc_store.codecs import UnknownCodec
from tvc_store.durable import is_temporary
from tvc_store.errors import TvcError
from tvc_store.ids import ObjectId
from tvc_store.layout import FORMAT_FILE, SOURCES_FOLDER, fan_folders, object_at
from tvc_store.local import Store
from tvc_store.opened import Damaged
from tvc_store.reading import Misplaced, Missing

__all__ = ["Finding", "Kind", "check"]

Kind = Literal["damaged", "missing", "misplaced", "stray", "source"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Args:
        id: The object concerned, or None where it is no object.
        path: The file.
        problem: What is wrong, in one line.
        kind: `damaged`, `misplaced`: the file in the object's place; `missing`: an object that
            this one needs; `source`: a borrowed file or the record of one; `stray`: a file that is
            no object, harmless.
    """

    id: ObjectId | None
    path: Path
    problem: str
    kind: Kind


def check(store: Store, *, progress: Callable[[int], None] | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a store.

    Args:
        store: The store.
        progress: Called after each object or borrowed tensor with its bytes on the disk.
    """
    tell = progress or _silent
    yield from _strays(store)
    for folder in fan_folders(store.path):
        for path in sorted(folder.iterdir()):
            yield from _check_file(store, path)
            tell(path.lstat().st_size)
    for record in store.book.records():
        try:
            source = store.book.load(record)
        except DamagedRecord as error:
            yield Finding(None, record, error.message, "source")
        else:
            yield from _check_source(store, source, tell)


def _strays(store: Store) -> Iterator[Finding]:
    known = {FORMAT_FILE, SOURCES_FOLDER, *(path.name for path in fan_folders(store.path))}
    for path in sorted(store.path.iterdir()):
        if path.name not in known:
            yield _stray(path)


def _stray(path: Path) -> Finding:
    problem = "left by an interrupted write" if is_temporary(path.name) else "not tvc's"
    return Finding(None, path, problem, "stray")


def _check_file(store: Store, path: Path) -> Iterator[Finding]:
    object_id = object_at(path)
    if object_id is None:
        yield _stray(path)
        return
    try:
        with store.reader.open(object_id) as file:
            is_blob, size = file.header.kind == "blob", file.header.raw_length
        if is_blob:
            store.read_blob(object_id, limit=size)
        else:
            store.read_tensor(object_id)
    except TvcError as error:
        yield Finding(object_id, path, error.message, _kind(error))


def _kind(error: TvcError) -> Kind:
    match error:
        case Misplaced():
            return "misplaced"
        case Damaged() | UnknownCodec():
            return "damaged"
        case Missing():
            return "missing"
        case SourceChanged() | DamagedRecord():
            return "source"
        case _:
            raise error  # not a finding: there is no memory, say


def _check_source(store: Store, source: Source, tell: Callable[[int], None]) -> Iterator[Finding]:
    changed: set[str] = set()
    for file in sorted(source.files):
        try:
            check_file(source, file)
        except SourceChanged as error:
            changed.add(file)
            yield Finding(None, source.root / file, error.message, "source")
    for object_id, tensor in source.tensors.items():
        if tensor.file in changed:
            continue
        try:
            store.reader.borrowed_from(object_id, source, tensor)
        except SourceChanged as error:
            yield Finding(object_id, source.root / tensor.file, error.message, "source")
        tell(tensor.spec.nbytes)


def _silent(_: int) -> None:
    pass
