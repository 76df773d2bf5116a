"""tvc commit."""

from pathlib import Path
from typing import Any

import click

from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["commit"]


@click.command(
    epilog='Example: tvc commit ../runs/listen -m "Listen before suggesting" --name listen'
)
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="[DIR]")
@click.option("-m", "--message", help="What the commit is for.")
@click.option("--name", metavar="NAME", help="What to call the vector (default: DIR's name).")
@click.option(
    "--allow-missing",
    multiple=True,
    metavar="TENSOR",
    help="DIR may lack this tensor; it counts as unchanged. Repeatable.",
)
@click.option(
    "--drop-extra",
    multiple=True,
    metavar="TENSOR",
    help="Leave this tensor of DIR out of the vector. Repeatable.",
)
@click.option("--resize-vocab", is_flag=True, help="DIR's vocabulary may have grown.")
@click.option("--allow-dtype", is_flag=True, help="DIR's tensors may have another element type.")
@click.option("--from", "origin", metavar="REV", help="DIR was trained from REV, not from HEAD.")
@pass_session
def commit(session: Session, **options: Any) -> None:
    """Record the model in DIR, or without DIR the edited recipe.

    With DIR, what DIR changed against the model that HEAD's recipe gives becomes a task vector,
    and HEAD's recipe gains it at coefficient 1: `tvc checkout` then gives DIR back bit for bit.
    Without DIR, the recipe as `tvc add`, `scale`, `negate` and `remove` (or an editor) left it is
    committed, or a merge whose conflicts were resolved is finished.
    """
    load("tvc.cli.work.recording:commit")(session, **options)
