"""What the names of one commit stand for: its bases and vectors, and their contents when needed.

The records come with the commit; the contents (snapshots, adapter manifests) are read from the
store on demand through the function given, so that `tvc log` and `tvc status` need none of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.domain.recipe import Recipe, normalize, vector_names
from tvc.domain.snapshot import Snapshot, TensorRef
from tvc.domain.vector import AdapterManifest, BaseRecord, VectorRecord
from tvc_store.ids import ObjectId

__all__ = ["Library", "UnknownVector"]


class UnknownVector(InputError):
    """A recipe names a vector or a base that the commit does not have."""


@dataclass
class Library:
    """The bases and vectors of one commit, by name and by id.

    Args:
        bases: Name → record.
        vectors: Name → record.
        read_blob: Reads a blob of the store by id.
    """

    bases: Mapping[str, BaseRecord]
    vectors: Mapping[str, VectorRecord]
    read_blob: Callable[[ObjectId], bytes]
    _snapshots: dict[ObjectId, Snapshot] = field(default_factory=dict[ObjectId, Snapshot])
    _adapters: dict[ObjectId, AdapterManifest] = field(
        default_factory=dict[ObjectId, AdapterManifest]
    )
    _changed: dict[ObjectId, frozenset[str]] = field(default_factory=dict[ObjectId, frozenset[str]])

    def __post_init__(self) -> None:
        self._by_id = {record.id: record for record in self.vectors.values()}
        # Of two names for one vector, the first in order is shown.
        self._names = {record.id: name for name, record in sorted(self.vectors.items())[::-1]}

    def normal_form(self, recipe: Recipe) -> Recipe:
        """Return the normal form of a recipe of this commit, its names replaced by ids.

        Raises:
            UnknownVector: It names a vector or a base that is not here.
        """
        self.require(vector_names(recipe.terms))
        self.require(owner for _, owner in recipe.files if owner not in self.bases)
        ids = {name: str(base.snapshot) for name, base in self.bases.items()}
        ids |= {name: str(record.id) for name, record in self.vectors.items()}
        return normalize(recipe, base=self.base(recipe.base).snapshot, vectors=ids)

    def require(self, names: Iterable[str]) -> None:
        """Check that every name is a vector of this commit.

        Raises:
            UnknownVector: One is not; the hint names the nearest.
        """
        for name in names:
            if name not in self.vectors:
                hint = nearest(name, self.vectors) or "`tvc vectors` lists what there is"
                raise UnknownVector(f"there is no vector {printable(name)!r} here", hint=hint)

    def base(self, name: str) -> BaseRecord:
        """Return the record of a base.

        Raises:
            UnknownVector: There is none of that name.
        """
        if name not in self.bases:
            raise UnknownVector(
                f"there is no base {printable(name)!r} here", hint=nearest(name, self.bases)
            )
        return self.bases[name]

    def record(self, vector: str) -> VectorRecord:
        """Return the record of a vector by its id.

        Raises:
            UnknownVector: No vector of this commit has that id.
        """
        found = self._by_id.get(ObjectId(vector))
        if found is None:
            raise UnknownVector(
                f"vector {printable(vector[:12])}… is needed, but vectors/ does not describe it",
                hint="restore its file in vectors/ from the commit that had it",
            )
        return found

    def name_of(self, vector: str) -> str:
        """Return the name under which a vector id is known here, or the id cut short."""
        return self._names.get(ObjectId(vector), vector[:12])

    def snapshot(self, identity: str) -> Snapshot:
        """Return a snapshot of the store, read once."""
        key = ObjectId(identity)
        if key not in self._snapshots:
            self._snapshots[key] = Snapshot.from_bytes(self.read_blob(key))
        return self._snapshots[key]

    def adapter(self, identity: ObjectId) -> AdapterManifest:
        """Return an adapter's manifest of the store, read once."""
        if identity not in self._adapters:
            self._adapters[identity] = AdapterManifest.from_bytes(self.read_blob(identity))
        return self._adapters[identity]

    def changed(self, vector: str) -> frozenset[str]:
        """Return the names of the tensors that a vector changes."""
        record = self.record(vector)
        if record.id not in self._changed:
            self._changed[record.id] = self._changed_by(record)
        return self._changed[record.id]

    def _changed_by(self, record: VectorRecord) -> frozenset[str]:
        if record.kind == "adapter":
            return frozenset(self.adapter(record.content).factors)
        before = self.snapshot(record.parent_snapshot).tensors
        after = self.snapshot(record.content).tensors
        differing = {name for name, ref in after.items() if before.get(name) != ref}
        # What is too small to move a rounded weight still counts when it is scaled.
        return frozenset(differing | (self.deltas(record).keys() & after.keys()))

    def deltas(self, record: VectorRecord) -> Mapping[str, TensorRef]:
        """Return the differences that a vector keeps as they were trained, by tensor."""
        return {} if record.delta is None else self.snapshot(record.delta).tensors

    def closure(self, names: Iterable[str]) -> dict[str, VectorRecord]:
        """Return the named vectors and all that they were trained on top of, by name."""
        found: dict[str, VectorRecord] = {}
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in found:
                found[name] = self.vectors[name]
                pending += [
                    self._names[self.record(parent).id]
                    for parent in vector_names(found[name].parent.terms)
                ]
        return found

    def users(self, identity: ObjectId) -> list[str]:
        """Return what needs an object, in words: tensors of vectors and bases, or their lists.

        What cannot be read is passed over: this explains damage, and must not trip over it.
        """
        found: list[str] = []
        for name, base in self.bases.items():
            found += self._users_in(f"base {name!r}", [base.snapshot], identity)
        for name, record in self.vectors.items():
            wanted = [record.content, record.parent_snapshot]
            wanted += [record.delta] if record.delta else []
            found += self._users_in(f"vector {name!r}", wanted, identity)
        return found

    def _users_in(self, owner: str, lists: list[ObjectId], identity: ObjectId) -> list[str]:
        if identity in lists:
            return [f"the list of tensors of {owner}"]
        contents = [self._snapshots.get(each) or self._adapters.get(each) for each in lists]
        return [
            f"{what} of {owner}"
            for content in contents
            if content is not None
            for what, each in _parts(content)
            if each == identity
        ]

    def display(self, recipe: Recipe) -> Recipe:
        """Return a recipe in normal form with names instead of ids, for a person to read."""
        names = {vector: self.name_of(vector) for vector in vector_names(recipe.terms)}
        bases = {str(record.snapshot): name for name, record in self.bases.items()}
        owners = {owner: bases.get(owner, self.name_of(owner)) for _, owner in recipe.files}
        base = bases.get(recipe.base, recipe.base[:12])
        return normalize(recipe, base=base, vectors=names | owners)


def _parts(content: Snapshot | AdapterManifest) -> Iterator[tuple[str, ObjectId]]:
    """Yield the objects of a list of tensors, each with what it is in words."""
    if isinstance(content, Snapshot):
        yield from ((f"tensor {name!r}", ref.id) for name, ref in content.tensors.items())
    else:
        yield from ((f"factor {name!r}", each) for name, each in content.tensors.items())
        yield "the header", content.layout
    yield from ((f"file {path!r}", blob) for path, blob in content.files.items())
