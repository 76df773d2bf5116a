"""Commands that only look, against importing what they stand on."""

import sys
from pathlib import Path

from tests.benchmarks.measuring import TVC, command_in, in_turns, ratio_row
from tests.benchmarks.setting import setting_of
from tests.benchmarks.table import Row

__all__ = ["rows"]

_PEER = "import click, git, rich"


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure what starting takes; see tests/benchmarks/__main__.py."""
    with setting_of(work, "tiny", group="startup") as setting:
        setting.make(["t1", "t2"])
        repository = setting.repository()
        setting.stock(repository, ["t1", "t2"])
        commands = {
            "log": [*TVC, "log"],
            "status": [*TVC, "status"],
            "diff": [*TVC, "diff", "t1", "t2"],
            "show": [*TVC, "show"],
            _PEER: [sys.executable, "-c", _PEER],
        }
        works = {name: command_in(repository, command) for name, command in commands.items()}
        got = in_turns(works, runs=3 if small else 15)
        return [
            ratio_row(f'tvc {name} against python -c "{_PEER}"', got[name], got[_PEER], measure)
            for name in commands
            if name != _PEER
            for measure in ("wall", "cpu")
        ]
