"""tvc vectors: the list of task vectors. What needs weights is in tvc/cli/inspecting_vectors.py."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import click

from tvc.cli.lazy import Lazy, LazyGroup
from tvc.cli.progress import format_bytes
from tvc.cli.session import Session, pass_session
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe, format_term, vector_names
from tvc.domain.vector import VectorRecord
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import readable_state

__all__ = ["list_", "vectors"]

_COMMANDS: Final = {
    "list": Lazy("tvc.cli.vectors:list_", "List vectors, and where they are used."),
    "inspect": Lazy(
        "tvc.cli.inspecting_vectors:inspect", "Norms, sparsity and sizes of one vector."
    ),
    "compare": Lazy(
        "tvc.cli.inspecting_vectors:compare", "How much vectors are in each other's way."
    ),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    invoke_without_command=True,
    epilog="Example: tvc vectors inspect listen",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def vectors(context: click.Context, *, as_json: bool) -> None:
    """List and inspect task vectors; alone, it lists them."""
    if context.invoked_subcommand is None:
        context.invoke(list_, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"say --json after {context.invoked_subcommand}")


@dataclass
class _Row:
    """A vector, and who has it.

    Args:
        name: Its name.
        record: What it is.
        origin: What it was trained from, in words.
        branches: Branches and tags that have it.
        used_by: Those whose recipes use it.
        terms: Terms of the current recipe that use it.
    """

    name: str
    record: VectorRecord
    origin: str
    branches: list[str] = field(default_factory=list[str])
    used_by: list[str] = field(default_factory=list[str])
    terms: list[str] = field(default_factory=list[str])


@click.command("list", epilog="Example: tvc vectors list --json")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def list_(session: Session, *, as_json: bool) -> None:
    """List the vectors of all branches, without reading a weight.

    Those that the current recipe uses are marked with a star. What changes are is the share of the
    model's elements; what is stored are the bytes of those tensors in the repository.
    """
    rows = _rows(session.repository())
    if as_json:
        click.echo(json.dumps([_facts(row) for row in rows], indent=2))
    elif rows:
        session.show("\n".join(_table(rows)))
    else:
        session.say("no vectors yet: `tvc commit DIR` records one")


def _rows(repository: Repository) -> list[_Row]:
    rows: dict[tuple[str, str], _Row] = {}
    current = readable_state(repository)
    for row in _rows_of(current, rows):
        terms = current.recipe.terms
        row.terms = [format_term(term) for term in terms if row.name in vector_names((term,))]
    refs: dict[str, list[str]] = {}
    for ref, commit in sorted(repository.position().refs.items()):
        refs.setdefault(commit, []).append(ref.split("/", 2)[2])
    for commit, names in refs.items():
        state = repository.state_at(commit)
        used = set(vector_names(state.recipe.terms))
        for row in _rows_of(state, rows):
            row.branches += names
            row.used_by += names if row.name in used else []
    return [rows[key] for key in sorted(rows)]


def _rows_of(state: State, rows: dict[tuple[str, str], _Row]) -> list[_Row]:
    """Return the rows of a state's vectors, made where they are missing."""
    library = state.library()
    found: list[_Row] = []
    for name, record in state.vectors.items():
        key = (name, str(record.id))
        if key not in rows:
            rows[key] = _Row(name, record, format_recipe(library.display(record.parent)))
        found.append(rows[key])
    return found


def _facts(row: _Row) -> dict[str, object]:
    record = row.record
    return {
        "name": row.name,
        "id": record.id,
        "kind": record.kind,
        "changed_share": record.measured.get("changed_share"),
        "changed_tensors": record.measured.get("changed_tensors"),
        "stored_bytes": record.measured.get("stored_bytes"),
        "trained_from": row.origin,
        "provenance": dict(record.provenance),
        "branches": sorted(row.branches),
        "used_by": sorted(row.used_by),
        "terms": row.terms,
    }


def _table(rows: list[_Row]) -> Iterator[str]:
    cells = [("", "name", "kind", "changes", "stored", "trained from", "used by")]
    cells += [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield " ".join(padded).rstrip()


def _cells(row: _Row) -> tuple[str, ...]:
    measured = row.record.measured
    share, stored = measured.get("changed_share"), measured.get("stored_bytes")
    tensors = printable(str(measured.get("changed_tensors")))
    return (
        "*" if row.terms else " ",
        printable(row.name),
        row.record.kind,
        f"{share:.2%}"
        if isinstance(share, float | int)
        else f"{tensors} tensor{'' if tensors == '1' else 's'}",
        format_bytes(stored) if isinstance(stored, int) else "?",
        printable(row.origin, limit=60),
        printable(", ".join(sorted(row.used_by)), limit=60) or "-",
    )
