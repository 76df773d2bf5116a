"""The operation log: every move with where the repository stood before, so that it can go back.

jj's idea. One small file an operation, written after the move and before its journal is removed. An
undo is an operation too; undoing again goes further back.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tvc.domain.documents import BadDocument
from tvc.domain.errors import StateError
from tvc.repository.layout import Layout
from tvc.repository.position import Position
from tvc.repository.state import read_plain_file
from tvc_store.durable import make_folder, write_durably

__all__ = [
    "OUTSIDE",
    "Operation",
    "last_operation",
    "next_to_undo",
    "operations",
    "read_log",
    "record_operation",
]

OUTSIDE: Final = "(changes made without tvc)"
_KEPT: Final = 1000
_MAX_FILE: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Operation:
    """One move.

    Args:
        number: Counted from 1.
        time: Seconds since the epoch.
        command: The command line.
        before: Where the repository stood.
        after: Where it stood then.
        undoes: Number of the operation that it took back, if it is an undo.
    """

    number: int
    time: float
    command: str
    before: Position
    after: Position
    undoes: int | None = None


def record_operation(layout: Layout, operation: Operation) -> None:
    """Write an operation, durably, and drop those beyond the last thousand."""
    make_folder(layout.operations)
    body = {
        "time": operation.time,
        "command": operation.command,
        "before": operation.before.to_json(),
        "after": operation.after.to_json(),
        "undoes": operation.undoes,
    }
    write_durably(_file(layout, operation.number), [json.dumps(body).encode()])
    _file(layout, operation.number - _KEPT).unlink(missing_ok=True)


def operations(layout: Layout) -> list[Operation]:
    """Return all operations kept, oldest first."""
    return [_read(layout, number) for number in _numbers(layout)]


def read_log(layout: Layout) -> tuple[list[Operation], dict[Path, StateError]]:
    """Return the operations that can be read, oldest first, and why the others cannot, by file."""
    found: list[Operation] = []
    damaged: dict[Path, StateError] = {}
    for number in _numbers(layout):
        try:
            found.append(_read(layout, number))
        except (StateError, BadDocument) as error:
            damaged[_file(layout, number)] = StateError(error.message, hint=error.hint)
    return found, damaged


def last_operation(layout: Layout) -> Operation | None:
    """Return the newest operation, if there is one."""
    numbers = _numbers(layout)
    return _read(layout, numbers[-1]) if numbers else None


def next_to_undo(layout: Layout) -> Operation:
    """Return the operation that an undo takes back now.

    Raises:
        StateError: There is nothing left to undo.
    """
    numbers = _numbers(layout)
    number = numbers[-1] if numbers else 0
    while number in numbers:
        operation = _read(layout, number)
        if operation.undoes is None:
            return operation
        number = operation.undoes - 1
    raise StateError("there is nothing left to undo", hint="`tvc op log` lists the operations")


def _numbers(layout: Layout) -> list[int]:
    if not layout.operations.is_dir():
        return []
    names = (path.name.removesuffix(".json") for path in layout.operations.glob("*.json"))
    return sorted(int(name) for name in names if name.isdigit())


def _file(layout: Layout, number: int) -> Path:
    return layout.operations / f"{number:08}.json"


def _read(layout: Layout, number: int) -> Operation:
    path = _file(layout, number)
    try:
        body: Mapping[str, Any] = json.loads(read_plain_file(path, limit=_MAX_FILE))
        before, after = Position.from_json(body["before"]), Position.from_json(body["after"])
        return Operation(number, body["time"], body["command"], before, after, body["undoes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StateError(f"{path} is damaged", hint="remove it: only undo needs it") from None
