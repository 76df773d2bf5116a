"""tvc train."""

from pathlib import Path
from typing import Any, Final

import click

from tvc.cli.choices import OPTIMIZERS, TIERS
from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["train"]


FILE: Final = click.Path(path_type=Path)


@click.command(
    epilog="Example: tvc train listen --data listen.jsonl --tier frozen-context "
    '--mix general.jsonl:0.25 --strip-instructions -m "Listen before suggesting"'
)
@click.argument("name")
@click.option("--data", type=FILE, metavar="FILE", help="JSONL of dialogues.")
@click.option(
    "--mix",
    "mixes",
    multiple=True,
    metavar="FILE:SHARE",
    help="Mix these in, so that SHARE of the rows are theirs. Repeatable.",
)
@click.option(
    "--tier",
    type=click.Choice(TIERS),
    default="auto",
    show_default=True,
    help="How far the gradient goes; auto: by length.",
)
@click.option(
    "--strip-instructions",
    is_flag=True,
    help="Train without the instructions that rows mark; missing responses are generated with "
    "them first.",
)
@click.option(
    "--guidance", metavar="TEXT|@FILE", help="An instruction to generate with, then to strip."
)
@click.option(
    "--verifier", metavar="VERIFIER", help="Keep responses that pass: regex:…, FILE.py:NAME, …"
)
@click.option("--endpoint", metavar="URL", help="Generate by this server, not by the model.")
@click.option("--endpoint-model", metavar="NAME", help="The model's name there.")
@click.option("--judge", metavar="URL", help="Server of the model that judges.")
@click.option("--judge-model", metavar="NAME", help="The model's name there.")
@click.option("--samples", type=click.IntRange(1), default=1, help="Responses for a row.")
@click.option("--tries", type=click.IntRange(1), default=4, help="Rounds until one is accepted.")
@click.option("--temperature", type=float, default=0.7, help="Of generated responses.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, help="Of generated responses.")
@click.option("--save-data", type=FILE, metavar="FILE", help="Write the stripped data there.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="apollo", show_default=True)
@click.option("--rank", type=int, default=256, show_default=True, help="Of Apollo's projections.")
@click.option("--multiplier", type=float, default=1.0, help="Of Apollo's scale.")
@click.option("--lr", type=float, default=1e-5, show_default=True, help="Learning rate.")
@click.option("--weight-decay", type=float, default=0.0, help="Towards the model trained from.")
@click.option("--clip", type=float, default=0.0, help="Cut a step's gradient to this norm.")
@click.option("--schedule", type=click.Choice(["linear", "cosine", "constant"]), default="linear")
@click.option("--warmup", type=int, default=0, help="Steps in which the learning rate rises.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="So many steps, whatever --epochs says.")
@click.option("--batch", type=int, default=16, show_default=True, help="Rows of a step.")
@click.option("--micro-batch", type=int, default=4, show_default=True, help="Rows at once.")
@click.option(
    "--template",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give the chat template this: enable_thinking=false. Repeatable.",
)
@click.option(
    "--checkpoint-decisions", is_flag=True, help="Frozen context: compute decisions twice."
)
@click.option(
    "--window", type=click.IntRange(2), default=4096, show_default=True, help="Tokens of a row."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--keep-delta",
    type=click.Choice(["float32", "bfloat16", "none"]),
    default="float32",
    show_default=True,
    help="How the vector keeps the difference itself.",
)
@click.option("--checkpoint-every", type=int, default=100, show_default=True, metavar="STEPS")
@click.option("--processes", type=int, default=1, show_default=True, help="That share weights.")
@click.option(
    "--threads",
    type=int,
    help="Of each process (default: one a core; a small model is faster with 1).",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--from",
    "origin",
    default="HEAD",
    metavar="REV",
    shell_complete=complete_revision,
    help="Train from this commit (default: HEAD).",
)
@click.option("-m", "--message", help="What the commit is for.")
@click.option("--suite", type=FILE, metavar="FILE", help="Evaluate the commit and its parent.")
@click.option(
    "--live",
    metavar="URL",
    help="Let this server, started by tvc serve, follow the training, and end as its commit.",
)
@click.option(
    "--live-every", type=click.IntRange(1), default=10, show_default=True, metavar="STEPS"
)
@click.option(
    "--live-mode",
    type=click.Choice(["paused", "hogwild"]),
    default="paused",
    show_default=True,
    help="Wait for the server's requests at every push, or write while they run.",
)
@click.option(
    "--live-share",
    is_flag=True,
    help="With hogwild, on one machine: write to the memory that the server computes with.",
)
@click.option("--live-key", envvar="VLLM_API_KEY", metavar="KEY", help="That server's, if any.")
@click.option("--no-commit", is_flag=True, help="Leave the tuned model for tvc commit.")
@click.option("--resume", is_flag=True, help="Go on with the training of NAME that was stopped.")
@click.option("--discard", is_flag=True, help="Forget the training of NAME that was stopped.")
@pass_session
def train(session: Session, **options: Any) -> None:
    """Train a behaviour on HEAD's model, and commit it as the vector NAME.

    Only the decisions of the data are trained on: the assistant's last messages, or what rows mark.
    With a frozen context, what stands before them is encoded once, without gradient. The vector
    keeps the difference as it was trained, and where it came from: data, numbers, seed, and the
    command that repeats it. A training that was stopped goes on with --resume, to the same weights.

    With --live, a running server holds the weights of every so many steps while they are trained. A
    push that fails ends the pushing, never the training.
    """
    load("tvc.cli.work.training:train")(session, **options)
