"""Finds what a mergekit configuration calls models in a repository, and prepares the merge it says.

A model is a branch, a tag, or a vector (then: what the vector was trained from, with the vector),
by its exact name, else by the last part of a path or hub id, else by where the vector was recorded
from. The base model is a base of the repository by its name or source, or one of those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tvc.domain.errors import ConflictError
from tvc.domain.names import nearest, printable
from tvc.domain.plan import FLOATING
from tvc.domain.recipe import Recipe, Sum, Term, VectorName, add, difference
from tvc.domain.threeway import Side
from tvc.domain.vector import VectorRecord
from tvc.repository.objects import Objects
from tvc.repository.position import Position
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import adopt
from tvc.versioning.mergekit import merged_terms
from tvc.versioning.mergekit_file import MergekitFile, Unsaid
from tvc.versioning.merging import (
    Prepared,
    Tip,
    is_ancestor,
    joined_vectors,
    settle_files,
    tip_of,
)
from tvc.versioning.replaying import with_normal
from tvc_store.local import Store

__all__ = ["NoSuchModel", "prepare_mergekit"]

_WIDER: Final = {"BF16": "F32", "F16": "F32"}


class NoSuchModel(Unsaid):
    """A configuration names a model that the repository does not have."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A model that a configuration names.

    Args:
        base: Id of the base that it stands on.
        terms: In normal form.
        tip: The branch or tag that it is, if it is one.
        vectors: What it needs.
    """

    base: str
    terms: Sum
    tip: Tip | None
    vectors: Mapping[str, VectorRecord]


class _Models:
    """The models of a repository, by name."""

    def __init__(self, repository: Repository, position: Position) -> None:
        self._repository = repository
        self.ours = tip_of(repository, position.branch or "HEAD", position.commit)
        self._refs = {
            kind: [ref.removeprefix(kind) for ref in sorted(position.refs) if ref.startswith(kind)]
            for kind in ("refs/heads/", "refs/tags/")
        }
        # Ours first: of vectors of one name, HEAD's is meant.
        commits = dict.fromkeys([position.commit, *sorted(position.refs.values())])
        self._states = [repository.state_at(commit) for commit in commits]

    def find(self, name: str) -> _Model:
        """Return the model of a name.

        Raises:
            NoSuchModel: There is none, or more than one.
        """
        for matches in (_is_exactly(name), _ends_alike(name)):
            for kind, refs in self._refs.items():
                if found := _only(name, [ref for ref in refs if matches(ref)]):
                    commit = self._repository.git.resolve(kind + found)
                    tip = tip_of(self._repository, found, commit)
                    return _Model(tip.normal.base, tip.normal.terms, tip, tip.state.vectors)
            if model := self._vector(name, lambda vector, _: matches(vector)):  # noqa: B023 -- called at once
                return model
        if model := self._vector(name, lambda _, record: _is_source(name, record)):
            return model
        vectors = {vector for state in self._states for vector in state.vectors}
        known = sorted({*vectors, *(ref for refs in self._refs.values() for ref in refs)})
        raise NoSuchModel(
            f"no branch, tag or vector here is the model {printable(name)!r}",
            hint=nearest(name, known) or "commit it first, or name a branch in the file instead",
        )

    def _vector(self, name: str, matches: Callable[[str, VectorRecord], bool]) -> _Model | None:
        for state in self._states:
            fitting = [v for v, record in state.vectors.items() if matches(v, record)]
            if found := _only(name, fitting):
                return _model_of(state, found)
        return None

    def find_base(self, name: str) -> _Model:
        """Return the base model of a name: a base here, or a model.

        Raises:
            NoSuchModel: There is none.
        """
        bases = {name: base for state in self._states[::-1] for name, base in state.bases.items()}
        plain, _, revision = name.partition("@")
        for matches in (_is_exactly(plain), _ends_alike(plain)):
            for known, record in bases.items():
                said = not revision or revision == record.revision
                if said and (matches(known) or matches(record.source)):
                    return _Model(record.snapshot, (), None, {})
        return self.find(name)


def _is_exactly(name: str) -> Callable[[str], bool]:
    return lambda known: known.rstrip("/") == name.rstrip("/")


def _ends_alike(name: str) -> Callable[[str], bool]:
    return lambda known: _last(known) == _last(name)


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()


def _is_source(name: str, record: VectorRecord) -> bool:
    return _last(str(record.provenance.get("source", ""))) == _last(name)


def _only(name: str, candidates: Sequence[str]) -> str | None:
    if len(candidates) > 1:
        shown = " or ".join(printable(each) for each in candidates[:3])
        raise NoSuchModel(f"model {printable(name)!r} could be {shown}", hint="name it in full")
    return candidates[0] if candidates else None


def _model_of(state: State, vector: str) -> _Model:
    """Return a vector's model: what it was trained from, and the vector."""
    record = state.vectors[vector]
    own = (Term(Fraction(1), VectorName(record.id)),)
    terms = add(record.parent.terms, own)
    return _Model(record.parent.base, terms, None, state.library().closure([vector]))


