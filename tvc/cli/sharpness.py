"""tvc sharpness."""

from pathlib import Path
from typing import Any

import click

from tvc.cli.choices import OPTIMIZERS
from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["sharpness"]


def _names(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Split names at commas, and refuse those that are unknown or given twice."""
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in OPTIMIZERS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(OPTIMIZERS)}")
    if len(set(names)) < len(names):
        raise click.BadParameter("an optimizer is named twice")
    return names


@click.command(
    epilog="Example: tvc sharpness listen --data held-out.jsonl --optimizers sgd,adamw,apollo"
)
@click.argument("revision", metavar="[REV]", default="HEAD", shell_complete=complete_revision)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="JSONL of dialogues.",
)
@click.option(
    "--mix",
    "mixes",
    multiple=True,
    metavar="FILE:SHARE",
    help="Mix these in, so that SHARE of the rows are theirs. Repeatable.",
)
@click.option(
    "--optimizers",
    default=",".join(OPTIMIZERS),
    callback=_names,
    metavar="NAMES",
    help=f"Some of {','.join(OPTIMIZERS)} (default: all).",
)
@click.option(
    "--batches", type=click.IntRange(1), default=16, show_default=True, help="That are measured on."
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="Steps before, in which optimizers gather what they keep.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Rows of a batch."
)
@click.option(
    "--lr", type=float, default=1e-5, show_default=True, help="Of the AdamW steps between batches."
)
@click.option(
    "--rank",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Of Apollo's projections.",
)
@click.option(
    "--window", type=click.IntRange(2), default=4096, show_default=True, help="Tokens of a row."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of rows.")
@click.option("--estimate", is_flag=True, help="By forward passes, without Hessian products.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def sharpness(session: Session, **options: Any) -> None:
    """Measure how the loss curves along the steps that optimizers would make.

    The model of REV (default: HEAD) makes AdamW steps in memory, and all optimizers see the same
    gradients. What each would do next, as a direction v of length 1, is measured on the next batch:
    its sharpness v'Hv, the slope, and by how much the loss would fall at the best length of that
    step. Only matrices are moved and measured, not embeddings and norms. Intervals hold 95 % and
    are over batches; nothing is written.
    """
    load("tvc.cli.work.sharpness:sharpness")(session, **options)
