"""Merging recipes term by term, as git merges lines: `a + (o - a) + (t - a)` where that is clear.

A term that only one side changed is changed; one that both changed alike is changed once; one that
both changed differently is a conflict, which a person resolves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tvc.domain.recipe import Atom, Sum, Term, canonical_text

__all__ = ["Conflict", "Side", "merge_choices", "merge_terms"]

Side = Literal["ours", "theirs"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A term that two sides changed differently.

    Args:
        atom: What the coefficients multiply.
        base: Coefficient in the merge base.
        ours: Coefficient on our side; 0 where we removed it.
        theirs: Coefficient on their side.
    """

    atom: Atom
    base: Fraction
    ours: Fraction
    theirs: Fraction

    def terms(self, side: Side) -> Sum:
        """Return the term as one side has it; empty where that side removed it."""
        coefficient = self.ours if side == "ours" else self.theirs
        return (Term(coefficient, self.atom),) if coefficient else ()


def merge_terms(
    base: Sum, ours: Sum, theirs: Sum, *, favour: Side | None = None
) -> tuple[Sum, list[Conflict]]:
    """Merge three sums in normal form.

    Args:
        base: The merge base's.
        ours: Ours.
        theirs: Theirs.
        favour: Whose coefficient to take where both changed one differently.

    Returns:
        The terms that are clear, in normal form, and the conflicts, none where `favour` is given.
    """
    before, mine, other = _coefficients(base), _coefficients(ours), _coefficients(theirs)
    merged: list[Term] = []
    conflicts: list[Conflict] = []
    for atom in sorted({*before, *mine, *other}, key=canonical_text):
        a, o, t = (side.get(atom, Fraction(0)) for side in (before, mine, other))
        clear = t if o == a else o if t in (a, o) else None
        if clear is None and favour is not None:
            clear = o if favour == "ours" else t
        if clear is None:
            conflicts.append(Conflict(atom, a, o, t))
        elif clear:
            merged.append(Term(clear, atom))
    return tuple(merged), conflicts


def merge_choices(
    base: Mapping[str, str],
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    *,
    favour: Side | None = None,
) -> tuple[dict[str, str], dict[str, tuple[str | None, str | None]]]:
    """Merge tables of path → choice the same way.

    Returns:
        The clear choices, and path → (ours, theirs) of those that conflict.
    """
    merged: dict[str, str] = {}
    conflicts: dict[str, tuple[str | None, str | None]] = {}
    for path in sorted({*base, *ours, *theirs}):
        a, o, t = base.get(path), ours.get(path), theirs.get(path)
        clear = o == a or t in (a, o)
        value = (t if o == a else o) if clear else (o if favour == "ours" else t)
        if not clear and favour is None:
            conflicts[path] = (o, t)
        elif value is not None:
            merged[path] = value
    return merged, conflicts


def _coefficients(terms: Sum) -> dict[Atom, Fraction]:
    return {term.atom: term.coefficient for term in terms}
