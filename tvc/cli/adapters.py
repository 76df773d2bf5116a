"""tvc import and export: LoRA adapters become vectors, and vectors adapters again."""

from pathlib import Path
from typing import Any

import click

from tvc.cli.completing import complete_vector
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["export", "import_"]


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


@click.command(epilog="Example: tvc export warm -o ../warm-adapter")
@click.argument("name", shell_complete=complete_vector)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Where to write.",
)
@click.option("--force", is_flag=True, help="Replace an adapter that is there.")
@pass_session
def export(session: Session, **options: Any) -> None:
    """Write the adapter that was taken in as the vector NAME, byte for byte.

    NAME may be a vector of any branch. A fine-tune is no adapter: write it with `tvc checkout`.
    """
    load("tvc.cli.work.adapters:export")(session, **options)
