"""tvc vectors inspect and compare, which read weights."""

from typing import Any

import click

from tvc.cli.completing import complete_revision, complete_vector
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["compare", "inspect"]


@click.command(epilog="Example: tvc vectors inspect listen")
@click.argument("name", shell_complete=complete_vector)
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def inspect(session: Session, **options: Any) -> None:
    """Say what the vector NAME changes: how much, where, and where it came from.

    The norm is the Euclidean length of the difference from the model that it was trained from;
    sparsity is the share of elements that are not changed. NAME may be a vector of any branch.
    """
    load("tvc.cli.work.inspecting_vectors:inspect")(session, **options)


@click.command(epilog="Example: tvc vectors compare listen brief")
@click.argument(
    "names", nargs=-1, required=True, shell_complete=complete_revision, metavar="NAME..."
)
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def compare(session: Session, **options: Any) -> None:
    """Say how much vectors, or branches, are in each other's way.

    A NAME is a vector of any branch, or else a branch, tag or commit: that stands for what it
    changed since the merge base of all that are named. Large are the 20 % of each tensor's
    elements that are changed most.
    """
    load("tvc.cli.work.inspecting_vectors:compare")(session, **options)
