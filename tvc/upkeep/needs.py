"""Which objects the documents of a repository need, and what for.

A base needs its list of tensors and all that stands in it; a vector the list of the fine-tune (or
the adapter's manifest) and that of the differences that it keeps, with all in them, and the list of
what it was trained from with the files in that: tensors of the latter may have been computed, and
are stored nowhere.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tvc.domain.documents import (
    UnresolvedConflict,
    parse_base,
    parse_recipe_document,
    parse_vector,
)
from tvc.domain.snapshot import Snapshot
from tvc.domain.vector import AdapterManifest, BaseRecord, VectorRecord
from tvc.repository.layout import BASES, RECIPE, VECTORS
from tvc.upkeep.history import Document
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError, TvcError
from tvc_store.ids import ObjectId
from tvc_store.reading import Missing, TooLarge

__all__ = ["ListRef", "Needs", "Use", "find_needs"]

Listed = Snapshot | AdapterManifest

_ID: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class ListRef:
    """A list of tensors that a document names.

    Args:
        id: The blob.
        kind: What the list is: of a base, a fine-tune, an adapter, differences that were kept, or
            what a vector was trained from.
    """

    id: ObjectId
    kind: str


@dataclass(frozen=True, slots=True)
class Use:
    """One reason why an object is needed.

    Args:
        what: `tensor 'x'`, `file 'config.json'`, `the list of tensors`.
        owner: `base 'qwen'`, `vector 'listen'`.
        document: Whose document says so.
    """

    what: str
    owner: str
    document: Document


class Needs:
    """What documents need in the store.

    Args:
        records: The bases and vectors that were understood.
        malformed: Those that were not, with the reason.
        lists: The lists of tensors that could be read.
        unreadable: Those that could not, with the reason.
        unsure: Ids that stand in malformed documents.
    """

    def __init__(
        self,
        records: Mapping[Document, BaseRecord | VectorRecord],
        malformed: Mapping[Document, TvcError],
        lists: Mapping[ListRef, Listed],
        unreadable: Mapping[ListRef, TvcError],
        unsure: frozenset[ObjectId],
    ) -> None:
        self.records = records
        self.malformed = malformed
        self.lists = lists
        self.unreadable = unreadable
        self.unsure = unsure
        self.tensors: dict[ObjectId, TensorSpec | None] = {}
        self.blobs: set[ObjectId] = {ref.id for ref in (*lists, *unreadable)}
        for ref, listed in lists.items():
            self.tensors |= {each: spec for _, each, spec in _tensors(ref, listed)}
            self.blobs |= {each for _, each in _blobs(listed)}

    def objects(self) -> set[ObjectId]:
        """Return the ids of all objects that are needed, or may be."""
        return {*self.tensors, *self.blobs, *self.unsure}

    def users(self, wanted: Iterable[ObjectId]) -> dict[ObjectId, list[Use]]:
        """Return what needs each of some objects."""
        found: dict[ObjectId, list[Use]] = {identity: [] for identity in wanted}
        for document, record in self.records.items():
            kind = "base" if isinstance(record, BaseRecord) else "vector"
            name = document.path.removeprefix(BASES).removeprefix(VECTORS).removesuffix(".toml")
            for ref in _list_refs(record):
                for what, each in self._parts(ref):
                    if each in found:
                        found[each].append(Use(what, f"{kind} {name!r}", document))
        return {identity: list(dict.fromkeys(uses)) for identity, uses in found.items()}

    def named_tensors(self) -> Iterator[tuple[str, ObjectId]]:
        """Yield the tensors of bases: name and id."""
        for ref, listed in self.lists.items():
            if ref.kind == "base" and isinstance(listed, Snapshot):
                yield from ((name, tensor.id) for name, tensor in listed.tensors.items())

    def _parts(self, ref: ListRef) -> Iterator[tuple[str, ObjectId]]:
        yield "the list of tensors", ref.id
        listed = self.lists.get(ref)
        if listed is not None:
            yield from ((f"tensor {name!r}", each) for name, each, _ in _tensors(ref, listed))
            yield from _blobs(listed)


def _tensors(ref: ListRef, listed: Listed) -> Iterator[tuple[str, ObjectId, TensorSpec | None]]:
    if isinstance(listed, AdapterManifest):
        specs = {f.id: f.spec for each in listed.factors.values() for f in (each.down, each.up)}
        yield from ((name, each, specs.get(each)) for name, each in listed.tensors.items())
    elif ref.kind != "parent":
        yield from ((name, each.id, each.spec) for name, each in listed.tensors.items())


def _blobs(listed: Listed) -> Iterator[tuple[str, ObjectId]]:
    yield from ((f"file {path!r}", each) for path, each in listed.files.items())
    if isinstance(listed, AdapterManifest):
        yield "the header", listed.layout


def _list_refs(record: BaseRecord | VectorRecord) -> list[ListRef]:
    if isinstance(record, BaseRecord):
        return [ListRef(record.snapshot, "base")]
    kept = [] if record.delta is None else [ListRef(record.delta, "delta")]
    return [ListRef(record.content, record.kind), ListRef(record.parent_snapshot, "parent"), *kept]


def find_needs(documents: Iterable[Document], read_blob: Callable[[ObjectId], bytes]) -> Needs:
    """Work out what documents need.

    Args:
        documents: Every document that counts.
        read_blob: Reads a blob of the store.
    """
    records: dict[Document, BaseRecord | VectorRecord] = {}
    malformed: dict[Document, TvcError] = {}
    for document in documents:
        try:
            record = _parse(document)
        except UnresolvedConflict:
            continue  # a merge under way; only recipe.toml can have one
        except TvcError as error:
            malformed[document] = error
        else:
            if record is not None:
                records[document] = record
    lists: dict[ListRef, Listed] = {}
    unreadable: dict[ListRef, TvcError] = {}
    for ref in dict.fromkeys(ref for record in records.values() for ref in _list_refs(record)):
        try:
            lists[ref] = _read_list(ref, read_blob)
        except (IntegrityError, Missing, TooLarge) as error:
            unreadable[ref] = error
    return Needs(records, malformed, lists, unreadable, _unsure(malformed, read_blob))


def _unsure(
    malformed: Iterable[Document], read_blob: Callable[[ObjectId], bytes]
) -> frozenset[ObjectId]:
    """Return every id in documents that nobody understands, and in the lists that these name."""
    direct = {ObjectId(each) for document in malformed for each in _ID.findall(document.text)}
    found = set(direct)
    for identity in direct:
        with suppress(TvcError):
            found.update(map(ObjectId, _ID.findall(read_blob(identity).decode("ascii", "replace"))))
    return frozenset(found)


def _parse(document: Document) -> BaseRecord | VectorRecord | None:
    if document.path == RECIPE:
        parse_recipe_document(document.text)
        return None
    if document.path.startswith(BASES):
        return parse_base(document.text, path=document.path)
    return parse_vector(document.text, path=document.path)


def _read_list(ref: ListRef, read_blob: Callable[[ObjectId], bytes]) -> Listed:
    data = read_blob(ref.id)
    return AdapterManifest.from_bytes(data) if ref.kind == "adapter" else Snapshot.from_bytes(data)
