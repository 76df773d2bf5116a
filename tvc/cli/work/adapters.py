"""What tvc import and export: LoRA adapters become vectors, and vectors adapters again does."""

import json
import time
from dataclasses import replace
from pathlib import Path

import click

from tvc.checkout.folder import replaced_folder
from tvc.cli.made import say_made
from tvc.cli.progress import format_bytes, progress_of
from tvc.cli.session import Session
from tvc.domain.errors import InputError
from tvc.domain.names import check_name, printable
from tvc.domain.recipe import format_recipe
from tvc.domain.vector import Scalar, VectorRecord
from tvc.models.adapters import AdapterDirectory
from tvc.recording.adapter import record_adapter, restore_adapter
from tvc.recording.committing import free_name, with_vector
from tvc.repository.objects import Objects, open_objects
from tvc.repository.repository import Change
from tvc.repository.state import State
from tvc.versioning.editing import find_vectors, readable_state
from tvc.versioning.finishing import Made, commit_state

__all__ = ["export", "import_"]


def import_(
    session: Session,
    *,
    folder: Path,
    name: str,
    message: str | None,
    no_add: bool,
    no_commit: bool,
    as_json: bool,
) -> None:
    """Do what `tvc import` says; its options are the command's."""
    if message is None and not no_commit:
        raise click.UsageError("say what the commit is for: -m MESSAGE, or say --no-commit")
    adapter = AdapterDirectory.open(session.folder / folder)
    with session.repository().change(session.command_line, waiting=session.waiting) as change:
        change.require_clean()
        state = change.repository.state_at(change.before.commit)
        free_name(state, check_name(name))
        with open_objects(change.repository.layout) as store:
            record = record_adapter(
                Objects(store, state),
                state.normal,
                adapter,
                provenance=_provenance(state, adapter, str(folder)),
            )
            after = (
                replace(state, vectors={**state.vectors, name: record})
                if no_add
                else with_vector(state, name, record)
            )
            made = None
            if no_commit:
                change.edit(after)
            else:
                made = _commit(session, change, after, message or "", adds=not no_add)
    remarks = _remarks(state, adapter)
    if as_json:
        facts = {
            "name": name,
            "id": record.id,
            "commit": made.commit if made else None,
            "recipe": format_recipe(after.recipe),
            **record.measured,
            "remarks": remarks,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    _say(session, change, name, record, made)
    for remark in remarks:
        session.note(f"remark: {remark}")


def _commit(session: Session, change: Change, after: State, message: str, *, adds: bool) -> Made:
    with progress_of(session, "comparing") as on_plan:
        hint = "its factors multiply to nothing: was it trained?" if adds else None
        return commit_state(change, after, message, idle_hint=hint, on_plan=on_plan)


def _provenance(state: State, adapter: AdapterDirectory, source: str) -> dict[str, Scalar]:
    said: dict[str, Scalar] = {
        "source": source,
        "trained_from": format_recipe(state.recipe),
        "recorded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    base = adapter.config.get("base_model_name_or_path")
    if isinstance(base, str) and base:
        said["adapter_base"] = printable(base, limit=200)
    return said


def _remarks(state: State, adapter: AdapterDirectory) -> list[str]:
    """Return what a person should know: names of models are no proof of which model it was."""
    remarks: list[str] = []
    said, source = adapter.config.get("base_model_name_or_path"), state.bases[state.recipe.base]
    if isinstance(said, str) and said and _last(said) != _last(source.source):
        remarks.append(
            f"the adapter says it was trained on {printable(said)}, "
            f"the base here is {printable(source.source)}"
        )
    if state.recipe.terms:
        remarks.append(f"it counts as trained on {format_recipe(state.recipe)}")
    if adapter.skipped:
        remarks.append(f"not part of an adapter, left out: {', '.join(adapter.skipped)}")
    return remarks


def _last(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2].casefold()


def _say(
    session: Session, change: Change, name: str, record: VectorRecord, made: Made | None
) -> None:
    tensors, stored = record.measured["changed_tensors"], record.measured["stored_bytes"]
    assert isinstance(stored, int), "record_adapter counts them"
    many = "" if tensors == 1 else "s"
    session.say(
        f"vector {name}: an adapter of {tensors} tensor{many}, stored in {format_bytes(stored)}"
    )
    if made:
        say_made(session, change, made)
    else:
        session.say("(record it with: tvc commit -m …)")


def export(session: Session, *, name: str, output: Path, force: bool, as_json: bool) -> None:
    """Do what `tvc export` without --lora says; its options are the command's."""
    repository = session.repository()
    state = find_vectors(repository, readable_state(repository), [name])
    record = state.vectors[name]
    if record.kind != "adapter":
        raise InputError(
            f"{printable(name)} is a whole fine-tune, not an adapter",
            hint="approximate it with --lora, or write the model with `tvc checkout`",
        )
    with (
        open_objects(repository.layout) as store,
        replaced_folder(session.folder / output, force=force) as folder,
    ):
        restore_adapter(Objects(store, state), record, folder)
    if as_json:
        click.echo(json.dumps({"name": name, "id": record.id, "output": str(output)}, indent=2))
    else:
        session.say(f"wrote {output}")
