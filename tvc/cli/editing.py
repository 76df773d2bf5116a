"""tvc add, negate, scale and remove: edits of the recipe in the working tree."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from tvc.cli.completing import complete_term, complete_vector
from tvc.cli.evaluating import SUITE, measuring_options
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session
from tvc.domain.changes import describe_changes
from tvc.domain.grammar import parse_number, parse_sum
from tvc.domain.recipe import format_recipe, vector_names
from tvc.repository.state import State
from tvc.versioning.editing import add_term, find_vectors, remove_term, scale_term

__all__ = ["add", "negate", "remove", "scale"]


def _edit(session: Session, edit: Callable[[State], State], *, names_in: str = "") -> None:
    """Apply an edit to the working tree's recipe and say what it changed."""
    repository = session.repository()
    with repository.change(session.command_line, waiting=session.waiting) as change:
        before = repository.working_state()
        names = vector_names(parse_sum(names_in)) if names_in else ()
        after = edit(find_vectors(repository, before, names))
        change.edit(after)
    for line in describe_changes(before.recipe, after.recipe):
        session.say(line)
    session.say(f"recipe: {format_recipe(after.recipe)}")
    session.say("(record it with: tvc commit -m …)")


@click.command(epilog="Example: tvc add hedging --scale -0.5")
@click.argument("vector", shell_complete=complete_vector)
@click.option("--scale", "factor", default="1", metavar="K", help="Coefficient: 0.5, -1, 1/3.")
@pass_session
def add(session: Session, *, vector: str, factor: str) -> None:
    """Add K times a vector to the recipe: HEAD + K v.

    VECTOR is a name, of this branch or of another one, or a whole term such as
    "ties(a, b; density=0.2)". The edit stays in the working tree until `tvc commit`.
    """
    scale = parse_number(factor)
    _edit(
        session,
        lambda state: add_term(state, parse_sum(vector), scale=scale),
        names_in=vector,
    )


@click.command(epilog="Example: tvc negate hedging")
@click.argument("vector", shell_complete=complete_vector)
@pass_session
def negate(session: Session, *, vector: str) -> None:
    """Subtract a vector from the recipe: HEAD - v.

    A vector that is in the recipe once is thereby taken out of it; one that is not is added with
    the coefficient -1, which turns its behaviour around.
    """
    _edit(
        session,
        lambda state: add_term(state, parse_sum(vector), scale=Fraction(-1)),
        names_in=vector,
    )


# A coefficient may be negative, and must not be taken for an option.
@click.command(
    epilog="Example: tvc scale brief 0.8", context_settings={"ignore_unknown_options": True}
)
@click.argument("vector", shell_complete=complete_term)
@click.argument("coefficient", required=False)
@click.option(
    "--sweep",
    metavar="FIRST:LAST:STEP",
    help="Measure a range of coefficients, and change nothing.",
)
@click.option("--suite", type=SUITE, metavar="SUITE", help="What --sweep measures.")
@click.option("--plot", type=SUITE, metavar="FILE", help="Draw the sweep to a PNG too.")
@measuring_options
@click.option("--json", "as_json", is_flag=True, help="With --sweep: print facts as JSON.")
@pass_session
def scale(
    session: Session,
    *,
    vector: str,
    coefficient: str | None,
    sweep: str | None,
    suite: Path | None,
    **options: Any,
) -> None:
    """Give a term of the recipe another coefficient, or see what others would do.

    VECTOR is a vector's name, or a merge as it stands in the recipe. COEFFICIENT is exact: 0.8,
    -1 or 1/3. With --sweep 0:1.5:0.25 the recipe is measured by a suite with each of these,
    and with the vector added where it is not in the recipe.
    """
    if sweep is not None:
        if coefficient is not None or suite is None:
            raise click.UsageError("--sweep needs --suite SUITE, and no coefficient")
        load("tvc.cli.work.sweeping:sweep")(
            session, vector=vector, sweep=sweep, suite=suite, **options
        )
        return
    given = [name for name in ("plot", "as_json") if options[name]] + ["suite"] * bool(suite)
    if given:
        raise click.UsageError(f"--{given[0].removeprefix('as_')} needs --sweep")
    if coefficient is None:
        raise click.UsageError("say which coefficient, or --sweep FIRST:LAST:STEP")
    number = parse_number(coefficient)
    _edit(session, lambda state: scale_term(state, vector, number))


@click.command(epilog="Example: tvc remove brief")
@click.argument("vector", shell_complete=complete_term)
@pass_session
def remove(session: Session, *, vector: str) -> None:
    """Remove a term from the recipe.

    VECTOR is a vector's name, or a merge as it stands in the recipe. The vector itself stays.
    """
    _edit(session, lambda state: remove_term(state, vector))
