"""tvc import and export: LoRA adapters become vectors, and vectors adapters again."""

from pathlib import Path
from typing import Any

import click

from tvc.cli.completing import complete_vector
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["export", "import_", "read_rank"]


def read_rank(_context: click.Context, _option: click.Parameter, said: str | None) -> int | None:
    """Return the rank that an option says, None for `auto` and where it is not given."""
    if said is None or said == "auto":
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 8 and int(said) > 0):
        raise click.BadParameter(f"{said[:20]!r} is no rank: write a number from 1 on, or auto")
    return int(said)


@click.command("import", epilog='Example: tvc import ../lora --name warm -m "Warmer"')
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--name", required=True, metavar="NAME", help="What to call the vector.")
@click.option("-m", "--message", help="What the commit is for.")
@click.option("--no-add", is_flag=True, help="Only keep the vector; leave the recipe as it is.")
@click.option("--no-commit", is_flag=True, help="Leave the result in the working tree.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def import_(session: Session, **options: Any) -> None:
    """Take the LoRA adapter in DIR in as a vector, trained on what HEAD's recipe gives.

    The adapter is kept as its factors, and HEAD's recipe gains it at coefficient 1, as with `tvc
    commit DIR`. What is not exactly a sum of low-rank products is refused.
    """
    load("tvc.cli.work.adapters:import_")(session, **options)


@click.command(epilog="Example: tvc export listen --lora --rank 64 -o ../adapters")
@click.argument("name", shell_complete=complete_vector)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Where to write.",
)
@click.option("--lora", is_flag=True, help="Make the LoRA adapter that is nearest to NAME.")
@click.option(
    "--rank",
    callback=read_rank,
    metavar="N|auto",
    help="With --lora: rank of its factors. Default: auto, the smallest that keeps --energy.",
)
@click.option(
    "--energy",
    type=float,
    metavar="SHARE",
    help="With --rank auto: share of the squared norm of all that changes. Default: 0.9.",
)
@click.option(
    "--target",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="With --lora: change only modules of this name (q_proj). Can be repeated.",
)
@click.option("--force", is_flag=True, help="Replace an adapter that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def export(session: Session, *, lora: bool, **options: Any) -> None:
    """Write the vector NAME as an adapter for PEFT and vLLM.

    An adapter that was taken in is written byte for byte. Any vector, or what changed between two
    revisions (main..listen), is written with --lora as a low-rank approximation, matrix by matrix:
    what the adapter keeps and what it cannot hold is said, as shares of the squared norm.
    """
    if lora:
        load("tvc.cli.work.low_rank:export")(session, **options)
        return
    for option, given in (
        ("--rank", options.pop("rank") is not None),
        ("--energy", options.pop("energy") is not None),
        ("--target", bool(options.pop("modules"))),
    ):
        if given:
            raise click.UsageError(f"{option} is for --lora")
    load("tvc.cli.work.adapters:export")(session, **options)
