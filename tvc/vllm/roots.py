"""Which files and repositories a server reads when a client asks it to; nothing here knows vLLM."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tvc.domain.errors import InputError
from tvc.domain.names import printable

__all__ = ["allowed", "named_roots"]


def named_roots(named: object, *, own: str) -> list[Path]:
    """Return the folders that may be read from.

    Args:
        named: What the server's settings say: a path, or a list of paths.
        own: The repository that it was started on; empty for none.

    Raises:
        InputError: They are no absolute paths.
    """
    listed = cast("list[object]", named if isinstance(named, list) else [named])
    roots = [Path(root) for root in (*listed, *([own] if own else [])) if isinstance(root, str)]
    if len(roots) != len(listed) + bool(own) or not all(root.is_absolute() for root in roots):
        raise InputError("tvc_roots are not absolute paths", hint='name folders: ["/path"]')
    return [root.resolve() for root in roots]


def allowed(text: str, roots: Sequence[Path]) -> Path:
    """Return a path that a client named, if it may be read.

    Its folder is resolved; a link at its end is not, since no reader follows that.

    Args:
        text: Absolute.
        roots: Folders that it has to be in.

    Raises:
        InputError: It is somewhere else.
    """
    try:
        path = Path(text)
        resolved = path.resolve()
    except (OSError, RuntimeError, TypeError, ValueError):  # no path, or links in a circle
        path = resolved = Path()
    if not path.is_absolute() or not any(resolved.is_relative_to(root) for root in roots):
        raise InputError(
            f"the server does not read '{printable(str(text))}'",
            hint="start it with `tvc serve`, or name the folders that it may read:"
            """ --additional-config '{"tvc_roots": ["/path"]}'""",
        )
    return resolved.parent / path.name if path.is_symlink() else resolved
