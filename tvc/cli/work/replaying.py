"""What tvc revert, cherry-pick and rebase does."""

from tvc.cli.made import say_made
from tvc.cli.progress import byte_progress, progress_of
from tvc.cli.session import Session
from tvc.cli.work.starting import base_name
from tvc.domain.changes import describe_changes
from tvc.domain.recipe import format_recipe
from tvc.models.directory import ModelDirectory
from tvc.models.hub import fetch, parse_source
from tvc.recording.starting import register_base
from tvc.repository.objects import open_objects
from tvc.repository.repository import Change
from tvc.repository.state import State
from tvc.versioning.finishing import commit_state
from tvc.versioning.replaying import cherry_picked, commit_change, rebased, reverted

__all__ = ["cherry_pick", "rebase", "revert"]


def _finish(
    session: Session, change: Change, state: State, message: str, *, no_commit: bool
) -> None:
    head = change.repository.state_at(change.before.commit)
    if no_commit:
        change.edit(state)
    else:
        with progress_of(session, "comparing") as on_plan:
            made = commit_state(change, state, message, on_plan=on_plan)
        say_made(session, change, made)
    for line in describe_changes(head.recipe, state.recipe):
        session.say(line)
    session.say(f"recipe: {format_recipe(state.recipe)}")


def revert(
    session: Session, *, revision: str, mainline: int | None, message: str | None, no_commit: bool
) -> None:
    """Do what `tvc revert` says; its options are the command's."""
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        change.require_clean()
        replayed = commit_change(repository, revision, mainline=mainline)
        state = reverted(repository.state_at(change.before.commit), replayed)
        text = f'Revert "{replayed.subject}"\n\nThis takes back commit {replayed.commit}.'
        _finish(session, change, state, message or text, no_commit=no_commit)


def cherry_pick(
    session: Session, *, revision: str, mainline: int | None, message: str | None, no_commit: bool
) -> None:
    """Do what `tvc cherry-pick` says; its options are the command's."""
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        change.require_clean()
        replayed = commit_change(repository, revision, mainline=mainline)
        state = cherry_picked(repository.state_at(change.before.commit), replayed)
        _finish(session, change, state, message or replayed.subject, no_commit=no_commit)


def rebase(
    session: Session,
    *,
    onto: str,
    name: str | None,
    vendor: bool,
    message: str | None,
    no_commit: bool,
) -> None:
    """Do what `tvc rebase` says; its options are the command's."""
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        change.require_clean()
        head = repository.state_at(change.before.commit)
        if onto in head.bases:
            base = onto
        else:
            path, source = fetch(parse_source(onto))
            model = ModelDirectory.open(path)
            location = str(path) if source.kind == "path" else source.location
            base = name or base_name(location)
            total = sum(entry.spec.nbytes for entry in model.entries.values())
            with (
                open_objects(repository.layout) as store,
                byte_progress(session, "hashing the base", total) as on_bytes,
            ):
                head = register_base(
                    store,
                    head,
                    model,
                    name=base,
                    source=location,
                    revision=source.revision,
                    vendor=vendor,
                    on_bytes=on_bytes,
                )
        state = rebased(head, base)
        _finish(session, change, state, message or f"Rebase onto {onto}", no_commit=no_commit)
