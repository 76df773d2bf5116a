"""tvc checkout."""

from pathlib import Path
from typing import Any

import click

from tvc.checkout.dtypes import DTYPES
from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["checkout"]


@click.command(epilog="Example: tvc checkout main -o ../serve && vllm serve ../serve")
@click.argument("revision", default="HEAD", shell_complete=complete_revision, metavar="[REV]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write (default: checkouts/REV in the repository).",
)
@click.option(
    "--force", is_flag=True, help="Replace a model that is there; what is the same is kept."
)
@click.option(
    "--shard-size", default="5GB", show_default=True, help="Largest size of one weight file."
)
@click.option("--dtype", type=click.Choice(list(DTYPES)), help="Cast floating tensors.")
@click.option("--allow-code", is_flag=True, help="Write the source model's Python files too.")
@click.option("--verify", is_flag=True, help="Read everything back and compare it with the ids.")
@click.option(
    "--unservable", is_flag=True, help="Write it although vLLM would not serve it as it is."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, hidden=True)
@pass_session
def checkout(session: Session, **options: Any) -> None:
    """Write the model that a commit's recipe gives, ready for transformers and vLLM.

    REV is a branch, tag or commit. The folder is built beside its target and moved there when it
    is whole. Tensors that one fine-tune alone changed come back bit for bit.

    Where tvc knows the architecture, a model is refused that vLLM would load without saying that a
    tensor is missing, dropped or misnamed.
    """
    load("tvc.cli.work.checkout:checkout")(session, **options)
