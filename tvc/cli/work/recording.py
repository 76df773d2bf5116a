"""What tvc commit does."""

import re
from pathlib import Path

import click

from tvc.cli.made import IDLE_MERGE, say_made
from tvc.cli.progress import byte_progress, format_bytes, progress_of
from tvc.cli.session import Session
from tvc.domain.changes import describe_changes
from tvc.domain.names import check_name, printable
from tvc.models.directory import ModelDirectory
from tvc.recording.committing import Committed, commit_finetune
from tvc.recording.matching import Allowances
from tvc.repository.repository import Change
from tvc.versioning.conflicts import parse_merging
from tvc.versioning.finishing import commit_state

__all__ = ["commit", "say_recorded"]


def commit(
    session: Session,
    *,
    folder: Path | None,
    message: str | None,
    name: str | None,
    allow_missing: tuple[str, ...],
    drop_extra: tuple[str, ...],
    resize_vocab: bool,
    allow_dtype: bool,
    origin: str | None,
) -> None:
    """Do what `tvc commit` says; its options are the command's."""
    with session.repository().change(session.command_line, waiting=session.waiting) as change:
        if folder is None:
            if name or origin or allow_missing or drop_extra or resize_vocab or allow_dtype:
                raise click.UsageError(
                    "--name, --from and what is allowed are for a model: name its DIR"
                )
            _commit_recipe(session, change, message)
            return
        if message is None:
            raise click.UsageError("say what the commit is for: -m MESSAGE")
        allowed = Allowances(
            frozenset(allow_missing), frozenset(drop_extra), resize_vocab, allow_dtype
        )
        _commit_folder(session, change, folder, message, name, allowed, origin)


def _commit_recipe(session: Session, change: Change, message: str | None) -> None:
    state = change.repository.working_state()
    head = change.repository.state_at(change.before.commit)
    under_way = change.before.merging
    merging = None if under_way is None else parse_merging(under_way)
    text = message or (merging.message if merging else None)
    if text is None:
        raise click.UsageError("say what the commit is for: -m MESSAGE")
    with progress_of(session, "comparing") as on_plan:
        made = commit_state(
            change,
            state,
            text,
            other_parents=merging.parents if merging else (),
            idle_hint=IDLE_MERGE if merging and not merging.by_hand else None,
            on_plan=on_plan,
        )
    for line in describe_changes(head.recipe, state.recipe):
        session.say(line)
    say_made(session, change, made)


def _commit_folder(
    session: Session,
    change: Change,
    folder: Path,
    message: str,
    name: str | None,
    allowed: Allowances,
    origin: str | None,
) -> None:
    model = ModelDirectory.open(session.folder / folder)
    total = sum(entry.spec.nbytes for entry in model.entries.values())
    with byte_progress(session, "recording", total) as on_bytes:
        done = commit_finetune(
            change,
            model,
            name=check_name(name or re.sub(r"[^A-Za-z0-9_.-]+", "_", model.root.name)),
            message=message,
            allowed=allowed,
            origin=origin,
            on_bytes=on_bytes,
        )
    say_recorded(session, change, done)


def say_recorded(session: Session, change: Change, done: Committed) -> None:
    """Say what a commit of a fine-tune recorded, and what it costs."""
    seen = done.recorded
    branch = change.before.branch or "detached HEAD"
    session.say(f"[{branch} {done.commit[:10]}] vector {done.name}")
    share = seen.changed_elements / max(seen.elements, 1)
    session.say(
        f"  {share:.2%} of the weights changed, in {seen.changed_tensors} of {seen.tensors} tensors"
    )
    if seen.raw_bytes:
        session.say(
            f"  stored in {format_bytes(seen.stored_bytes)}, "
            f"{seen.stored_bytes / seen.raw_bytes:.0%} of {format_bytes(seen.raw_bytes)}"
        )
    if seen.delta_bytes:
        session.say(f"  the trained difference is kept in {format_bytes(seen.delta_bytes)} more")
    if seen.changed_files:
        session.say(f"  changed files: {', '.join(map(printable, seen.changed_files))}")
    if seen.left_out:
        session.say(f"  not part of a model, left out: {', '.join(seen.left_out)}")
