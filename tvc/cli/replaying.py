"""tvc revert, cherry-pick and rebase."""

from typing import Any

import click

from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["cherry_pick", "rebase", "revert"]


_MAINLINE = click.option(
    "--mainline",
    type=click.IntRange(min=1),
    metavar="N",
    help="For a merge: the parent to compare it with; 1 is the branch that was merged into.",
)


_NO_COMMIT = click.option("--no-commit", is_flag=True, help="Leave the result in the working tree.")


_MESSAGE = click.option("-m", "--message", help="The commit's message.")


@click.command(epilog="Example: tvc revert HEAD")
@click.argument("revision", shell_complete=complete_revision)
@_MAINLINE
@_MESSAGE
@_NO_COMMIT
@pass_session
def revert(session: Session, **options: Any) -> None:
    """Take back what a commit changed: HEAD - (c - c^).

    Terms cancel as exact fractions, so that reverting the last commit gives the recipe before it,
    and thereby the same bytes.
    """
    load("tvc.cli.work.replaying:revert")(session, **options)


@click.command("cherry-pick", epilog="Example: tvc cherry-pick listen")
@click.argument("revision", shell_complete=complete_revision)
@_MAINLINE
@_MESSAGE
@_NO_COMMIT
@pass_session
def cherry_pick(session: Session, **options: Any) -> None:
    """Repeat what a commit changed: HEAD + (c - c^), with the vectors that it needs."""
    load("tvc.cli.work.replaying:cherry_pick")(session, **options)


@click.command(epilog="Example: tvc rebase --onto ../Qwen3-0.6B-Base")
@click.option(
    "--onto", required=True, metavar="BASE", help="A base here, a folder, or a hub id ORG/NAME@REV."
)
@click.option("--name", metavar="NAME", help="What to call a new base here.")
@click.option("--vendor", is_flag=True, help="Copy a new base into the store.")
@_MESSAGE
@_NO_COMMIT
@pass_session
def rebase(session: Session, **options: Any) -> None:
    """Put the recipe's sum on another base model, as a new commit.

    The vectors stay what they are: differences from the model that each was trained from.
    """
    load("tvc.cli.work.replaying:rebase")(session, **options)
