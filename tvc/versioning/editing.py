"""Edits of the recipe in the working tree: add, negate, scale and remove terms.

Pure functions of states; that the result is written and logged is the business of who calls them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from tvc.domain.documents import UnresolvedConflict
from tvc.domain.errors import InputError, StateError
from tvc.domain.grammar import parse_sum
from tvc.domain.library import UnknownVector
from tvc.domain.names import nearest, printable
from tvc.domain.recipe import (
    Atom,
    Group,
    Member,
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
    "readable_state",
    "remove_term",
    "scale_term",
]


class NoSuchTerm(InputError):
    """The recipe has no such term."""


class AmbiguousVector(StateError):
    """Two branches have different vectors of one name."""


def readable_state(repository: Repository) -> State:
    """Return what the working tree says, or HEAD while a merge's conflicts are not resolved."""
    try:
        return repository.working_state()
    except UnresolvedConflict:
        return repository.state_at("HEAD")


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
    states = {sha: repository.state_at(sha) for sha in sorted(set(position.refs.values()))}
    others = {name: states[sha] for name, sha in sorted(position.refs.items())}
    for name in wanted:
        found = {ref: other for ref, other in others.items() if name in other.vectors}
        ids = {other.vectors[name].id for other in found.values()}
        if len(ids) > 1:
            refs = ", ".join(ref.split("/", 2)[2] for ref in found)
            raise AmbiguousVector(
                f"vector {name!r} is not the same on {refs}", hint="rename it on one of them"
            )
        if not found:
            known = {vector for each in (state, *others.values()) for vector in each.vectors}
            raise UnknownVector(
                f"no branch has a vector {printable(name)!r}",
                hint=nearest(name, known) or "`tvc vectors` lists what there is",
            )
        state = adopt(state, next(iter(found.values())).library().closure([name]))
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
    """Return a state in which a term, or a member of a merge, has another coefficient.

    Args:
        state: Its recipe has the term.
        text: A vector's name, or a merge as it stands in the recipe.
        coefficient: Not zero. For a member of a merge this is its weight.

    Raises:
        NoSuchTerm: The recipe has no such term, or the vector is in several merges.
        InputError: The coefficient is zero.
    """
    if not coefficient:
        raise InputError("a coefficient of 0 removes the term", hint=f"tvc remove {text}")
    atom = _named_atom(state.recipe, text)
    return _with_terms(state, _replaced(state.recipe.terms, atom, coefficient))


def remove_term(state: State, text: str) -> State:
    """Return a state without a term, or without a member of a merge.

    Raises:
        NoSuchTerm: The recipe has no such term, or the vector is in several merges.
    """
    atom = _named_atom(state.recipe, text)
    return _with_terms(state, _replaced(state.recipe.terms, atom, Fraction(0)))


def _replaced(terms: Sum, atom: Atom, coefficient: Fraction) -> Sum:
    """Return a sum in which an atom has another coefficient, at the top or as a merge's member."""
    if any(term.atom == atom for term in terms):
        changed = (Term(coefficient, t.atom) if t.atom == atom else t for t in terms)
        return tuple(term for term in changed if term.coefficient)
    found: list[Term] = []
    for term in terms:
        if isinstance(term.atom, Group):
            members = [_replaced_member(member, atom, coefficient) for member in term.atom.members]
            kept = tuple(member for member in members if member is not None)
            if kept:
                found.append(Term(term.coefficient, replace(term.atom, members=kept)))
        else:
            found.append(term)
    return tuple(found)


def _replaced_member(member: Member, atom: Atom, coefficient: Fraction) -> Member | None:
    if [term.atom for term in member.terms] == [atom]:
        alone = Term(Fraction(1), atom)
        return Member(coefficient, (alone,)) if coefficient else None
    terms = _replaced(member.terms, atom, coefficient)
    return Member(member.weight, terms) if terms else None


def _with_terms(state: State, terms: Sum) -> State:
    changed = state.with_recipe(replace(state.recipe, terms=fold(terms)))
    kept = set(vector_names(changed.recipe.terms))
    files = tuple((p, owner) for p, owner in changed.recipe.files if owner in kept | {*state.bases})
    return changed.with_recipe(replace(changed.recipe, files=files))


def _named_atom(recipe: Recipe, text: str) -> Atom:
    """Return what a text names, a vector or a merge, once it is known to be there exactly once."""
    atoms = [term.atom for term in parse_sum(text)]
    if len(atoms) == 1:
        count = sum(1 for term in recipe.terms if term.atom == atoms[0])
        count = count or sum(1 for atom in _inner_atoms(recipe.terms) if atom == atoms[0])
        if count == 1:
            return atoms[0]
        if count > 1:
            raise NoSuchTerm(
                f"{printable(text)} is in the recipe {count} times", hint="edit recipe.toml"
            )
    known = [canonical_text(term.atom) for term in recipe.terms]
    raise NoSuchTerm(
        f"the recipe has no term {printable(text)!r}",
        hint=nearest(text, [*known, *vector_names(recipe.terms)])
        or f"the recipe is: {format_recipe(recipe)}",
    )


def _inner_atoms(terms: Sum) -> Iterator[Atom]:
    """Yield the atoms inside the merges of a sum."""
    for term in terms:
        if isinstance(term.atom, Group):
            for member in term.atom.members:
                yield from (inner.atom for inner in member.terms)
                yield from _inner_atoms(member.terms)
