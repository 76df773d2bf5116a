"""tvc eval, and the options of all commands that measure behaviours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["SUITE", "evaluate", "measuring_options"]

SUITE: Final = click.Path(path_type=Path)

_MEASURING: Final = (
    click.option("--rerun", is_flag=True, help="Measure again what was measured before."),
    click.option("--judge", metavar="URL", help="Server of the model that judges."),
    click.option("--judge-model", metavar="NAME", help="The model's name there."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto"),
    click.option(
        "--batch",
        type=click.IntRange(1, 4096),
        default=16,
        show_default=True,
        help="Prompts answered at once.",
    ),
)


def measuring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say how behaviours are measured."""
    for option in reversed(_MEASURING):
        command = option(command)
    return command


@click.command(epilog="Example: tvc eval behaviours.toml base listen main")
@click.argument("suite", type=SUITE)
@click.argument("revisions", nargs=-1, shell_complete=complete_revision, metavar="[REV]...")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="RECIPE",
    help='A recipe that nobody committed: "base + 0.5 * listen". Repeatable.',
)
@click.option("--matrix", is_flag=True, help="Say how commits of a chain changed each other's.")
@click.option("--no-distance", is_flag=True, help="Leave out how far models are from their base.")
@click.option(
    "--answers", type=SUITE, metavar="FILE", help="Write every answer and its verdict, as JSONL."
)
@measuring_options
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def evaluate(session: Session, **options: Any) -> None:
    """Measure which behaviours models show.

    SUITE is a TOML file of behaviours, each with prompts and a verifier. REV is a commit, a range
    A..B of commits, or `base`, the base model; without any, the working tree's recipe. Results are
    kept, and stand with their commits as git notes (refs/notes/tvc-eval).

    Rates have 95 % intervals (Wilson). A star marks a rate that differs from that of the first
    model on the same prompts (McNemar's exact test, p < 0.05).
    """
    load("tvc.cli.work.evaluating:evaluate")(session, **options)
