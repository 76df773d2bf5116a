"""The names of the installed merge methods, for completion and messages.

Torch is deliberately absent: listing names imports no method. `tvc.merging.registry` loads them.
"""

from importlib.metadata import entry_points

__all__ = ["GROUP", "method_names"]

GROUP = "tvc.merge_methods"
"""The entry point group that merge methods are found by."""


def method_names() -> tuple[str, ...]:
    """Return the names of all installed merge methods, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))
