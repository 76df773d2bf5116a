"""What changed between two recipes, term by term, in words that a person reads.

Works on recipes in normal form whose ids were replaced by names; coefficients, not weights.
"""

from dataclasses import dataclass
from fractions import Fraction

from tvc.domain.recipe import Atom, Recipe, Term, canonical_text, format_number, format_term

__all__ = ["TermChange", "describe_changes", "term_changes"]


@dataclass(frozen=True, slots=True)
class TermChange:
    """A term whose coefficient changed; 0 where it is not there.

    Args:
        atom: What is multiplied.
        before: Coefficient before.
        after: Coefficient after.
    """

    atom: Atom
    before: Fraction
    after: Fraction

    def __str__(self) -> str:
        shown = canonical_text(self.atom)
        if not self.before:
            return f"added {format_term(Term(self.after, self.atom))}"
        if not self.after:
            return f"removed {format_term(Term(self.before, self.atom))}"
        return f"{shown}: {format_number(self.before)} → {format_number(self.after)}"


def term_changes(before: Recipe, after: Recipe) -> list[TermChange]:
    """Return the terms whose coefficients differ, in canonical order."""
    old = {term.atom: term.coefficient for term in before.terms}
    new = {term.atom: term.coefficient for term in after.terms}
    zero = Fraction(0)
    return [
        TermChange(atom, old.get(atom, zero), new.get(atom, zero))
        for atom in sorted({*old, *new}, key=canonical_text)
        if old.get(atom) != new.get(atom)
    ]


def describe_changes(before: Recipe, after: Recipe) -> list[str]:
    """Return one line for everything that differs: base, terms, choices of files."""
    lines = [f"base: {before.base} → {after.base}"] if before.base != after.base else []
    lines += [str(change) for change in term_changes(before, after)]
    old, new = dict(before.files), dict(after.files)
    for path in sorted({*old, *new}):
        if old.get(path) != new.get(path):
            was, now = (choices.get(path, "not chosen") for choices in (old, new))
            lines.append(f"{path}: {was} → {now}")
    return lines
