"""Reports: what was asked, how, what was found, and every number, as files in a new folder.

    report.md     for people
    report.json   every number and every setting
    *.png         plots

A report is written beside its place and moved there whole. Absent: what is in it.
"""

import json
import math
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.optimizers.readings import Interval
from tvc_store.durable import sync_folder, write_durably, write_errors

__all__ = [
    "FolderTaken",
    "Report",
    "Table",
    "check_free",
    "format_interval",
    "interval_facts",
    "write_report",
]

_FORMAT: Final = 1


class FolderTaken(InputError):
    """Something is where a report is to be written."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report.

    Args:
        title: What it shows.
        columns: Headings.
        rows: Cells, as text.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Report:
    """What an experiment found.

    Args:
        name: Of the experiment.
        question: What was asked.
        found: Its answer, a sentence each; the first is the answer itself.
        method: How, with controls and intervals, a sentence each.
        limits: What it does not say.
        settings: Every number that it depends on.
        facts: Every number that was measured.
        tables: What people look at first.
        plots: File name → PNG.
    """

    name: str
    question: str
    found: Sequence[str]
    method: Sequence[str]
    limits: Sequence[str]
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    tables: Sequence[Table]
    plots: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


def check_free(folder: Path) -> None:
    """Refuse a place for a report that is not free, before anything is computed for it.

    Raises:
        FolderTaken: Something other than an empty folder is there.
        InputError: The folder that it would lie in is not there.
    """
    name = printable(str(folder))
    if not folder.absolute().parent.is_dir():
        raise InputError(f"there is no folder for {name} to lie in")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise FolderTaken(
            f"{name} is there already", hint="name a folder that is empty or not there yet"
        )


def write_report(report: Report, folder: Path) -> None:
    """Write a report, whole or not at all.

    Args:
        report: What.
        folder: Empty, or not there.

    Raises:
        FolderTaken: Something else has come there meanwhile.
        WriteFailed: The system refused.
    """
    check_free(folder)
    place = folder.absolute()
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    files = {
        "report.md": format_report(report).encode(),
        "report.json": _json(report).encode(),
        **report.plots,
    }
    try:
        with write_errors(folder):
            beside.mkdir()
            for name, data in files.items():
                write_durably(beside / name, [data])
            beside.replace(place)  # over an empty folder too, as rename(2) has it
            sync_folder(place.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def format_report(report: Report) -> str:
    """Write a report as Markdown."""
    lines = [f"# {report.name}", "", report.question, "", "## Found", ""]
    lines += [f"- {each}" for each in report.found]
    for table in report.tables:
        lines += ["", f"### {table.title}", "", *_markdown(table)]
    lines += [line for name in report.plots for line in ("", f"![{name}]({name})")]
    for heading, several in (("How", report.method), ("What this does not say", report.limits)):
        lines += ["", f"## {heading}", "", *(f"- {each}" for each in several)]
    lines += ["", "## Settings", ""]
    settings = [[name, _setting(value)] for name, value in report.settings.items()]
    lines += _markdown(Table("", ("setting", "value"), settings))
    return "\n".join(lines) + "\n"


def _markdown(table: Table) -> list[str]:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]


def _setting(value: object) -> str:
    several = cast("list[object] | tuple[object, ...]", value)
    text = ", ".join(map(str, several)) if isinstance(value, list | tuple) else str(value)
    return printable(text, limit=500)


def _json(report: Report) -> str:
    body = {
        "format": _FORMAT,
        "experiment": report.name,
        "question": report.question,
        "found": list(report.found),
        "method": list(report.method),
        "limits": list(report.limits),
        "settings": report.settings,
        **report.facts,
    }
    return json.dumps(_finite(body), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Return values for JSON, which has neither infinity nor NaN: they become null."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            several = cast("Mapping[Any, Any]", value)
            return {str(key): _finite(each) for key, each in several.items()}
        case list() | tuple():
            return [_finite(each) for each in cast("Sequence[Any]", value)]
        case _:
            return value


def interval_facts(interval: Interval) -> dict[str, float]:
    """Return an interval as values for JSON."""
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def format_interval(
    interval: Interval, *, percent: bool = False, signed: bool = False, digits: int = 3
) -> str:
    """Write a mean with its interval: `0.81 [0.75, 0.86]`, or `81.0 [75.2, 86.1] %`.

    Args:
        interval: What is known.
        percent: In parts of a hundred; differences of them are points.
        signed: It is a difference.
        digits: Of numbers that are no parts of a hundred.
    """
    if math.isnan(interval.mean):
        return "none"
    sign = "+" if signed else ""
    scale, form = (100, f"{sign}.1f") if percent else (1, f"{sign}.{digits}g")
    mean, low, high = (
        format(scale * each, form) for each in (interval.mean, interval.low, interval.high)
    )
    unit = (" points" if signed else " %") if percent else ""
    if not math.isfinite(interval.high):
        return f"{mean}{unit}"
    return f"{mean} [{low}, {high}]{unit}"
