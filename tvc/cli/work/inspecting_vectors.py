"""What tvc vectors inspect and compare, which read weights does."""

import json
from collections.abc import Mapping

import click

from tvc.cli.measures import LARGE, interference_facts, say_clashes
from tvc.cli.progress import format_bytes, progress_of
from tvc.cli.session import Session
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe
from tvc.domain.vector import Scalar, VectorRecord
from tvc.repository.objects import Objects, open_objects
from tvc.repository.state import State
from tvc.versioning.editing import find_vectors, readable_state
from tvc.versioning.inspecting import Part, VectorFacts, find_compared, inspect_vector
from tvc.versioning.interference import measure_interference

__all__ = ["compare", "inspect"]


def inspect(session: Session, *, name: str, as_json: bool) -> None:
    """Do what `tvc inspect` says; its options are the command's."""
    repository = session.repository()
    state = find_vectors(repository, readable_state(repository), [name])
    record = state.vectors[name]
    with open_objects(repository.layout) as store, progress_of(session, "measuring") as on_plan:
        facts = inspect_vector(Objects(store, state), record, on_plan=on_plan)
    if as_json:
        click.echo(json.dumps(_facts(name, state, record, facts), indent=2))
    else:
        session.show("\n".join(_lines(name, state, record, facts)))


def _facts(name: str, state: State, record: VectorRecord, facts: VectorFacts) -> dict[str, object]:
    return {
        "name": name,
        "id": record.id,
        "kind": record.kind,
        "trained_from": _origin(state, record),
        "provenance": dict(record.provenance),
        "measured": dict(record.measured),
        "delta": record.delta,
        "total": _part_facts(facts.total),
        "layers": {label: _part_facts(part) for label, part in facts.layers.items()},
        "kinds": {label: _part_facts(part) for label, part in facts.kinds.items()},
        "changed_tensors": facts.tensors,
        "unmeasured": list(facts.unmeasured),
        "changed_files": list(facts.files),
        "raw_bytes": facts.raw_bytes,
        "stored_bytes": facts.stored_bytes,
    }


def _part_facts(part: Part) -> dict[str, float]:
    return {
        "norm": part.norm,
        "largest": part.largest,
        "sparsity": part.sparsity,
        "changed": part.changed,
        "elements": part.elements,
    }


def _origin(state: State, record: VectorRecord) -> str:
    return format_recipe(state.library().display(record.parent))


def _lines(name: str, state: State, record: VectorRecord, facts: VectorFacts) -> list[str]:
    share = facts.stored_bytes / max(facts.raw_bytes, 1)
    lines = [
        f"vector {printable(name)}: {record.kind}",
        f"id      {record.id}",
        f"from    {printable(_origin(state, record), limit=500)}",
        f"stored  {format_bytes(facts.stored_bytes)}, {share:.0%} of "
        f"{format_bytes(facts.raw_bytes)}; tensors changed: {facts.tensors}",
    ]
    if record.delta:
        size = record.measured.get("delta_bytes")
        cost = f", in {format_bytes(size)} more" if isinstance(size, int) else ""
        lines.append(f"delta   the difference as it was trained{cost}")
    lines += _told("where it came from", record.provenance, {"trained_from"})
    lines += _told("measured", record.measured, {"delta_bytes", "stored_bytes"})
    if facts.files:
        lines.append(f"files   {', '.join(map(printable, facts.files))}")
    if facts.unmeasured:
        shown = ", ".join(map(printable, facts.unmeasured[:3]))
        lines.append(f"not measured (no difference of numbers): {shown}")
    width = max(len(printable(label)) for label in ("in total", *facts.layers, *facts.kinds))
    for heading, parts in (
        ("", {"in total": facts.total}),
        ("by layer", facts.layers),
        ("by kind of weight", facts.kinds),
    ):
        lines += (
            ["", heading] if heading else ["", f"{'':{width}}        norm     largest  sparsity"]
        )
        lines += [f"{printable(label):{width}}  {_row(part)}" for label, part in parts.items()]
    return lines


def _told(heading: str, values: Mapping[str, Scalar], shown: set[str]) -> list[str]:
    """Return lines of a record's table, but for what stands elsewhere already."""
    told = {
        printable(key): printable(str(value), limit=4000)
        for key, value in values.items()
        if key not in shown
    }
    width = max(map(len, told), default=0)
    lines = [f"{key:{width}}  {value}" for key, value in told.items()]
    return ["", heading, *lines] if lines else []


def _row(part: Part) -> str:
    return f"{part.norm:10.4g}  {part.largest:10.4g}  {part.sparsity:8.2%}"


def compare(session: Session, *, names: tuple[str, ...], as_json: bool) -> None:
    """Do what `tvc compare` says; its options are the command's."""
    repository = session.repository()
    found = find_compared(repository, list(names))
    with open_objects(repository.layout) as store, progress_of(session, "comparing") as on_plan:
        clashes = measure_interference(
            Objects(store, found.state),
            found.base,
            found.differences,
            density=LARGE,
            on_plan=on_plan,
        )
    if as_json:
        click.echo(json.dumps(interference_facts(clashes) if clashes else [], indent=2))
    elif clashes is None:
        session.say("interference: no weights are changed")
    else:
        say_clashes(session, clashes)
