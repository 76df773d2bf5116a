"""Edits of the recipe in the working tree: add, negate, scale and remove terms.

Pure functions of states; that the result is written and logged is the business of who calls them.
"""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from tvc.domain.errors import InputError, StateError
from tvc.domain.grammar import parse_sum
from tvc.domain.names import nearest, printable
from tvc.domain.recipe import (
    Recipe,
    Sum,
    Term,
    canonical_text,
    fold,
    format_recipe,
    vector_names,
)
from tvc.domain.recipe import add as add_sums
from tvc.domain.vector import VectorRecord
from tvc.repository.repository import Repository
from tvc.repository.state import State

__all__ = [
    "AmbiguousVector",
    "NoSuchTerm",
    "add_term",
    "adopt",
    "find_vectors",
    "remove_term",
    "scale_term",
]


class NoSuchTerm(InputError):
    """The recipe has no such term."""


class AmbiguousVector(StateError):
    """Two branches have different vectors of one name."""


def find_vectors(repository: Repository, state: State, names: Iterable[str]) -> State:
    """Return a state that has the named vectors, taken from other branches where it lacks them.

    Raises:
        AmbiguousVector: Branches disagree on what a name stands for.
        UnknownVector: No branch has a vector of that name.
    """
    wanted = [name for name in dict.fromkeys(names) if name not in state.vectors]
    if not wanted:
        return state
    position = repository.position()
    others = {name: repository.state_at(sha) for name, sha in sorted(position.refs.items())}
    for name in wanted:
        found = {ref: other for ref, other in others.items() if name in other.vectors}
        ids = {other.vectors[name].id for other in found.values()}
        if len(ids) > 1:
            refs = ", ".join(ref.split("/", 2)[2] for ref in found)
            raise AmbiguousVector(
                f"vector {name!r} is not the same on {refs}", hint="rename it on one of them"
            )
        if found:
            state = adopt(state, next(iter(found.values())).library().closure([name]))
    state.library().require(wanted)
    return state


def adopt(state: State, vectors: dict[str, VectorRecord]) -> State:
    """Return a state with more vectors.

    Raises:
        AmbiguousVector: A name stands for another vector here.
    """
    for name, record in vectors.items():
        mine = state.vectors.get(name)
        if mine is not None and mine.id != record.id:
            raise AmbiguousVector(
                f"vector {printable(name)!r} is another one on the other side",
                hint="rename one of the two: git mv vectors/OLD.toml vectors/NEW.toml",
            )
    return replace(state, vectors={**vectors, **state.vectors})


def add_term(state: State, terms: Sum, *, scale: Fraction) -> State:
    """Return a state whose recipe has `scale` times `terms` more.

    Args:
        state: Has the vectors of the terms.
        terms: By names.
        scale: Not zero.

    Raises:
        InputError: The scale is zero.
    """
    if not scale:
        raise InputError("a term with the coefficient 0 adds nothing")
    return _with_terms(state, add_sums(state.recipe.terms, terms, scale=scale))


def scale_term(state: State, text: str, coefficient: Fraction) -> State:
    """Return a state in which a term has another coefficient.

    Raises:
        NoSuchTerm: The recipe has no such term.
        InputError: The coefficient is zero.
    """
    if not coefficient:
        raise InputError("a coefficient of 0 removes the term", hint=f"tvc remove {text}")
    wanted = _find(state.recipe, text)
    terms = tuple(
        Term(coefficient, term.atom) if term == wanted else term for term in state.recipe.terms
    )
    return _with_terms(state, terms)


def remove_term(state: State, text: str) -> State:
    """Return a state without a term.

    Raises:
        NoSuchTerm: The recipe has no such term.
    """
    wanted = _find(state.recipe, text)
    return _with_terms(state, tuple(term for term in state.recipe.terms if term != wanted))


def _with_terms(state: State, terms: Sum) -> State:
    changed = state.with_recipe(replace(state.recipe, terms=fold(terms)))
    kept = {record for record in vector_names(changed.recipe.terms)}
    files = tuple((p, owner) for p, owner in changed.recipe.files if owner in kept | {*state.bases})
    return changed.with_recipe(replace(changed.recipe, files=files))


def _find(recipe: Recipe, text: str) -> Term:
    """Return the term of a recipe that a text names: a vector, or a merge as it stands there."""
    atoms = [term.atom for term in parse_sum(text)]
    for term in recipe.terms:
        if [term.atom] == atoms:
            return term
    known = [canonical_text(term.atom) for term in recipe.terms]
    raise NoSuchTerm(
        f"the recipe has no term {printable(text)!r}",
        hint=nearest(text, known) or f"the recipe is: {format_recipe(recipe)}",
    )
