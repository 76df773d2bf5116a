"""A merge that waits for a person: its conflicts in recipe.toml, and its record in .tvc.

How conflicts are found is in `tvc.versioning.merging`.
"""

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from tvc.domain.documents import format_conflicted_recipe
from tvc.domain.errors import ConflictError, StateError
from tvc.domain.names import printable
from tvc.domain.recipe import Recipe, Sum, Term, canonical_text, format_number
from tvc.repository.layout import RECIPE
from tvc.repository.repository import Change

if TYPE_CHECKING:  # it knows the methods, and so torch, which finishing a merge does not need
    from tvc.versioning.merging import Prepared

__all__ = ["Merging", "describe_conflicts", "merging_of", "parse_merging", "stop_for_conflicts"]

_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Merging:
    """A merge that waits for `tvc commit`, as kept in .tvc.

    Args:
        parents: Hashes of the merge commit's further parents.
        message: Its message.
        by_hand: Whether a person resolves conflicts, who may choose to change nothing.
    """

    parents: tuple[str, ...]
    message: str
    by_hand: bool


def parse_merging(text: str) -> Merging:
    """Read what `merging_of` wrote.

    Raises:
        StateError: It is not that.
    """
    try:
        body: dict[str, Any] = json.loads(text)
        parents, message, by_hand = body["parents"], body["message"], body["by_hand"]
        sound = isinstance(message, str) and isinstance(by_hand, bool)
        if sound and all(_HASH.fullmatch(parent) for parent in parents):
            return Merging(tuple(parents), message, by_hand)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StateError("the record of the merge under way is damaged", hint="tvc merge --abort")


def merging_of(prepared: "Prepared", message: str) -> str:
    """Return the state of a merge that waits for `tvc commit`, as text."""
    body = {
        "parents": [tip.commit for tip in prepared.theirs],
        "message": message,
        "by_hand": not prepared.is_clear,
    }
    return json.dumps(body)


def stop_for_conflicts(change: Change, prepared: "Prepared", message: str) -> ConflictError:
    """Write the conflicts into recipe.toml and return the error that says so.

    Args:
        change: The repository, locked.
        prepared: A merge that is not clear.
        message: The message that the merge commit will have.
    """
    shown = [
        (_named(prepared, each.terms("ours")), _named(prepared, each.terms("theirs")))
        for each in prepared.conflicts
    ]
    documents = prepared.state.documents()
    theirs = " ".join(tip.name for tip in prepared.theirs)
    documents[RECIPE] = format_conflicted_recipe(
        prepared.state.recipe,
        shown,
        dict(prepared.file_conflicts),
        ours=printable(prepared.ours.name),
        theirs=printable(theirs),
    )
    change.edit_documents(documents, merging=merging_of(prepared, message))
    count = len(prepared.conflicts) + len(prepared.file_conflicts)
    return ConflictError(
        f"{count} conflict{'s' if count > 1 else ''} in recipe.toml",
        hint="edit it and `tvc commit`, or `tvc merge --abort`; --ours or --theirs takes one side",
    )


def describe_conflicts(prepared: "Prepared") -> list[str]:
    """Return one line for everything that two sides changed differently."""
    lines: list[str] = []
    for conflict in prepared.conflicts:
        (term,) = _named(prepared, (Term(Fraction(1), conflict.atom),))
        was, mine, other = (
            format_number(each) if each else "absent"
            for each in (conflict.base, conflict.ours, conflict.theirs)
        )
        shown = canonical_text(term.atom)
        lines.append(f"conflict: {shown} was {was}, is {mine} here and {other} there")
    for path, owners in prepared.file_conflicts.items():
        mine, other = (owner or "nobody" for owner in owners)
        lines.append(f"conflict: {printable(path)} is that of {mine} here and of {other} there")
    return lines


def _named(prepared: "Prepared", terms: Sum) -> Sum:
    recipe = Recipe(prepared.ours.normal.base, terms)
    return prepared.state.library().display(recipe).terms
