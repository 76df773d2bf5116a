"""`tvc commit DIR`: a fine-tune becomes a vector, and HEAD's recipe gains it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from tvc.domain.errors import StateError
from tvc.domain.names import check_name, printable
from tvc.domain.recipe import (
    Sum,
    Term,
    VectorName,
    fold,
    format_recipe,
    recipe_id,
    vector_names,
)
from tvc.domain.vector import Scalar, VectorRecord
from tvc.models.directory import ModelDirectory
from tvc.recording.finetune import Recorded, record_finetune
from tvc.recording.matching import Allowances
from tvc.recording.trained import Training, read_training
from tvc.repository.objects import Objects, open_objects
from tvc.repository.repository import Change, Repository
from tvc.repository.state import State

__all__ = ["Committed", "NameTaken", "OtherOrigin", "commit_finetune", "free_name", "with_vector"]


class NameTaken(StateError):
    """A vector of that name is there already, and is another one."""


class OtherOrigin(StateError):
    """A fine-tune was trained from something else than what it would be recorded against."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that was made of a fine-tune.

    Args:
        commit: Full hash.
        name: The vector's name.
        recorded: What was seen.
    """

    commit: str
    name: str
    recorded: Recorded


def commit_finetune(
    change: Change,
    model: ModelDirectory,
    *,
    name: str,
    message: str,
    allowed: Allowances,
    origin: str | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Committed:
    """Record what a folder changed against HEAD, and commit HEAD's recipe with it added.

    Args:
        change: The repository, locked, without edits.
        model: The fine-tune's folder.
        name: What the vector will be called.
        message: The commit's message.
        allowed: Mismatches that are no errors.
        origin: The revision whose model it was trained from; HEAD where None.
        on_bytes: Called with the size of every tensor done.

    Raises:
        NameTaken: Another vector has that name.
        OtherOrigin: The folder's own record says that it was trained from something else.
        Mismatch: The fine-tune does not fit.
        NothingChanged: It is what HEAD gives.
    """
    change.require_clean()
    check_name(name)
    repository = change.repository
    state = repository.state_at(change.before.commit)
    free_name(state, name)
    before = state if origin is None else _origin(repository, state, origin)
    training = read_training(model)
    _check_origin(model, training, before, origin or "HEAD")
    with open_objects(repository.layout) as store:
        recorded = record_finetune(
            Objects(store, before),
            before.normal,
            model,
            allowed=allowed,
            provenance=_provenance(repository, before, model, training),
            training=training,
            on_bytes=on_bytes,
        )
        known = replace(before, recipe=state.recipe)
        commit = change.commit(with_vector(known, name, recorded.record), message)
    return Committed(commit, name, recorded)


def _provenance(
    repository: Repository, before: State, model: ModelDirectory, training: Training | None
) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {
        "trained_from": format_recipe(before.recipe),
        "recorded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if training is None:
        return {"source": os.path.relpath(model.root, repository.layout.root), **found}
    # Its folder is a passing one; of what is known here it has no say.
    return {**found, **training.provenance, **found}


def _check_origin(
    model: ModelDirectory, training: Training | None, before: State, revision: str
) -> None:
    """Check that a folder was trained from what it will be recorded against, if it says from what.

    Raises:
        OtherOrigin: It was not.
    """
    if training and training.recipe != recipe_id(before.normal):
        raise OtherOrigin(
            f"{model.root.name} was not trained from what {printable(revision)} gives: its own "
            f"record says recipe {training.recipe[:12]}…",
            hint="say which revision it was trained from: --from REV",
        )


def _origin(repository: Repository, head: State, revision: str) -> State:
    """Return another revision's recipe, with the vectors and bases of HEAD besides its own.

    Raises:
        NameTaken: One name stands for different vectors there and here.
        OtherOrigin: It is over another base.
    """
    there = repository.state_at(revision)
    if there.normal.base != head.normal.base:
        raise OtherOrigin(
            f"{printable(revision)} is over another base than HEAD",
            hint="switch to it, and commit there",
        )
    needed = there.library().closure(vector_names(there.recipe.terms))
    for name, record in needed.items():
        if name in head.vectors and head.vectors[name].id != record.id:
            raise NameTaken(f"{name!r} is another vector in {printable(revision)} than here")
    return State(
        replace(there.recipe, base=head.recipe.base),
        head.bases,
        {**needed, **head.vectors},
    )


def free_name(state: State, name: str) -> None:
    """Check that a name may be given to a new vector.

    Raises:
        NameTaken: A vector or a base has it, perhaps in other case.
    """
    taken = next(
        (n for n in (*state.vectors, *state.bases) if n.casefold() == name.casefold()), None
    )
    if taken is not None:
        raise NameTaken(f"{taken!r} is the name of something else here", hint="choose another name")


def with_vector(state: State, name: str, record: VectorRecord) -> State:
    """Return a state whose recipe has one more vector, at coefficient 1."""
    terms: Sum = fold((*state.recipe.terms, Term(Fraction(1), VectorName(name))))
    return replace(
        state,
        recipe=replace(state.recipe, terms=terms),
        vectors={**state.vectors, name: record},
    )
