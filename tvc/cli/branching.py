"""tvc branch, switch and tag."""

import json
from dataclasses import replace

import click

from tvc.cli.completing import complete_revision
from tvc.cli.session import Session, pass_session
from tvc.domain.errors import InputError, StateError
from tvc.domain.names import check_name, nearest, printable
from tvc.repository.position import Position
from tvc.repository.repository import Change, Repository

__all__ = ["branch", "switch", "tag"]


def _ref(kind: str, name: str) -> str:
    """Return the full name of a branch or tag after checking that it can be one."""
    check_name(name, what="branch" if kind == "heads" else "tag")
    return f"refs/{kind}/{name}"


def _existing(position: Position, kind: str, name: str) -> str:
    ref = f"refs/{kind}/{name}"
    if ref not in position.refs:
        word = "branch" if kind == "heads" else "tag"
        known = [r.split("/", 2)[2] for r in position.refs if r.startswith(f"refs/{kind}/")]
        raise InputError(f"there is no {word} {printable(name)!r}", hint=nearest(name, known))
    return ref


def _refuse_taken(position: Position, ref: str) -> None:
    # git keeps refs in files: `a` and `a/b` cannot both be, nor names that differ by case alone.
    low = ref.casefold()
    for other in position.refs:
        taken = other.casefold()
        if taken == low or taken.startswith(f"{low}/") or low.startswith(f"{taken}/"):
            raise StateError(f"there is {other.split('/', 2)[2]!r} already", hint="choose a name")


def _list(session: Session, repository: Repository, kind: str, *, as_json: bool) -> None:
    position = repository.position()
    prefix = f"refs/{kind}/"
    found = [
        {
            "name": ref.removeprefix(prefix),
            "commit": repository.git.resolve(ref),
            "subject": repository.git.text("log", "-1", "--format=%s", ref, "--"),
            "current": ref == position.head,
        }
        for ref in sorted(position.refs)
        if ref.startswith(prefix)
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if position.branch is None and kind == "heads":
        session.say(f"* (detached at {position.commit[:10]})")
    for each in found:
        mark, commit = "*" if each["current"] else " ", str(each["commit"])[:10]
        click.echo(f"{mark} {each['name']}  {commit}  {printable(str(each['subject']), limit=80)}")


_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")


@click.command(epilog="Example: tvc branch brief main")
@click.argument("name", required=False)
@click.argument("start", default="HEAD", shell_complete=complete_revision)
@click.option("-d", "--delete", is_flag=True, help="Delete the branch NAME.")
@click.option("-m", "--move", metavar="NEW", help="Rename the branch NAME to NEW.")
@_AS_JSON
@pass_session
def branch(
    session: Session,
    *,
    name: str | None,
    start: str,
    delete: bool,
    move: str | None,
    as_json: bool,
) -> None:
    """List branches, or make the branch NAME at START.

    Deleting a branch deletes no vector: `tvc undo` brings it back.
    """
    repository = session.repository()
    if name is None:
        _list(session, repository, "heads", as_json=as_json)
        return
    with repository.change(session.command_line, waiting=session.waiting) as change:
        now = change.before
        if delete or move:
            ref = _existing(now, "heads", name)
            rest = {other: sha for other, sha in now.refs.items() if other != ref}
            if move:
                new = _ref("heads", move)
                _refuse_taken(Position(now.head, rest), new)
                head = new if now.head == ref else now.head
                change.move(replace(now, head=head, refs={**rest, new: now.refs[ref]}))
            elif now.head == ref:
                raise StateError(f"{name} is the current branch", hint="`tvc switch` away first")
            else:
                change.move(replace(now, refs=rest))
                session.say(f"deleted {name}, which was at {now.refs[ref][:10]}")
            return
        _make(change, "heads", name, start)
    session.say(f"branch {name} at {start}")


def _make(change: Change, kind: str, name: str, start: str) -> str:
    ref = _ref(kind, name)
    _refuse_taken(change.before, ref)
    commit = change.repository.git.resolve(start)
    change.move(replace(change.before, refs={**change.before.refs, ref: commit}))
    return ref


@click.command(epilog="Example: tvc switch -c listen main")
@click.argument("name", shell_complete=complete_revision)
@click.argument("start", default="HEAD", shell_complete=complete_revision)
@click.option("-c", "--create", is_flag=True, help="Make the branch NAME at START first.")
@click.option("--detach", is_flag=True, help="Go to a commit or tag, on no branch.")
@click.option("--discard-changes", is_flag=True, help="Drop uncommitted edits.")
@pass_session
def switch(
    session: Session, *, name: str, start: str, create: bool, detach: bool, discard_changes: bool
) -> None:
    """Go to the branch NAME: the recipe and vectors become that branch's."""
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        if not discard_changes:
            change.require_clean()
        now = change.before
        refs = now.refs
        if create:
            head = _ref("heads", name)
            _refuse_taken(now, head)
            refs = {**refs, head: repository.git.resolve(start)}
        elif detach:
            head = repository.git.resolve(name)
        else:
            if f"refs/heads/{name}" not in refs and f"refs/tags/{name}" in refs:
                raise InputError(f"{name} is a tag", hint=f"tvc switch --detach {name}")
            head = _existing(now, "heads", name)
        change.move(Position(head, refs))
    where = f"branch {name}" if not detach else f"{head[:10]}, on no branch"
    session.say(f"now on {where}")


@click.command(epilog="Example: tvc tag v1.0 main")
@click.argument("name", required=False)
@click.argument("start", default="HEAD", shell_complete=complete_revision)
@click.option("-d", "--delete", is_flag=True, help="Delete the tag NAME.")
@_AS_JSON
@pass_session
def tag(session: Session, *, name: str | None, start: str, delete: bool, as_json: bool) -> None:
    """List tags, or make the tag NAME at START."""
    repository = session.repository()
    if name is None:
        _list(session, repository, "tags", as_json=as_json)
        return
    with repository.change(session.command_line, waiting=session.waiting) as change:
        if delete:
            ref = _existing(change.before, "tags", name)
            refs = {other: sha for other, sha in change.before.refs.items() if other != ref}
            change.move(replace(change.before, refs=refs))
            session.say(f"deleted tag {name}")
            return
        _make(change, "tags", name, start)
    session.say(f"tag {name} at {start}")
