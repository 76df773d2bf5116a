"""tvc lab: experiments on what is not known of behaviours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from tvc.cli.completing import complete_revision
from tvc.cli.lazy import Lazy, LazyGroup, load
from tvc.cli.session import Session, pass_session

__all__ = ["examples_needed", "lab", "learning_rate"]

_COMMANDS: Final = {
    "examples-needed": Lazy(
        "tvc.cli.laboratory:examples_needed", "How many examples change a behaviour?"
    ),
    "learning-rate": Lazy(
        "tvc.cli.laboratory:learning_rate", "What does the learning rate do, and harm?"
    ),
}

_FILE: Final = click.Path(path_type=Path)
_OPTIMIZERS: Final = ("apollo", "apollo-mini", "adamw", "sgd")
_TIERS: Final = ("auto", "full", "frozen-context", "checkpointed")
_WHOLE: Final = click.IntRange(1)

_REPORTING: Final = (
    click.option(
        "-o", "--output", type=_FILE, required=True, metavar="DIR", help="Where the report goes."
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The first."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto"),
    click.option("--threads", type=_WHOLE, help="Of the processor (default: one a core)."),
    click.option("--window", type=click.IntRange(2), default=4096, help="Tokens of a row."),
)
_TRAINING: Final = (
    click.option(
        "--from",
        "origin",
        default="HEAD",
        metavar="REV",
        shell_complete=complete_revision,
        help="Train from this commit (default: HEAD).",
    ),
    click.option("--seeds", type=_WHOLE, default=5, show_default=True, help="Repetitions."),
    click.option("--steps", type=_WHOLE, default=60, show_default=True, help="Of a training."),
    click.option("--batch", type=_WHOLE, default=16, show_default=True, help="Rows of a step."),
    click.option("--micro-batch", type=_WHOLE, default=4, help="Rows at once."),
    click.option("--optimizer", type=click.Choice(_OPTIMIZERS), default="apollo"),
    click.option("--rank", type=_WHOLE, default=256, help="Of Apollo's projections."),
    click.option("--tier", type=click.Choice(_TIERS), default="auto", help="As for tvc train."),
    click.option("--judge", metavar="URL", help="Server of the model that judges."),
    click.option("--judge-model", metavar="NAME", help="The model's name there."),
)
_LR: Final = click.option(
    "--lr", type=float, default=1e-5, show_default=True, help="Learning rate."
)


def _with(*several: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(several):
            command = option(command)
        return command

    return decorate


def _numbers(kind: type[int] | type[float]) -> Callable[..., tuple[float, ...]]:
    """Return what reads numbers that commas separate."""

    def parse(_context: click.Context, _option: click.Parameter, value: str) -> tuple[float, ...]:
        try:
            found = tuple(kind(each) for each in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} are not numbers with commas between") from None
        if any(not 0 <= each < float("inf") for each in found):
            raise click.BadParameter("numbers are at least 0, and finite")
        return found

    return parse


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    epilog="Example: tvc lab examples-needed behaviours.toml listens --data listen.jsonl "
    "--mix general.jsonl:0.25 -o report",
)
def lab() -> None:
    """Experiments on what is not known of behaviours.

    Each writes a report into a new folder: report.md for people, report.json with every number and
    every setting, and plots. All have controls, seeds and intervals, and say what they do not show.
    Models are trained in the repository's private folder; nothing is committed.
    """


@click.command(
    "examples-needed",
    epilog="Example: tvc lab examples-needed behaviours.toml listens --data listen.jsonl "
    "--mix general.jsonl:0.25 -o report",
)
@click.argument("suite", type=_FILE)
@click.argument("behaviour")
@click.option("--data", type=_FILE, required=True, metavar="FILE", help="Examples to draw from.")
@click.option(
    "--mix", required=True, metavar="FILE:SHARE", help="General data; the control has no other."
)
@click.option(
    "--counts",
    default="0,1,2,5,10,20,50",
    show_default=True,
    callback=_numbers(int),
    metavar="NUMBERS",
    help="Numbers of examples; 0, 1 and 2 always.",
)
@_with(_LR, *_TRAINING, *_REPORTING)
@pass_session
def examples_needed(session: Session, **options: Any) -> None:
    """Find how many examples it takes to change a behaviour measurably.

    Trains on 0, 1, 2, … examples, equally many steps each, with general data mixed in; the control
    is general data alone. Every seed draws other examples. Rows are trained on as they are: what
    `tvc train --save-data` wrote has its instructions stripped already.
    """
    load("tvc.cli.work.laboratory:examples_needed")(session, **options)


@click.command(
    "learning-rate",
    epilog="Example: tvc lab learning-rate behaviours.toml listens --data listen.jsonl "
    "--mix general.jsonl:0.25 -o report",
)
@click.argument("suite", type=_FILE)
@click.argument("behaviour")
@click.option("--data", type=_FILE, required=True, metavar="FILE", help="JSONL of dialogues.")
@click.option("--mix", metavar="FILE:SHARE", help="General data.")
@click.option(
    "--rates",
    default="0,1e-6,3e-6,1e-5,3e-5,1e-4,3e-4,1e-3",
    show_default=True,
    callback=_numbers(float),
    metavar="NUMBERS",
    help="Learning rates; 0, the control, always.",
)
@_with(*_TRAINING, *_REPORTING)
@pass_session
def learning_rate(session: Session, **options: Any) -> None:
    """Measure what the learning rate does to a behaviour, and to everything else.

    Trains with each rate, and measures the suite's behaviours, the loss of its general data, and
    how far the model has gone. The control is a rate of 0.
    """
    load("tvc.cli.work.laboratory:learning_rate")(session, **options)
