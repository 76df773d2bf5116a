"""`tvc commit DIR`: a fine-tune becomes a vector, and HEAD's recipe gains it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from tvc.domain.errors import StateError
from tvc.domain.names import check_name
from tvc.domain.recipe import Sum, Term, VectorName, fold, format_recipe
from tvc.domain.vector import Scalar, VectorRecord
from tvc.models.directory import ModelDirectory
from tvc.recording.finetune import Recorded, record_finetune
from tvc.recording.matching import Allowances
from tvc.repository.objects import Objects, open_objects
from tvc.repository.repository import Change
from tvc.repository.state import State

__all__ = ["Committed", "NameTaken", "commit_finetune", "free_name", "with_vector"]


class NameTaken(StateError):
    """A vector of that name is there already, and is another one."""


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
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Committed:
    """Record what a folder changed against HEAD, and commit HEAD's recipe with it added.

    Args:
        change: The repository, locked, without edits.
        model: The fine-tune's folder.
        name: What the vector will be called.
        message: The commit's message.
        allowed: Mismatches that are no errors.
        on_bytes: Called with the size of every tensor done.

    Raises:
        NameTaken: Another vector has that name.
        Mismatch: The fine-tune does not fit.
        NothingChanged: It is what HEAD gives.
    """
    change.require_clean()
    check_name(name)
    repository = change.repository
    state = repository.state_at(change.before.commit)
    free_name(state, name)
    provenance: dict[str, Scalar] = {
        "source": os.path.relpath(model.root, repository.layout.root),
        "trained_from": format_recipe(state.recipe),
        "recorded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with open_objects(repository.layout) as store:
        recorded = record_finetune(
            Objects(store, state),
            state.normal,
            model,
            allowed=allowed,
            provenance=provenance,
            on_bytes=on_bytes,
        )
        added = with_vector(state, name, recorded.record)
        commit = change.commit(added, message)
    return Committed(commit, name, recorded)


def free_name(state: State, name: str) -> None:
    """Check that a name may be given to a new vector.

    Raises:
        NameTaken: A vector or a base has it, perhaps in other case.
    """
    taken = next(
        (n for n in (*state.vectors, *state.bases) if n.casefold() == name.casefold()), None
    )
    if taken is not None:
        raise NameTaken(f"{taken!r} is the name of something else here", hint="choose a --name")


def with_vector(state: State, name: str, record: VectorRecord) -> State:
    """Return a state whose recipe has one more vector, at coefficient 1."""
    terms: Sum = fold((*state.recipe.terms, Term(Fraction(1), VectorName(name))))
    return replace(
        state,
        recipe=replace(state.recipe, terms=terms),
        vectors={**state.vectors, name: record},
    )
