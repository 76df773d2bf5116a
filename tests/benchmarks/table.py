"""Rows of results, and the file that keeps them.

A row is a ratio against a named other thing, measured in the same run. RESULTS.md has a section for
each group of rows, each with its own date, machine and versions, since groups are measured apart:
a run replaces the sections of the groups that it ran and leaves the others alone.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "Row",
    "Section",
    "dump_rows",
    "keep",
    "load_rows",
    "not_measured",
    "parse_sections",
    "section_text",
]

_HEADING: Final = re.compile(r"^## (.+)$", re.MULTILINE)
_INTRODUCTION: Final = """\
# Results

Each ratio is against a named other thing, measured in the same run and in turns with it; of
several runs the least counts, and the greatest is in brackets. CPU is user and system time of a
command and all that it started. A target is what was asked for before anything was built; what
misses it says so.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Args:
        what: What was measured, and against what.
        ratio: The figure, or None where it could not be had; `behind` then says why.
        behind: The measurements that the ratio is made of.
        at_most: A target that the ratio is not to exceed.
        at_least: A target that the ratio is to reach.
    """

    what: str
    ratio: float | None
    behind: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_missed(self) -> bool:
        """Whether there is a target, a figure, and the figure does not meet the target."""
        if self.ratio is None:
            return False
        return (self.at_most is not None and self.ratio > self.at_most) or (
            self.at_least is not None and self.ratio < self.at_least
        )

    @property
    def target(self) -> str:
        """The target as text, empty where there is none."""
        parts = [
            f"{sign} {_number(value)}"
            for sign, value in (("≤", self.at_most), ("≥", self.at_least))
            if value is not None
        ]
        return " and ".join(parts) + (", missed" if self.is_missed else "")

    def cells(self) -> tuple[str, str, str, str]:
        """Return the row as text: ratio, target, what, behind."""
        ratio = "n/a" if self.ratio is None else _number(self.ratio)
        return ratio, self.target, _one_line(self.what), _one_line(self.behind)


def not_measured(what: str, why: str) -> Row:
    """Return a row without a figure.

    Args:
        what: What would have been measured.
        why: What stood in the way.
    """
    return Row(what, None, f"not measured: {why}")


def _number(value: float) -> str:
    """Return three significant digits, never in scientific notation."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    text = f"{value:#.3g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text.rstrip(".")


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def dump_rows(rows: Iterable[Row]) -> str:
    """Return rows as JSON, for `load_rows`."""
    return json.dumps([asdict(row) for row in rows])


def load_rows(text: str) -> list[Row]:
    """Return the rows of `dump_rows`."""
    return [Row(**each) for each in json.loads(text)]


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one group.

    Args:
        title: What the group is about, one line.
        facts: When, where and with what it was measured, a line each.
        rows: Its rows.
    """

    title: str
    facts: Sequence[str]
    rows: Sequence[Row]


def section_text(section: Section) -> str:
    """Return a section in Markdown, without its heading."""
    lines = [f"- {fact}" for fact in section.facts]
    lines += ["", "| ratio | target | what | measured |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row.cells())} |" for row in section.rows]
    return "\n".join(lines).replace("|  |", "| |") + "\n"


def parse_sections(text: str) -> dict[str, str]:
    """Return the bodies of the sections of a results file, by title."""
    parts = _HEADING.split(text)
    return {
        title: body.strip() + "\n" for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def keep(path: Path, measured: Iterable[Section], *, order: Sequence[str]) -> None:
    """Write sections to a results file, in place of those of the same titles.

    Args:
        path: The file; where it is missing it is made.
        measured: What was measured now.
        order: All titles in the order of the file; other sections are dropped.
    """
    kept: Mapping[str, str] = parse_sections(path.read_text()) if path.exists() else {}
    bodies = {**kept, **{section.title: section_text(section) for section in measured}}
    texts = [f"## {title}\n\n{bodies[title]}" for title in order if title in bodies]
    path.write_text("\n".join([_INTRODUCTION, *texts]))
