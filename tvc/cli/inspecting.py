"""tvc status, log and show: what is there, without loading a weight or torch."""

import json

import click

from tvc.cli.completing import complete_revision
from tvc.cli.session import Session, pass_session
from tvc.domain.changes import describe_changes
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import Recipe, format_recipe, format_term, recipe_id, vector_names
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc_store.errors import TvcError

__all__ = ["log", "show", "status"]


@click.command(epilog="Example: tvc status")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def status(session: Session, *, as_json: bool) -> None:
    """Say which branch this is, what its recipe is, and what was edited since HEAD."""
    repository = session.repository()
    position = repository.position()
    head = repository.state_at(position.commit)
    working = None if position.merging and _conflicted(repository) else repository.working_state()
    changes = describe_changes(head.recipe, working.recipe) if working else []
    added = sorted(set(working.vectors) - set(head.vectors)) if working else []
    gone = sorted(set(head.vectors) - set(working.vectors)) if working else []
    if as_json:
        facts = {
            "branch": position.branch,
            "commit": position.commit,
            "recipe": format_recipe((working or head).recipe),
            "changes": changes,
            "new_vectors": added,
            "removed_vectors": gone,
            "merging": position.merging is not None,
            "conflicted": working is None,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    where = f"branch {position.branch}" if position.branch else "on no branch"
    click.echo(f"{where}, at {position.commit[:10]}")
    if position.merging:
        click.echo("a merge is under way: `tvc commit` finishes it, `tvc merge --abort` goes back")
    if working is None:
        click.echo("recipe.toml has conflicts: edit it, then `tvc commit`")
        return
    click.echo(f"recipe: {format_recipe(working.recipe)}")
    for line in changes:
        click.echo(f"  {line}")
    for name in added:
        click.echo(f"  new vector {name}")
    for name in gone:
        click.echo(f"  vector {name} is gone")
    if not changes and not added and not gone and not position.merging:
        click.echo("nothing edited since HEAD")
    elif not position.merging:
        click.echo("(record it with: tvc commit -m …, or take the last edit back: tvc undo)")


def _conflicted(repository: Repository) -> bool:
    try:
        repository.working_state()
    except TvcError:
        return True
    return False


@click.command(epilog="Example: tvc log --graph")
@click.argument("revisions", nargs=-1, shell_complete=complete_revision, metavar="[REV]...")
@click.option("--graph", is_flag=True, help="Draw how branches parted and met.")
@click.option("--all", "every", is_flag=True, help="All branches and tags.")
@click.option("-n", "count", type=click.IntRange(min=1), help="At most this many commits.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def log(
    session: Session,
    *,
    revisions: tuple[str, ...],
    graph: bool,
    every: bool,
    count: int | None,
    as_json: bool,
) -> None:
    """Show the history, newest first."""
    repository = session.repository()
    commits = [repository.git.resolve(revision) for revision in revisions]
    arguments = ["--topo-order", *(["--all"] if every else []), *commits]
    if count:
        arguments.append(f"--max-count={count}")
    if as_json:
        click.echo(json.dumps(_log_facts(repository, arguments), indent=2))
        return
    color = "always" if session.colors else "never"
    form = "%C(yellow)%h%C(reset) %C(auto)%(decorate:prefix=,suffix= )%C(reset)%s%n  %an, %ad"
    if not _has_decorate(repository):
        form = "%C(yellow)%h%C(auto)%d%C(reset) %s%n  %an, %ad"
    output = repository.git.text(
        "log",
        f"--format=format:{form}",
        "--date=format:%Y-%m-%d %H:%M",
        f"--color={color}",
        *(["--graph"] if graph else []),
        *arguments,
    )
    session.show("\n".join(_safe(line) for line in output.split("\n")))


def _has_decorate(repository: Repository) -> bool:
    return "%(decorate" not in repository.git.text("log", "-1", "--format=%(decorate:prefix=)")


def _safe(line: str) -> str:
    """Return a line of git's with only git's own colours left of what a terminal would obey."""
    parts = line.split("\x1b[")
    safe = [printable(parts[0], limit=2000)]
    for part in parts[1:]:
        code, end, rest = part.partition("m")
        if end and all(char.isdigit() or char == ";" for char in code):
            safe.append(f"\x1b[{code}m{printable(rest, limit=2000)}")
        else:
            safe.append(printable(part, limit=2000))
    return "".join(safe)


def _log_facts(repository: Repository, arguments: list[str]) -> list[dict[str, object]]:
    form = "%H%x00%P%x00%an%x00%aI%x00%s%x00%x01"
    output = repository.git.text("log", f"--format=format:{form}", *arguments)
    entries = [entry.strip("\n").split("\0") for entry in output.split("\x01") if entry.strip("\n")]
    return [
        {
            "commit": commit,
            "parents": parents.split(),
            "author": author,
            "date": date,
            "subject": subject,
        }
        for commit, parents, author, date, subject, *_ in entries
    ]


@click.command(epilog="Example: tvc show HEAD")
@click.argument("revision", default="HEAD", shell_complete=complete_revision, metavar="[REV]")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def show(session: Session, *, revision: str, as_json: bool) -> None:
    """Show a commit: who made it and why, its recipe, and what it changed."""
    repository = session.repository()
    commit = repository.git.resolve(revision)
    state = repository.state_at(commit)
    form = "%P%x00%an <%ae>%x00%ad%x00%B"
    facts = repository.git.text("log", "-1", f"--format={form}", "--date=iso-local", commit)
    parents, author, date, message = facts.split("\0", 3)
    before = repository.state_at(parents.split()[0]) if parents else None
    changes = describe_changes(before.recipe, state.recipe) if before else ["the first commit"]
    if as_json:
        click.echo(
            json.dumps(
                _show_facts(commit, parents, author, date, message, state, changes), indent=2
            )
        )
        return
    lines = [f"commit {commit}"]
    lines += [f"merge  {' '.join(parent[:10] for parent in parents.split())}"] * (" " in parents)
    lines += [f"author {printable(author)}", f"date   {date}", ""]
    lines += [f"    {printable(line, limit=500)}" for line in message.strip().splitlines()]
    lines += ["", f"recipe {format_recipe(state.recipe)}", f"id     {_identity(state)}", ""]
    lines += [f"  {line}" for line in changes]
    lines += _vector_lines(state, before)
    session.show("\n".join(lines))


def _identity(state: State) -> str:
    try:
        return recipe_id(state.normal)
    except InputError as error:
        return f"none: {error.message}"


def _vector_lines(state: State, before: State | None) -> list[str]:
    new = [name for name in state.vectors if before is None or name not in before.vectors]
    lines: list[str] = []
    for name in new:
        record = state.vectors[name]
        lines += ["", f"vector {name}: {record.kind}"]
        facts = {**record.provenance, **record.measured}
        lines += [
            # A whole command can be copied.
            f"  {printable(key)}: {printable(str(value), limit=4000 if key == 'command' else 120)}"
            for key, value in facts.items()
        ]
    return lines


def _show_facts(
    commit: str,
    parents: str,
    author: str,
    date: str,
    message: str,
    state: State,
    changes: list[str],
) -> dict[str, object]:
    recipe: Recipe = state.recipe
    return {
        "commit": commit,
        "parents": parents.split(),
        "author": author,
        "date": date,
        "message": message.strip(),
        "recipe": format_recipe(recipe),
        "recipe_id": _identity(state),
        "base": recipe.base,
        "terms": [format_term(term) for term in recipe.terms],
        "vectors": sorted(set(vector_names(recipe.terms))),
        "changes": changes,
    }
