"""tvc undo and tvc op: the operation log."""

import json
import time

import click

from tvc.cli.session import Session, pass_session
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.repository.operations import Operation, next_to_undo, operations
from tvc.repository.repository import Change

__all__ = ["op", "undo"]


def _say_where(session: Session, change: Change) -> None:
    now = change.before
    subject = change.repository.git.text("log", "-1", "--format=%s", now.commit)
    session.say(f"{now.branch or 'detached HEAD'} is at {now.commit[:10]} {printable(subject)}")
    if now.overlay:
        session.say(f"uncommitted again: {', '.join(map(printable, now.overlay))}")


@click.command(epilog="Example: tvc undo")
@pass_session
def undo(session: Session) -> None:
    """Take back the last command that moved a branch or changed the recipe.

    Undoing again goes further back; `tvc op restore N` goes forward again.
    """
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        operation = next_to_undo(repository.layout)
        change.move(operation.before, undoes=operation.number)
        session.say(f"undid {operation.number}: {printable(operation.command, limit=500)}")
        _say_where(session, change)


@click.group(epilog="Example: tvc op log")
def op() -> None:
    """List operations, or go back to one."""


@op.command(epilog="Example: tvc op log")
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def log(session: Session, *, count: int, as_json: bool) -> None:
    """List the last operations, newest first."""
    lines: list[str] = []
    found = operations(session.repository().layout)[: -count - 1 : -1]
    if as_json:
        click.echo(json.dumps([_facts(operation) for operation in found], indent=2))
        return
    for operation in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(operation.time))
        moved = operation.after.commit[:10]
        lines.append(
            f"{operation.number:5}  {when}  {moved}  {printable(operation.command, limit=500)}"
        )
    session.show("\n".join(lines) or "no operations yet")


def _facts(operation: Operation) -> dict[str, object]:
    return {
        "number": operation.number,
        "time": operation.time,
        "command": operation.command,
        "commit": operation.after.commit,
        "branch": operation.after.branch,
        "undoes": operation.undoes,
    }


@op.command(epilog="Example: tvc op restore 7")
@click.argument("number", type=click.IntRange(min=1))
@pass_session
def restore(session: Session, *, number: int) -> None:
    """Bring the repository to where operation NUMBER left it."""
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        found = [each for each in operations(repository.layout) if each.number == number]
        if not found:
            raise InputError(f"there is no operation {number}", hint="`tvc op log` lists them")
        change.move(found[0].after)
        _say_where(session, change)
