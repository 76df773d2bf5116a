"""tvc bisect."""

from typing import Any

import click

from tvc.cli.completing import complete_revision
from tvc.cli.evaluating import SUITE, measuring_options
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["bisect"]


@click.command(epilog="Example: tvc bisect behaviours.toml hedges v1..main")
@click.argument("suite", type=SUITE)
@click.argument("behaviour")
@click.argument("where", default="HEAD", shell_complete=complete_revision, metavar="[WHERE]")
@click.option("--terms", is_flag=True, help="Search the terms of one recipe, not commits.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Rate from which on a behaviour is shown (default: the middle between the ends).",
)
@click.option("--every", is_flag=True, help="Measure all, and say where it came and went.")
@measuring_options
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def bisect(session: Session, **options: Any) -> None:
    """Find the commit, or the term, that brought a behaviour in.

    WHERE is a range GOOD..BAD of commits; GOOD alone is the range up to HEAD. The line of first
    parents is halved until the first commit is found that is like BAD. With --terms WHERE is one
    commit (default: the working tree), whose terms are added in their order; then the term that
    was found is measured alone, and the recipe without it.
    """
    load("tvc.cli.work.bisecting:bisect")(session, **options)
