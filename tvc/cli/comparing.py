"""tvc diff: recipes, without loading a weight; weights only where interference is asked for."""

import json

import click

from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session
from tvc.domain.changes import describe_changes
from tvc.domain.names import printable
from tvc.domain.recipe import Recipe, difference, format_recipe, format_sum, vector_names
from tvc.repository.state import State

__all__ = ["diff"]


@click.command(epilog="Example: tvc diff main~1 main")
@click.argument("old", required=False, shell_complete=complete_revision)
@click.argument("new", required=False, shell_complete=complete_revision)
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@click.option(
    "--interference",
    is_flag=True,
    help="Say how much what each changed since their merge base is in the other's way.",
)
@pass_session
def diff(
    session: Session, *, old: str | None, new: str | None, as_json: bool, interference: bool
) -> None:
    """Show NEW - OLD: the terms and carried files in which two recipes differ.

    Without NEW the working tree is compared with OLD, without OLD with HEAD. With --interference
    two branches are compared by their weights, as `tvc vectors compare` does, and nothing else.
    """
    if interference:
        if old is None or new is None:
            raise click.UsageError("--interference compares two branches: name both")
        compare = load("tvc.cli.inspecting_vectors:compare")
        click.get_current_context().invoke(compare, names=(old, new), as_json=as_json)
        return
    repository = session.repository()
    before = repository.state_at("HEAD" if old is None else old)
    after = repository.state_at(new) if new is not None else repository.working_state()
    everything = State(
        after.recipe, {**before.bases, **after.bases}, {**before.vectors, **after.vectors}
    )
    library = everything.library()
    left, right = (library.normal_form(each.recipe) for each in (before, after))
    gap = library.display(Recipe(right.base, difference(right.terms, left.terms))).terms
    changes = describe_changes(library.display(left), library.display(right))
    files = _files(before, after)
    if as_json:
        facts = {
            "old": format_recipe(before.recipe),
            "new": format_recipe(after.recipe),
            "difference": format_sum(gap),
            "changes": changes,
            "files": files,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    if not changes and not files:
        session.say("the recipes are the same")
        return
    lines = [f"old  {format_recipe(before.recipe)}", f"new  {format_recipe(after.recipe)}"]
    lines += [f"diff {format_sum(gap)}", "", *changes]
    lines += [f"{printable(path)}: from {printable(owner)}" for path, owner in files.items()]
    session.show("\n".join(lines))


def _files(before: State, after: State) -> dict[str, str]:
    """Return the carried files that vectors of one recipe alone change, and which vector."""
    old, new = (set(vector_names(state.recipe.terms)) for state in (before, after))
    found: dict[str, str] = {}
    for state, names, mark in ((before, old - new, "no longer "), (after, new - old, "")):
        for name in sorted(names):
            changed = str(state.vectors[name].measured.get("changed_files", ""))
            found |= {path: f"{mark}{name}" for path in changed.split(", ") if path}
    return found
