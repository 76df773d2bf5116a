"""Moves the files of the working tree that are not tvc's (a user's notes, scripts) between commits.

Done by git, with its checks of names and of uncommitted changes, on a separate index that knows
those files only.
"""

import secrets
from collections.abc import Generator
from contextlib import contextmanager

from tvc.domain.errors import StateError
from tvc.repository.gateway import GitGateway, TreeEntry
from tvc.repository.layout import is_owned

__all__ = ["move_other_files", "private_index"]


def move_other_files(git: GitGateway, before: str, after: str, *, dry_run: bool = False) -> None:
    """Bring the files that are not tvc's from one commit to another.

    Args:
        git: The working tree.
        before: Commit that the files are at.
        after: Commit that they go to.
        dry_run: Only check that uncommitted changes are not in the way.

    Raises:
        StateError: An uncommitted change would be overwritten (only where `dry_run` is set; when a
            move is completed after a crash, what is in the way is left as it is).
    """
    if before == after:
        return
    old, new = _others(git, before), _others(git, after)
    if old == new:
        return
    with private_index(git) as environment:
        trees = [_tree(git, entries, environment) for entries in (old, new)]
        git.run("read-tree", trees[0], environment=environment)
        git.attempt("update-index", "-q", "--refresh", environment=environment)
        step = ["read-tree", "-m", "-u", *(["-n"] if dry_run else []), *trees]
        status, _, errors = git.attempt(*step, environment=environment)
    if status and dry_run:
        reason = errors.strip().splitlines()[-1] if errors.strip() else "git refused"
        raise StateError(
            f"files that are not tvc's are in the way: {reason}",
            hint="commit or stash them with git first",
        )


def _others(git: GitGateway, commit: str) -> list[TreeEntry]:
    return [entry for entry in git.tree(commit, []) if not is_owned(entry.path)]


def _tree(git: GitGateway, entries: list[TreeEntry], environment: dict[str, str]) -> str:
    git.run("read-tree", "--empty", environment=environment)
    lines = "".join(f"{entry.mode} {entry.blob}\t{entry.path}\0" for entry in entries)
    stdin = lines.encode("utf-8", "surrogateescape")
    git.run("update-index", "-z", "--index-info", stdin=stdin, environment=environment)
    return git.run("write-tree", environment=environment).decode().strip()


@contextmanager
def private_index(git: GitGateway) -> Generator[dict[str, str]]:
    """Yield the environment in which git uses an index of its own, removed afterwards.

    Its name is never used twice: what a killed command left is in nobody's way.
    """
    path = git.root / ".tvc" / f"index-{secrets.token_hex(8)}"
    try:
        yield {"GIT_INDEX_FILE": str(path)}
    finally:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
