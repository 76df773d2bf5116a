"""Measures and prints how much vectors are in each other's way."""

from collections.abc import Sequence
from itertools import combinations

from tvc.cli.progress import progress_of
from tvc.cli.session import Session
from tvc.domain.names import printable
from tvc.domain.recipe import Sum
from tvc.merging.interference import Interference
from tvc.repository.objects import Objects
from tvc.versioning.interference import Clashes, measure_interference

__all__ = ["LARGE", "interference_facts", "interference_of", "say_clashes", "say_interference"]

LARGE = 0.2
"""Share of a tensor's entries, by magnitude, that the reports call large."""


def interference_of(
    session: Session, objects: Objects, base: str, differences: Sequence[tuple[str, Sum]]
) -> Clashes | None:
    """Measure how much differences are in each other's way; None where there are no two."""
    if len(differences) < 2:
        return None
    with progress_of(session, "comparing") as on_plan:
        return measure_interference(objects, base, differences, density=LARGE, on_plan=on_plan)


def say_interference(
    session: Session, objects: Objects, base: str, differences: Sequence[tuple[str, Sum]]
) -> None:
    """Measure and print how much differences are in each other's way."""
    clashes = interference_of(session, objects, base, differences)
    if clashes is not None:
        say_clashes(session, clashes)
    elif len(differences) < 2:
        session.say("interference: one side alone changed something")
    else:
        session.say("interference: no weights are changed")


def say_clashes(session: Session, clashes: Clashes) -> None:
    """Print interference, a table for every pair."""
    lines: list[str] = []
    width = max(len("in total"), *(len(printable(layer)) for layer in clashes.layers))
    for i, j in combinations(range(len(clashes.names)), 2):
        one, other = (printable(clashes.names[index]) for index in (i, j))
        lines.append(f"interference of {one} and {other}")
        lines.append(f"  {'':{width}}  cosine  opposite signs  large in both")
        rows = {"in total": clashes.total, **clashes.layers}
        for label, found in rows.items():
            lines.append(f"  {printable(label):{width}}  {_row(found, i, j)}")
    session.show("\n".join(lines))


def _row(found: Interference, i: int, j: int) -> str:
    return (
        f"{found.cosine(i, j):+6.3f}  {found.conflict_share(i, j):14.1%}  "
        f"{found.overlap(i, j):13.1%}"
    )


def interference_facts(clashes: Clashes) -> list[dict[str, object]]:
    """Return interference as values for JSON, one entry for every pair."""
    return [
        {
            "between": [clashes.names[i], clashes.names[j]],
            "total": _facts(clashes.total, i, j),
            "layers": {layer: _facts(found, i, j) for layer, found in clashes.layers.items()},
        }
        for i, j in combinations(range(len(clashes.names)), 2)
    ]


def _facts(found: Interference, i: int, j: int) -> dict[str, float]:
    return {
        "cosine": found.cosine(i, j),
        "sign_conflicts": found.conflict_share(i, j),
        "large_overlap": found.overlap(i, j),
    }
