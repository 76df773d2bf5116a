"""Revert, cherry-pick and rebase: the algebra of one commit's change, over the current recipe.

    revert c        HEAD - (c - c^)
    cherry-pick c   HEAD + (c - c^)
    rebase --onto   the same sum over another base

Exact: coefficients are fractions, so a revert gives the identical recipe and so identical bytes.
"""

from dataclasses import dataclass, replace

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import Recipe, Sum, add, difference, normalize, vector_names
from tvc.domain.threeway import merge_choices
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import adopt

__all__ = ["Replayed", "cherry_picked", "commit_change", "rebased", "reverted", "with_normal"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One commit and the parent that it is compared with.

    Args:
        commit: Full hash.
        subject: First line of its message.
        after: What it says.
        before: What its parent says.
    """

    commit: str
    subject: str
    after: State
    before: State


def commit_change(repository: Repository, revision: str, *, mainline: int | None) -> Replayed:
    """Read a commit and its parent.

    Args:
        repository: The repository.
        revision: Names the commit.
        mainline: For a merge: number of the parent that it is compared with, from 1.

    Raises:
        InputError: It is the first commit, or a merge and no parent was said.
    """
    git = repository.git
    commit = git.resolve(revision)
    _, *parents = git.text("rev-list", "--parents", "-n", "1", commit).split()
    shown = printable(revision)
    if not parents:
        raise InputError(f"{shown} is the first commit: it has no parent to compare it with")
    if len(parents) > 1 and mainline is None:
        raise InputError(
            f"{shown} is a merge of {len(parents)} commits",
            hint="say which parent it is compared with: --mainline 1 is the branch merged into",
        )
    if not 1 <= (mainline or 1) <= len(parents):
        raise InputError(f"{shown} has {len(parents)} parents, not {mainline}")
    parent = parents[(mainline or 1) - 1]
    subject = git.text("log", "-1", "--format=%s", commit)
    return Replayed(commit, subject, repository.state_at(commit), repository.state_at(parent))


def reverted(head: State, replayed: Replayed) -> State:
    """Return HEAD without what a commit changed."""
    return _moved(head, replayed.after, replayed.before)


def cherry_picked(head: State, replayed: Replayed) -> State:
    """Return HEAD with what a commit changed, and the vectors that it needs."""
    return _moved(head, replayed.before, replayed.after)


def _moved(head: State, origin: State, goal: State) -> State:
    """Return `head + (goal - origin)`."""
    now, start, end = head.normal, origin.normal, goal.normal
    state = _with_vectors_of(head, goal, difference(end.terms, start.terms))
    base = now.base
    if start.base != end.base:
        if now.base != start.base:
            raise InputError("the commit changed the base model, and HEAD stands on another one")
        base = end.base
        state = replace(state, bases={**goal.bases, **state.bases})
    files, _ = merge_choices(dict(start.files), dict(now.files), dict(end.files), favour="theirs")
    terms = add(now.terms, difference(end.terms, start.terms))
    return with_normal(state, Recipe(base, terms, tuple(sorted(files.items()))))


def _with_vectors_of(head: State, goal: State, terms: Sum) -> State:
    """Return `head` with those vectors of `goal` that the terms name, and what they stand on."""
    library = goal.library()
    names = {str(record.id): name for name, record in goal.vectors.items()}
    wanted = [names[vector] for vector in vector_names(terms) if vector in names]
    mine = {record.id for record in head.vectors.values()}
    missing = [name for name in wanted if goal.vectors[name].id not in mine]
    return adopt(head, library.closure(missing))


def with_normal(state: State, recipe: Recipe) -> State:
    """Return a state with a recipe given by ids, written by names."""
    ids = {vector: vector for vector in vector_names(recipe.terms)}
    folded = normalize(recipe, base=recipe.base, vectors=ids)
    return state.with_recipe(state.library().display(folded))


def rebased(head: State, base: str) -> State:
    """Return HEAD's sum over another base.

    Args:
        head: Has that base among its bases.
        base: Its name.

    Raises:
        UnknownVector: There is no base of that name.
        InputError: HEAD stands on it already.
    """
    wanted = head.library().base(base)
    if wanted.snapshot == head.normal.base:
        raise InputError(f"the recipe stands on {base} already")
    return head.with_recipe(replace(head.recipe, base=base))
