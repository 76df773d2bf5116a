"""tvc revert, cherry-pick and rebase."""

import click

from tvc.cli.completing import complete_revision
from tvc.cli.measures import progress_of, say_made
from tvc.cli.progress import byte_progress
from tvc.cli.session import Session, pass_session
from tvc.cli.starting import base_name
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

_MAINLINE = click.option(
    "--mainline",
    type=click.IntRange(min=1),
    metavar="N",
    help="For a merge: the parent to compare it with; 1 is the branch that was merged into.",
)
_NO_COMMIT = click.option("--no-commit", is_flag=True, help="Leave the result in the working tree.")
_MESSAGE = click.option("-m", "--message", help="The commit's message.")


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


@click.command(epilog="Example: tvc revert HEAD")
@click.argument("revision", shell_complete=complete_revision)
@_MAINLINE
@_MESSAGE
@_NO_COMMIT
@pass_session
def revert(
    session: Session, *, revision: str, mainline: int | None, message: str | None, no_commit: bool
) -> None:
    """Take back what a commit changed: HEAD - (c - c^).

    Terms cancel as exact fractions, so that reverting the last commit gives the recipe before it,
    and thereby the same bytes.
    """
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        change.require_clean()
        replayed = commit_change(repository, revision, mainline=mainline)
        state = reverted(repository.state_at(change.before.commit), replayed)
        text = f'Revert "{replayed.subject}"\n\nThis takes back commit {replayed.commit}.'
        _finish(session, change, state, message or text, no_commit=no_commit)


@click.command("cherry-pick", epilog="Example: tvc cherry-pick listen")
@click.argument("revision", shell_complete=complete_revision)
@_MAINLINE
@_MESSAGE
@_NO_COMMIT
@pass_session
def cherry_pick(
    session: Session, *, revision: str, mainline: int | None, message: str | None, no_commit: bool
) -> None:
    """Repeat what a commit changed: HEAD + (c - c^), with the vectors that it needs."""
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        change.require_clean()
        replayed = commit_change(repository, revision, mainline=mainline)
        state = cherry_picked(repository.state_at(change.before.commit), replayed)
        _finish(session, change, state, message or replayed.subject, no_commit=no_commit)


@click.command(epilog="Example: tvc rebase --onto ../Qwen3-0.6B-Base")
@click.option(
    "--onto", required=True, metavar="BASE", help="A base here, a folder, or a hub id ORG/NAME@REV."
)
@click.option("--name", metavar="NAME", help="What to call a new base here.")
@click.option("--vendor", is_flag=True, help="Copy a new base into the store.")
@_MESSAGE
@_NO_COMMIT
@pass_session
def rebase(
    session: Session,
    *,
    onto: str,
    name: str | None,
    vendor: bool,
    message: str | None,
    no_commit: bool,
) -> None:
    """Put the recipe's sum on another base model, as a new commit.

    The vectors stay what they are: differences from the model that each was trained from.
    """
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
