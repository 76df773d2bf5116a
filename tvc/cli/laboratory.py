"""tvc lab: experiments on what is not known of behaviours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from tvc.cli.choices import OPTIMIZERS, TIERS
from tvc.cli.completing import complete_revision
from tvc.cli.lazy import Lazy, LazyGroup, load
from tvc.cli.session import Session, pass_session

__all__ = [
    "backward_transfer",
    "examples_needed",
    "lab",
    "learning_rate",
    "state_direction",
    "which_heads",
]

_COMMANDS: Final = {
    "examples-needed": Lazy(
        "tvc.cli.laboratory:examples_needed", "How many examples change a behaviour?"
    ),
    "learning-rate": Lazy(
        "tvc.cli.laboratory:learning_rate", "What does the learning rate do, and harm?"
    ),
    "backward-transfer": Lazy(
        "tvc.cli.laboratory:backward_transfer", "What do vectors do to those before them?"
    ),
    "state-direction": Lazy(
        "tvc.cli.laboratory:state_direction", "Do states of gated delta nets become a direction?"
    ),
    "which-heads": Lazy("tvc.cli.laboratory:which_heads", "Which heads did a training change?"),
}

_FILE: Final = click.Path(path_type=Path)
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
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="apollo"),
    click.option("--rank", type=_WHOLE, default=256, help="Of Apollo's projections."),
    click.option("--tier", type=click.Choice(TIERS), default="auto", help="As for tvc train."),
    click.option("--judge", metavar="URL", help="Server of the model that judges."),
    click.option("--judge-model", metavar="NAME", help="The model's name there."),
)
_COMPARING: Final = (
    click.option(
        "--against",
        metavar="REV",
        shell_complete=complete_revision,
        help="What it is compared with (default: REV's first parent).",
    ),
    click.option("--vector", metavar="NAME", help="Look at this vector alone, added to the base."),
    click.option("--seeds", type=_WHOLE, default=5, show_default=True, help="Random changes."),
    click.option(
        "--rows",
        type=click.IntRange(2),
        default=64,
        show_default=True,
        help="Of the data, at most.",
    ),
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


def _stages(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, Path], ...]:
    """Read `NAME=FILE`, several times."""
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise click.BadParameter(f"{value!r} is not NAME=FILE")
    return tuple((name, Path(file)) for name, _, file in (each.partition("=") for each in values))


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


@click.command(
    "backward-transfer",
    epilog="Example: tvc lab backward-transfer behaviours.toml --stage listens=listen.jsonl "
    "--stage brief=brief.jsonl --stage asks=ask.jsonl --mix general.jsonl:0.25 -o report",
)
@click.argument("suite", type=_FILE)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    required=True,
    callback=_stages,
    metavar="NAME=FILE",
    help="A behaviour of the suite and its data; at least three, in order.",
)
@click.option(
    "--mix", required=True, metavar="FILE:SHARE", help="General data; a control has no other."
)
@_with(_LR, *_TRAINING, *_REPORTING)
@pass_session
def backward_transfer(session: Session, **options: Any) -> None:
    """Measure what behaviours that are trained one on another do to each other.

    Writes the transfer matrix, backward and forward transfer and forgetting, over seeds. Controls:
    the same stages in other orders, and as many stages of general data alone.
    """
    load("tvc.cli.work.laboratory:backward_transfer")(session, **options)


@click.command(
    "state-direction",
    epilog="Example: tvc lab state-direction listen --data proposals.jsonl -o report",
)
@click.argument("revision", metavar="[REV]", default="HEAD", shell_complete=complete_revision)
@click.option("--data", type=_FILE, required=True, metavar="FILE", help="JSONL; its contexts.")
@_with(*_COMPARING, *_REPORTING)
@pass_session
def state_direction(session: Session, **options: Any) -> None:
    """Ask whether states of gated delta nets become direction-shaped.

    Compares the recurrent states after contexts, before and after what REV (default: HEAD) changed:
    do their changes point the same way, whatever the context? The control is random changes of
    equal norm, tensor by tensor. Models without such layers are refused.
    """
    load("tvc.cli.work.comparing_models:state_direction")(session, **options)


@click.command(
    "which-heads",
    epilog="Example: tvc lab which-heads listen --data listen.jsonl -o report",
)
@click.argument("revision", metavar="[REV]", default="HEAD", shell_complete=complete_revision)
@click.option("--data", type=_FILE, required=True, metavar="FILE", help="JSONL of dialogues.")
@click.option("--top", type=_WHOLE, default=10, show_default=True, help="Heads that are listed.")
@_with(*_COMPARING, *_REPORTING)
@pass_session
def which_heads(session: Session, **options: Any) -> None:
    """Find the heads that a training changed: their weights, and what they say.

    For every head of attention and of gated delta nets, the relative change of its slices of the
    weights, and of what it adds where the data's decisions are predicted, by what REV (default:
    HEAD) changed. The control is random changes of equal norm, tensor by tensor.
    """
    load("tvc.cli.work.comparing_models:which_heads")(session, **options)
