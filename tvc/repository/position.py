"""Where a repository stands, and the one way in which it moves from there to somewhere else.

A position is everything that `tvc undo` brings back: HEAD, branches and tags, the uncommitted
changes of tvc's own files, and a merge under way. A move is written to a journal before it is made;
after a crash the next command completes it. So a move is not begun or done, whatever was killed
when.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tvc.domain.errors import StateError
from tvc.domain.names import BadName, check_file_name, printable
from tvc.repository.gateway import GitGateway
from tvc.repository.layout import Layout, is_owned
from tvc.repository.othertrees import move_other_files
from tvc.repository.state import documents_at, documents_on_disk, read_plain_file
from tvc_store.durable import make_folder, write_durably

__all__ = [
    "BadPosition",
    "Journal",
    "Position",
    "complete",
    "read_journal",
    "read_position",
    "read_refs",
    "write_journal",
]

_MAX_JOURNAL: Final = 256 << 20
_HASH: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
# As `git check-ref-format` has it: no `..`, no empty part, none that begins or ends with a dot.
_REF: Final = re.compile(
    r"refs/(?:heads|tags)(?:/(?![./])(?:(?!\.\.|@\{|\.lock(?:/|$))[^\x00-\x20\x7f/~^:?*\[\\])+(?<!\.))+"
)


class BadPosition(StateError):
    """A record of a position is malformed."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a repository stands.

    Args:
        head: Full name of the branch, or a hash where HEAD is detached.
        refs: Full name → hash, of branches and tags.
        overlay: Path → text of tvc's own files that differ from HEAD's; None where one is deleted.
        merging: State of a merge under way, as text.
    """

    head: str
    refs: Mapping[str, str]
    overlay: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    merging: str | None = None

    @property
    def commit(self) -> str:
        """Hash of HEAD's commit."""
        return self.refs.get(self.head, self.head)

    @property
    def branch(self) -> str | None:
        """Short name of the current branch, None where HEAD is detached."""
        return self.head.removeprefix("refs/heads/") if self.head.startswith("refs/") else None

    def to_json(self) -> dict[str, object]:
        """Return a value for `json.dumps`."""
        return {
            "head": self.head,
            "refs": dict(self.refs),
            "overlay": dict(self.overlay),
            "merging": self.merging,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Position":
        """Read what `to_json` wrote; strictly, since a repository may come from somebody else.

        Raises:
            BadPosition: It names a ref or a file that tvc does not move.
        """
        try:
            found = cls(body["head"], body["refs"], body["overlay"], body["merging"])
            if found._is_plausible():
                return found
        except (KeyError, TypeError, AttributeError, BadName):
            pass
        raise BadPosition(
            "a record in .tvc is not one that tvc wrote",
            hint="remove .tvc/journal.json and .tvc/operations: only undo needs them",
        )

    def _is_plausible(self) -> bool:
        refs = all(_REF.fullmatch(ref) and _HASH.fullmatch(sha) for ref, sha in self.refs.items())
        head = _REF.fullmatch(self.head) or _HASH.fullmatch(self.head)
        files = all(is_owned(check_file_name(path)) for path in self.overlay)
        texts = [*self.overlay.values(), self.merging]
        return refs and head is not None and files and all(_is_text(text) for text in texts)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


@dataclass(frozen=True, slots=True)
class Journal:
    """A move under way.

    Args:
        command: The command line that moves, for the operation log and git's reflog.
        before: Where it starts.
        after: Where it ends.
        undoes: Number of the operation that it takes back, if it is an undo.
    """

    command: str
    before: Position
    after: Position
    undoes: int | None = None

    @property
    def backward(self) -> "Journal":
        """The way back."""
        return Journal(self.command, self.after, self.before)


def read_refs(git: GitGateway) -> dict[str, str]:
    """Return full name → hash, of branches and tags."""
    lines = git.text(
        "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags"
    ).splitlines()
    return {name: sha for sha, _, name in (line.partition(" ") for line in lines)}


def read_position(git: GitGateway, layout: Layout) -> Position:
    """Return where the repository stands now."""
    status, output, _ = git.attempt("symbolic-ref", "--quiet", "HEAD")
    head = output.decode().strip() if status == 0 else git.resolve("HEAD")
    refs = read_refs(git)
    if head.startswith("refs/") and head not in refs:
        raise StateError(
            f"branch {head.removeprefix('refs/heads/')!r} has no commit",
            hint="`tvc switch` to a branch that has one; if `tvc init` was stopped, run it again",
        )
    merging = (
        read_plain_file(layout.merging, limit=_MAX_JOURNAL).decode()
        if layout.merging.exists()
        else None
    )
    found = Position(head, refs, {}, merging)
    committed = documents_at(git, found.commit)
    return Position(head, refs, overlay_of(documents_on_disk(layout.root), committed), merging)


def overlay_of(wanted: Mapping[str, str], committed: Mapping[str, str]) -> dict[str, str | None]:
    """Return what has to change in `committed` to have `wanted`."""
    paths = sorted({*wanted, *committed})
    return {path: wanted.get(path) for path in paths if wanted.get(path) != committed.get(path)}


def write_journal(layout: Layout, journal: Journal) -> None:
    """Announce a move, durably; from here on it will be completed."""
    body = {
        "command": journal.command,
        "before": journal.before.to_json(),
        "after": journal.after.to_json(),
        "undoes": journal.undoes,
    }
    write_durably(layout.journal, [json.dumps(body).encode()])


def read_journal(layout: Layout) -> Journal | None:
    """Return the move that a killed command left, if any."""
    if not layout.journal.exists():
        return None
    try:
        body: Any = json.loads(read_plain_file(layout.journal, limit=_MAX_JOURNAL))
        before, after = Position.from_json(body["before"]), Position.from_json(body["after"])
        undoes = None if body["undoes"] is None else int(body["undoes"])
        return Journal(printable(str(body["command"]), limit=500), before, after, undoes)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadPosition(
            f"{layout.journal} is damaged", hint="remove it; `tvc status` shows what is there"
        ) from None


def complete(git: GitGateway, layout: Layout, journal: Journal) -> None:
    """Make the move that the journal says, from wherever a crash left it.

    Every step can be repeated: refs are set to where they go, files written as they will be.
    """
    before, after = journal.before, journal.after
    _move_refs(git, before.refs, after.refs, reason=f"tvc: {journal.command}")
    if before.head == after.head and before.branch:
        pass  # the branch moved, HEAD still names it
    elif after.head.startswith("refs/"):
        git.run("symbolic-ref", "-m", f"tvc: {journal.command}", "HEAD", after.head)
    else:
        git.run("update-ref", "--no-deref", "HEAD", after.head)
    move_other_files(git, before.commit, after.commit)
    committed = documents_at(git, after.commit)
    wanted = dict(committed)
    for path, text in after.overlay.items():
        if text is None:
            wanted.pop(path, None)
        else:
            wanted[path] = text
    write_documents(layout.root, wanted)
    _update_index(git, before.commit, after.commit)
    if after.merging is None:
        layout.merging.unlink(missing_ok=True)
    else:
        write_durably(layout.merging, [after.merging.encode()])


def _move_refs(
    git: GitGateway, before: Mapping[str, str], after: Mapping[str, str], *, reason: str
) -> None:
    lines: list[str] = []
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            new = after.get(name)
            lines.append(f"update {name} {new}\n" if new else f"delete {name}\n")
    if lines:
        git.run(
            "update-ref", "-m", reason, "--create-reflog", "--stdin", stdin="".join(lines).encode()
        )


def write_documents(root: Path, wanted: Mapping[str, str]) -> None:
    """Make tvc's own files of the working tree exactly `wanted`."""
    present = documents_on_disk(root)
    for path in sorted(set(present) - set(wanted)):
        (root / path).unlink()
    for path, text in sorted(wanted.items()):
        if present.get(path) != text:
            _make_folders(root, path)
            write_durably(root / path, [text.encode()])


def _make_folders(root: Path, path: str) -> None:
    folder = root
    for segment in path.split("/")[:-1]:
        folder /= segment
        if folder.is_symlink():
            raise StateError(f"{folder} is a symbolic link, so nothing is written there")
        make_folder(folder)


def _update_index(git: GitGateway, before: str, after: str) -> None:
    """Make git's index agree with the new commit, for what changed and for tvc's own files."""
    committed = {entry.path: entry for entry in git.tree(after, [])}
    old = {entry.path: entry for entry in git.tree(before, [])}
    lines = [
        f"{entry.mode} {entry.blob}\t{path}\0"
        for path, entry in committed.items()
        if is_owned(path) or old.get(path) != entry
    ]
    staged = git.run("ls-files", "-z").decode("utf-8", "surrogateescape").split("\0")[:-1]
    gone = {path for path in staged if is_owned(path)} | set(old)
    lines += [f"0 {'0' * len(after)}\t{path}\0" for path in sorted(gone - set(committed))]
    stdin = "".join(lines).encode("utf-8", "surrogateescape")
    git.run("update-index", "-z", "--index-info", stdin=stdin)
    git.attempt("update-index", "-q", "--refresh")
