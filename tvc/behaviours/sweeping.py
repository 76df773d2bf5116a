"""A term's coefficient over a range, measured at every step; nothing in the repository changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tvc.behaviours.results import Measured
from tvc.behaviours.subjects import Subject
from tvc.domain.errors import InputError
from tvc.domain.grammar import parse_number, parse_sum
from tvc.domain.names import printable
from tvc.domain.recipe import format_number, vector_names
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import (
    add_term,
    find_vectors,
    remove_term,
    scale_term,
)

__all__ = ["Point", "parse_range", "sweep", "with_term"]

_MAX_POINTS: Final = 200


@dataclass(frozen=True, slots=True)
class Point:
    """What a recipe does with one coefficient.

    Args:
        coefficient: Of the term; 0 is the recipe without it.
        measured: What was measured.
    """

    coefficient: Fraction
    measured: Measured


def parse_range(text: str) -> list[Fraction]:
    """Return the numbers of `FIRST:LAST:STEP`, such as 0:1.5:0.25, both ends included, exactly.

    Raises:
        InputError: It is something else, or too many numbers.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise InputError(f"{printable(text)!r} is not FIRST:LAST:STEP", hint="write 0:1.5:0.25")
    first, last, step = map(parse_number, parts)
    if step <= 0 or last < first:
        raise InputError(f"{printable(text)!r} goes nowhere", hint="write 0:1.5:0.25")
    count = (last - first) // step + 1
    if count > _MAX_POINTS:
        raise InputError(f"{printable(text)!r} are {count} points; {_MAX_POINTS} are allowed")
    return [first + n * step for n in range(count)]


def with_term(repository: Repository, term: str) -> State:
    """Return the working tree's state, with a term added where its recipe lacks it.

    Raises:
        UnknownVector: No branch has a vector of that name.
        AmbiguousVector: Branches disagree on what a name stands for.
    """
    state, terms = repository.working_state(), parse_sum(term)
    if {*vector_names(terms)} & {*vector_names(state.recipe.terms)}:
        return state
    return add_term(find_vectors(repository, state, vector_names(terms)), terms, scale=Fraction(1))


def sweep(
    state: State,
    term: str,
    coefficients: Sequence[Fraction],
    evaluate: Callable[[Subject], Measured],
) -> list[Point]:
    """Return what a recipe does with each coefficient of a term.

    Args:
        state: Its recipe has the term.
        term: A vector's name, or a merge as it stands in the recipe.
        coefficients: Which.
        evaluate: Measures.

    Raises:
        NoSuchTerm: The recipe has no such term.
    """
    subjects = [
        Subject(
            f"{format_number(number)} * {printable(term, limit=40)}",
            scale_term(state, term, number) if number else remove_term(state, term),
        )
        for number in coefficients
    ]
    found = map(evaluate, subjects)
    return [Point(number, each) for number, each in zip(coefficients, found, strict=True)]
