"""What is wrong with data: all of it at once, each with its file and line.

Absent: finding it, which whoever reads and renders does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tvc.domain.errors import InputError

__all__ = ["BadRows", "Problem"]

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one row.

    Args:
        source: `FILE:LINE`.
        words: What is wrong, without a full stop.
    """

    source: str
    words: str

    def __str__(self) -> str:
        return f"{self.source}: {self.words}"


class BadRows(InputError):
    """Rows of data are wrong.

    Args:
        problems: At least one.
        total: Rows that were looked at; 0 where that says nothing.
    """

    def __init__(self, problems: Sequence[Problem], *, total: int = 0) -> None:
        lines = [str(each) for each in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"and {len(problems) - _SHOWN} more bad rows")
        hint = f"{len(problems)} of {total} rows are bad" if total and len(problems) > 1 else None
        super().__init__("\n".join(lines), hint=hint)
        self.problems = tuple(problems)
