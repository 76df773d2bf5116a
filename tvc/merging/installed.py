"""The names of the installed merge methods, and the one place from which running them is loaded.

Torch is deliberately absent: listing names imports no method, and commands that merge nothing never
load torch, whose import takes longer than they do.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvc.merging.arrays import ArrayMerge

__all__ = ["GROUP", "merge_runner", "method_names"]

GROUP = "tvc.merge_methods"
"""The entry point group that merge methods are found by."""


def method_names() -> tuple[str, ...]:
    """Return the names of all installed merge methods, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def merge_runner() -> "type[ArrayMerge]":
    """Return the class that runs merge methods, and with it load torch."""
    return import_module("tvc.merging.arrays").ArrayMerge
