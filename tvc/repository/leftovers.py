"""What killed commands leave behind: locks of git's, and temporary files.

Only for who holds the repository's lock, so that they are nobody's any longer.
"""

from typing import Final

from tvc.repository.gateway import GitGateway
from tvc.repository.layout import BASES, VECTORS, Layout
from tvc_store.durable import is_temporary

__all__ = ["remove_git_locks", "remove_unfinished_files"]

_LOCKS: Final = ("index.lock", "HEAD.lock", "packed-refs.lock")
_INDEX: Final = "index-"


def remove_git_locks(git: GitGateway) -> None:
    """Remove the locks that git left when it was killed."""
    for word in ("--absolute-git-dir", "--git-common-dir"):
        folder = git.root / git.text("rev-parse", word)
        for name in _LOCKS:
            (folder / name).unlink(missing_ok=True)
        for lock in (folder / "refs").rglob("*.lock"):
            lock.unlink(missing_ok=True)


def remove_unfinished_files(layout: Layout, *, dry_run: bool = False) -> int:
    """Remove the temporary files of killed commands, but for the store's.

    Args:
        layout: The repository.
        dry_run: Only count.

    Returns:
        The bytes that they have.
    """
    found = [path for path in layout.private.glob(f"{_INDEX}*") if path.is_file()]
    for folder in (layout.root, layout.private, layout.operations):
        found += (path for path in folder.glob(".tvc-*") if is_temporary(path.name))
    for folder in (layout.root / VECTORS, layout.root / BASES):
        if not folder.is_symlink():
            found += (path for path in folder.rglob(".tvc-*") if is_temporary(path.name))
    size = sum(path.lstat().st_size for path in found)
    for path in () if dry_run else found:
        path.unlink(missing_ok=True)
    return size
