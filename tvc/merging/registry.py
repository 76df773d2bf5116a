"""Where merge methods are found: entry points of the group `tvc.merge_methods`.

The built-in methods are entry points of tvc itself, so another package adds one exactly as tvc
does. A name claimed twice is refused, not decided by the order of installation. The names alone,
without torch, are in `tvc.merging.installed`.
"""

from importlib.metadata import EntryPoint, entry_points

from tvc.domain.errors import InputError
from tvc.merging.installed import GROUP, method_names
from tvc.merging.method import Method
from tvc.merging.options import nearest

__all__ = ["MethodUnusable", "UnknownMethod", "find_method", "load_methods"]


class UnknownMethod(InputError):
    """No installed package has a merge method of this name."""


class MethodUnusable(InputError):
    """A package announces a merge method that cannot be used."""


def find_method(name: str) -> Method:
    """Return the method of this name.

    Args:
        name: As a recipe writes it.

    Raises:
        UnknownMethod: There is none.
        MethodUnusable: Its package does not import, or two packages claim the name.
    """
    entries = list(entry_points(group=GROUP, name=name))
    if not entries:
        known = method_names()
        near = nearest(name, known)
        raise UnknownMethod(
            f"no merge method {name!r}",
            hint=f"did you mean {near!r}?" if near else f"installed: {', '.join(known)}",
        )
    # An editable and an ordinary installation of one package announce the same thing twice.
    values = sorted({entry.value for entry in entries})
    if len(values) > 1:
        raise MethodUnusable(
            f"merge method {name!r} is claimed by {' and '.join(values)}",
            hint="uninstall one of the packages",
        )
    return _load(entries[0])


def load_methods() -> dict[str, Method]:
    """Return all installed methods by name, in the order of their names.

    Raises:
        MethodUnusable: One of them cannot be used.
    """
    return {name: find_method(name) for name in method_names()}


def _load(entry: EntryPoint) -> Method:
    try:
        method = entry.load()
    except Exception as error:  # a foreign package can fail in any way
        raise MethodUnusable(
            f"merge method {entry.name!r} ({entry.value}) does not load: {error}"
        ) from error
    if not isinstance(method, Method) or method.name != entry.name:
        raise MethodUnusable(f"{entry.value} is not the merge method {entry.name!r}")
    return method