def prepare_mergekit(
    repository: Repository,
    position: Position,
    file: MergekitFile,
    store: Store,
    *,
    seed: int = 0,
    favour: Side | None = None,
) -> Prepared:
    """Work out the merge that a configuration says; nothing is changed.

    Args:
        repository: The repository.
        position: Where it stands.
        file: The configuration.
        store: Where lists of tensors and files are read from.
        seed: Of random methods.
        favour: Whose side to take where carried files conflict.

    Raises:
        NoSuchModel: It names a model that is not here.
        Unsaid: It says something that a recipe cannot, or leaves out what HEAD has.
        ConflictError: Its models stand on several bases.
    """
    models = _Models(repository, position)
    base = None if file.base_model is None else models.find_base(file.base_model)
    found = {
        name: base if base is not None and name == file.base_model else models.find(name)
        for name in file.models
    }
    root = models.ours.normal.base
    _check_base(root, found)
    terms = {name: model.terms for name, model in found.items()}
    below = base.terms if base else None
    merged = merged_terms(file, base=below, models=terms, seed=seed)
    ours = models.ours
    if ours.normal.terms not in [below or (), *terms.values()]:
        raise Unsaid(
            f"{printable(ours.name)} has changes that the file leaves out",
            hint=f"name {printable(ours.name)} among the models, or `tvc switch` to the base first",
        )
    tips = [model.tip for model in found.values() if model.tip]
    theirs = tuple(tip for tip in tips if not is_ancestor(repository, tip.commit, ours.commit))
    state = joined_vectors(ours, theirs)
    for model in found.values():
        state = adopt(state, dict(model.vectors))
    _check_dtypes(file, Objects(store, state), root)
    choices = {path: owner for tip in (ours, *theirs) for path, owner in tip.normal.files}
    recipe = Recipe(root, merged, tuple(sorted(choices.items())))
    members = tuple(
        (name, difference(sum_, below or ()))
        for name, sum_ in terms.items()
        if name != file.base_model
    )
    prepared = Prepared(
        with_normal(state, recipe), ours, theirs, Recipe(root, below or ()), members=members
    )
    return settle_files(prepared, store, favour)


def _check_base(root: str, found: Mapping[str, _Model]) -> None:
    for name, model in found.items():
        if model.base != root:
            raise ConflictError(
                f"model {printable(name)} stands on another base than HEAD",
                hint="put it on this one first: tvc rebase --onto BASE",
            )


def _check_dtypes(file: MergekitFile, objects: Objects, root: str) -> None:
    """Refuse a cast: the result has the base's types, and is computed in at least float32."""
    tensors = objects.library.snapshot(root).tensors.values()
    types = {ref.spec.dtype for ref in tensors if ref.spec.dtype in FLOATING}
    written = file.out_dtype or file.dtype
    if written is not None and types != {written}:
        raise Unsaid(
            f"the file asks for {written}, the base model is {' and '.join(sorted(types))}",
            hint="take dtype and out_dtype out; `tvc checkout --dtype` casts",
        )
    computed = file.dtype
    if computed is not None and computed not in (written, _WIDER.get(str(written))):
        raise Unsaid(
            f"dtype: {computed} is not what tvc computes in",
            hint="take dtype out: tvc computes in float32 at least, and rounds once",
        )
