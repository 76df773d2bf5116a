"""What tvc scale --sweep does: a coefficient's range, in the terminal and as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from tvc.behaviours.intervals import Rate
from tvc.behaviours.suite import read_suite
from tvc.behaviours.sweeping import Point, parse_range, with_term
from tvc.behaviours.sweeping import sweep as sweep_term
from tvc.cli.lazy import load
from tvc.cli.session import Session
from tvc.cli.work.evaluating import format_rate, measured_facts, measuring
from tvc.domain.errors import InputError
from tvc.domain.recipe import format_number
from tvc_store.durable import write_durably

__all__ = ["sweep"]

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_MOST: Final = 50  # characters of a bar


def sweep(
    session: Session,
    *,
    vector: str,
    sweep: str,
    suite: Path,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Do what `tvc scale --sweep` says; its options are the command's."""
    numbers, read, repository = parse_range(sweep), read_suite(suite), session.repository()
    draw = _drawing() if plot else None  # before an hour of work, not after it
    with measuring(session, repository, read, **options) as evaluator:
        points = sweep_term(with_term(repository, vector), vector, numbers, evaluator.evaluate)
    if draw and plot:
        write_durably(plot, [draw(points, term=vector)])
        session.note(f"drawn to {plot}")
    if as_json:
        facts = [
            {"coefficient": format_number(each.coefficient), **measured_facts(each.measured)}
            for each in points
        ]
        click.echo(json.dumps(facts, indent=2))
    else:
        session.show("\n".join(_lines(points, Console().width)))


def _drawing() -> Any:
    try:
        return load("tvc.behaviours.plotting:draw_sweep")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, and --plot needs it",
            hint="pip install 'tvc[train]'",
        ) from None


def _lines(points: Sequence[Point], width: int) -> list[str]:
    """Return a bar for each coefficient, behaviour by behaviour."""
    numbers = [format_number(point.coefficient) for point in points]
    left = max(map(len, numbers))
    room = max(10, min(_MOST, width - left - 22))
    lines: list[str] = []
    for name in points[0].measured.behaviours:
        rates = [point.measured.behaviours[name].alone.rate for point in points]
        lines += ["", name] if lines else [name]
        lines += [
            f"  {number:>{left}}  {_bar(rate, room)}  {format_rate(rate)}"
            for number, rate in zip(numbers, rates, strict=True)
        ]
    losses = [point.measured.loss for point in points]
    if all(losses):
        lines += ["", "general loss"]
        lines += [
            f"  {number:>{left}}  {loss.value:.3f}"
            for number, loss in zip(numbers, losses, strict=True)
            if loss is not None
        ]
    return lines


def _bar(rate: Rate, room: int) -> str:
    """Return a bar of eighths of characters; the interval's far end is a point."""
    eighths = round(rate.value * room * 8)
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    end = min(room - 1, round(rate.interval[1] * room))
    if end > len(bar):
        bar = f"{bar:{end}}·"
    return f"{bar:{room}}"
