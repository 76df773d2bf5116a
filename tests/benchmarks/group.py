"""Runs one group of benchmarks in this process, and leaves its rows in a file.

    python -m tests.benchmarks.group NAME WORK FILE [--small]

Each group has a process of its own: what one of them holds in memory would otherwise be counted as
that of the commands that another starts.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from tests.benchmarks.table import dump_rows

__all__ = ["GROUPS", "TITLES", "main"]

TITLES: Final[Mapping[str, str]] = {
    "coding": "Coding: sizes and speeds",
    "commit": "Committing a fine-tune",
    "checkout": "Checking a fine-tune out",
    "ties": "TIES of three fine-tunes",
    "methods": "Other merge methods",
    "memory": "Memory",
    "growth": "Many fine-tunes of one base",
    "startup": "Commands that only look",
    "apollo": "Apollo's steps",
    "tiers": "Frozen context against full passes",
    "serving": "vLLM on a commit",
}
"""By name of a group: its title in the results, in their order."""

GROUPS: Final[Mapping[str, str]] = {
    "coding": "coding",
    "commit": "commits",
    "checkout": "checkouts",
    "ties": "ties",
    "methods": "methods",
    "memory": "memory",
    "growth": "growth",
    "startup": "startup",
    "apollo": "optimizers",
    "tiers": "tiers",
    "serving": "switching",
}
"""By name of a group: the module that has its `rows(work, *, small)`."""


def main(name: str, work: str, file: str, *options: str) -> None:
    """Run a group."""
    module = import_module(f"tests.benchmarks.{GROUPS[name]}")
    Path(file).write_text(dump_rows(module.rows(Path(work), small="--small" in options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
