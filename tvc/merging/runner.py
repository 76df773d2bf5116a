"""The one place from which running merges is loaded, and with it torch.

Commands that merge nothing never load torch, whose import takes longer than they do.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvc.merging.arrays import ArrayMerge

__all__ = ["merge_runner"]


def merge_runner() -> "type[ArrayMerge]":
    """Return the class that runs merge methods."""
    return import_module("tvc.merging.arrays").ArrayMerge
