"""tvc fsck and gc: keeping a repository in order."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import click

from tvc.cli.progress import byte_progress, format_bytes
from tvc.cli.session import Session, pass_session
from tvc.domain.errors import IntegrityError
from tvc.repository.layout import Layout
from tvc.repository.objects import open_objects, own_objects
from tvc.repository.repository import Repository
from tvc.upkeep.collection import Freed, collect_garbage
from tvc.upkeep.inspection import Inspection, Problem, inspect, work_bytes
from tvc.upkeep.mending import Repair, repair
from tvc_store.local import Store

__all__ = ["FindingsLeft", "fsck", "gc"]

_SHOWN = 100
_USERS = 8
_DAY = 86400.0


class FindingsLeft(IntegrityError):
    """A check found what is not as it should be."""


@click.command(epilog="Example: tvc fsck --repair --from ../Qwen3-tiny")
@click.option("--repair", "mend", is_flag=True, help="Mend what can be mended.")
@click.option(
    "--from",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Look for what is lost in this model or adapter. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def fsck(session: Session, *, mend: bool, folders: tuple[Path, ...], as_json: bool) -> None:
    """Check every object, file and document, and say what needs each that is damaged.

    With --repair, what is damaged or lost is restored from the folders that vectors and bases were
    made of, and from --from: tensors are matched by their content, so a wrong folder does no harm.
    A base that was moved is read from where it is now. Exits with 3 where something is left.
    """
    if folders and not mend:
        raise click.UsageError("--from says where to repair from: give --repair too")
    # Not opened in the usual way, since a damaged journal is to be found and not to be followed.
    repository = Repository(Layout.discover(session.folder))
    progress = partial(byte_progress, session)
    if not mend:
        with open_objects(repository.layout) as store:
            found = _inspected(repository, store, progress)
        _report(session, Repair((), (), found), as_json=as_json)
        return
    with (
        repository.locked(session.command_line, waiting=session.waiting, complete=False),
        own_objects(repository.layout, session.command_line, waiting=session.waiting) as store,
    ):
        found = _inspected(repository, store, progress)
        absolute = [session.folder / folder for folder in folders]
        done = repair(repository, store, found, folders=absolute, progress=progress)
    _report(session, done, as_json=as_json)


def _inspected(
    repository: Repository,
    store: Store,
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]],
) -> Inspection:
    with progress("checking", work_bytes(store)) as on_bytes:
        return inspect(repository, store, on_bytes=on_bytes)


def _report(session: Session, done: Repair, *, as_json: bool) -> None:
    left = done.left
    if as_json:
        facts = {
            "commits": left.commits,
            "objects": left.objects,
            "problems": [_facts(problem) for problem in left.problems],
            "strays": [str(stray.path) for stray in left.strays],
            "repaired": done.done,
            "notes": done.notes,
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        _say(session, done)
    if left.problems:
        count = len(left.problems)
        raise FindingsLeft(
            f"{count} {'problem' if count == 1 else 'problems'} found", hint=_hint(left.problems)
        )


def _facts(problem: Problem) -> dict[str, object]:
    return {
        "kind": problem.kind,
        "problem": problem.text,
        "object": problem.id,
        "path": None if problem.path is None else str(problem.path),
        "needed_by": list(problem.needed_by),
    }


def _say(session: Session, done: Repair) -> None:
    for line in done.done:
        session.say(line)
    for line in done.notes:
        session.note(f"not used: {line}")
    for problem in done.left.problems[:_SHOWN]:
        click.echo(f"{problem.kind}: {problem.text}")
        for user in problem.needed_by[:_USERS]:
            click.echo(f"  needed by {user}")
        if len(problem.needed_by) > _USERS:
            click.echo(f"  and by {len(problem.needed_by) - _USERS} more: see --json")
        if not problem.needed_by and problem.id:
            click.echo("  nothing needs it")
    if len(done.left.problems) > _SHOWN:
        click.echo(f"and {len(done.left.problems) - _SHOWN} more: see --json")
    for stray in done.left.strays:
        session.say(f"stray: {stray.path}, {stray.text}")
    session.say(f"checked {done.left.commits} commits and {done.left.objects} objects")


def _hint(problems: Sequence[Problem]) -> str:
    kinds = {problem.kind for problem in problems}
    if "source" in kinds:
        return "a base that was moved or changed: tvc fsck --repair --from DIR"
    if kinds & {"damaged", "misplaced", "missing", "operation"}:
        return "tvc fsck --repair mends what can be had again; --from DIR names where to look"
    return "what git keeps can be had again from another clone: git fetch"


@click.command(epilog="Example: tvc gc --dry-run")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=14.0,
    show_default=True,
    metavar="DAYS",
    help="Keep what is younger, and what undo and git's reflog need of so many days.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def gc(session: Session, *, grace: float, dry_run: bool, as_json: bool) -> None:
    """Remove objects that no branch, tag, recent operation or reflog entry needs.

    What was written for servers goes too: models that none uses any longer, and old adapters. With
    --grace 0, `tvc undo` cannot go back to what no branch or tag has any longer.
    """
    repository = session.repository()
    with (
        repository.locked(session.command_line, waiting=session.waiting),
        own_objects(repository.layout, session.command_line, waiting=session.waiting) as store,
    ):
        freed = collect_garbage(
            repository, store, grace_seconds=grace * _DAY, now=time.time(), dry_run=dry_run
        )
    if as_json:
        click.echo(json.dumps(_freed_facts(freed, dry_run=dry_run), indent=2))
        return
    verb = "would remove" if dry_run else "removed"
    size = format_bytes(freed.object_bytes + freed.temporary_bytes)
    session.say(f"{verb} {freed.objects} objects, {size}; {freed.kept} stay")
    if freed.served_bytes:
        session.say(f"{verb} {format_bytes(freed.served_bytes)} that were written for servers")


def _freed_facts(freed: Freed, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "objects": freed.objects,
        "object_bytes": freed.object_bytes,
        "unfinished_files": freed.temporaries,
        "unfinished_bytes": freed.temporary_bytes,
        "served_bytes": freed.served_bytes,
        "kept": freed.kept,
    }
