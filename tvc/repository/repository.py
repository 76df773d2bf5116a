"""A repository of tvc: reading states of commits, and changing it one move at a time.

Whoever changes something holds the lock and works through a `Change`: objects are written first,
then commit objects, and then everything that others see moves in one journaled step.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tvc.domain.errors import StateError
from tvc.repository.gateway import GitGateway, init_repository
from tvc.repository.layout import Layout
from tvc.repository.operations import (
    OUTSIDE,
    Operation,
    last_operation,
    record_operation,
)
from tvc.repository.othertrees import move_other_files
from tvc.repository.position import (
    Journal,
    Position,
    complete,
    overlay_of,
    read_journal,
    read_position,
    write_documents,
    write_journal,
)
from tvc.repository.state import State, documents_at, documents_on_disk
from tvc_store.durable import WriteFailed, make_folder, write_durably
from tvc_store.lock import Holder, Lock, Locked

__all__ = ["Change", "Repository", "Waiting"]

_IGNORED: Final = "/.tvc/\n/checkouts/\n"


@dataclass(frozen=True, slots=True)
class Waiting:
    """How to wait for a repository that another process is changing.

    Args:
        timeout: Seconds.
        on_wait: Called once with the holder before waiting.
    """

    timeout: float = 0.0
    on_wait: Callable[[Holder | None], None] | None = None


class Repository:
    """One repository, for reading; `change` opens it for writing.

    Args:
        layout: Where it lies.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.git = GitGateway(layout.root)

    @classmethod
    def open(cls, start: Path) -> "Repository":
        """Find the repository that a folder lies in, and complete what a killed command began.

        Raises:
            NoRepository: There is none.
        """
        found = cls(Layout.discover(start))
        if not found.layout.private.exists():
            make_folder(found.layout.private)
        if found.layout.journal.exists():
            # A live writer holds the lock and completes its move itself; a reader on a read-only
            # disk can only show what is there.
            with (
                suppress(Locked, WriteFailed),
                Lock.exclusive(found.layout.lock, command="recover"),
            ):
                found.recover()
        return found

    @classmethod
    def create(cls, root: Path, state: State, *, message: str, command: str) -> "Repository":
        """Make a repository in an empty or new folder, with one commit.

        Args:
            root: The folder; made where it is missing.
            state: What the first commit says.
            message: The commit's message.
            command: The command line, for the operation log.
        """
        layout = Layout(root)
        if not (root / ".git").exists():
            init_repository(root)
        make_folder(layout.private)
        made = cls(layout)
        with Lock.exclusive(layout.lock, command=command):
            ignore = root / ".gitignore"
            if not ignore.exists():
                write_durably(ignore, [_IGNORED.encode()])
            made._first_commit(state, message)
            made.git.attempt("update-index", "-q", "--refresh")
        return made

    def _first_commit(self, state: State, message: str) -> None:
        documents = state.documents()
        write_documents(self.layout.root, documents)
        everything = documents | {".gitignore": _IGNORED}
        commit = self.commit_object(everything, parents=[], message=message)
        head = self.git.text("symbolic-ref", "HEAD")
        self.git.run("update-ref", "-m", "tvc: init", "--create-reflog", head, commit)
        self.git.run("read-tree", commit)

    def position(self) -> Position:
        """Return where the repository stands."""
        return read_position(self.git, self.layout)

    def state_at(self, revision: str) -> State:
        """Return the state of a commit.

        Raises:
            GitFailed: There is no such revision.
            BadDocument: One of its documents is malformed.
        """
        return State.parse(documents_at(self.git, self.git.resolve(revision)))

    def working_state(self) -> State:
        """Return the state that the working tree says.

        Raises:
            BadDocument: One of its documents is malformed.
            UnresolvedConflict: A merge's conflicts are not resolved yet.
        """
        return State.parse(documents_on_disk(self.layout.root))

    def commit_object(
        self, documents: Mapping[str, str], *, parents: Sequence[str], message: str
    ) -> str:
        """Write a commit object with `documents` and the first parent's other files.

        Returns:
            Its hash; no branch moves.
        """
        index = self.layout.private / "index-commit"
        environment = {"GIT_INDEX_FILE": str(index)}
        try:
            if parents:
                self.git.run("read-tree", parents[0], environment=environment)
                gone = set(documents_at(self.git, parents[0])) - set(documents)
            else:
                gone = set[str]()
            lines = [f"0 {'0' * 40}\t{path}\0" for path in sorted(gone)]
            lines += [
                f"100644 {self.git.write_blob(text.encode())}\t{path}\0"
                for path, text in self._changed_documents(documents, parents).items()
            ]
            self.git.run(
                "update-index",
                "-z",
                "--index-info",
                stdin="".join(lines).encode(),
                environment=environment,
            )
            tree = self.git.run("write-tree", environment=environment).decode().strip()
        finally:
            index.unlink(missing_ok=True)
            index.with_name("index-commit.lock").unlink(missing_ok=True)
        flags = [part for parent in parents for part in ("-p", parent)]
        stdin = f"{message.strip()}\n".encode()
        return self.git.run("commit-tree", tree, *flags, stdin=stdin).decode().strip()

    def _changed_documents(
        self, documents: Mapping[str, str], parents: Sequence[str]
    ) -> Mapping[str, str]:
        before = documents_at(self.git, parents[0]) if parents else {}
        return {p: text for p, text in sorted(documents.items()) if before.get(p) != text}

    @contextmanager
    def change(self, command: str, *, waiting: Waiting = Waiting()) -> Generator["Change"]:
        """Lock the repository, complete what a crash left, and yield a `Change`.

        Args:
            command: The command line, named to those who wait and in the operation log.
            waiting: How to wait for another process.

        Raises:
            Locked: Another process holds the lock.
        """
        lock = Lock.exclusive(
            self.layout.lock, command=command, timeout=waiting.timeout, on_wait=waiting.on_wait
        )
        with lock:
            self.recover()
            yield Change(self, command, self._settled_position())

    def _settled_position(self) -> Position:
        """Return the position, noting in the log what was changed since without tvc."""
        now = self.position()
        last = last_operation(self.layout)
        if last is not None and last.after != now:
            seen = Operation(last.number + 1, time.time(), OUTSIDE, last.after, now)
            record_operation(self.layout, seen)
        return now

    def recover(self) -> None:
        """Complete the move that a killed command left; the caller holds the lock."""
        journal = read_journal(self.layout)
        if journal is None:
            return
        self._remove_git_locks()
        self.finish(journal, undoes=None)

    def _remove_git_locks(self) -> None:
        """Remove the locks that git left when it was killed; ours, as the journal was ours."""
        for word in ("--absolute-git-dir", "--git-common-dir"):
            folder = self.layout.root / self.git.text("rev-parse", word)
            for name in ("index.lock", "HEAD.lock", "packed-refs.lock"):
                (folder / name).unlink(missing_ok=True)
            for lock in (folder / "refs").rglob("*.lock"):
                lock.unlink(missing_ok=True)

    def finish(self, journal: Journal, *, undoes: int | None) -> None:
        """Make the move that the journal says, log it, and remove the journal."""
        complete(self.git, self.layout, journal)
        last = last_operation(self.layout)
        if last is None or last.after != journal.after or last.before != journal.before:
            number = last.number + 1 if last else 1
            record_operation(
                self.layout,
                Operation(
                    number, time.time(), journal.command, journal.before, journal.after, undoes
                ),
            )
        self.layout.journal.unlink(missing_ok=True)


class Change:
    """What a command that holds the lock does to a repository.

    Args:
        repository: The repository, locked.
        command: The command line.
        before: Where it stands.
    """

    def __init__(self, repository: Repository, command: str, before: Position) -> None:
        self.repository = repository
        self.before = before
        self._command = command

    @property
    def is_edited(self) -> bool:
        """Whether tvc's own files differ from HEAD's."""
        return bool(self.before.overlay)

    def require_clean(self) -> None:
        """Check that nothing is edited and no merge is under way.

        Raises:
            StateError: Something is.
        """
        if self.before.merging is not None:
            raise StateError(
                "a merge is under way",
                hint="finish it with `tvc commit`, or go back with `tvc merge --abort`",
            )
        if self.before.overlay:
            changed = ", ".join(list(self.before.overlay)[:3])
            raise StateError(
                f"there are uncommitted changes: {changed}",
                hint="record them with `tvc commit -m …`; `tvc undo` takes the last one back",
            )

    def edit(self, state: State) -> None:
        """Write a state into the working tree, uncommitted."""
        self.edit_documents(state.documents())

    def edit_documents(self, documents: Mapping[str, str], *, merging: str | None = None) -> None:
        """Write documents into the working tree, uncommitted, and the state of a merge."""
        committed = documents_at(self.repository.git, self.before.commit)
        overlay = overlay_of(documents, committed)
        self.move(replace(self.before, overlay=overlay, merging=merging))

    def commit(self, state: State, message: str, *, other_parents: Sequence[str] = ()) -> str:
        """Commit a state on the current branch and return the commit's hash.

        Args:
            state: What the commit says.
            message: Its message, not empty.
            other_parents: Hashes of further parents, after HEAD.

        Raises:
            StateError: The message is empty.
        """
        if not message.strip():
            raise StateError("a commit needs a message", hint="give one with -m")
        parents = [self.before.commit, *other_parents]
        commit = self.repository.commit_object(state.documents(), parents=parents, message=message)
        self.advance(commit)
        return commit

    def advance(self, commit: str) -> None:
        """Move the current branch, or a detached HEAD, and the working tree to a commit."""
        before = self.before
        if before.branch is None:
            self.move(Position(commit, before.refs))
        else:
            self.move(Position(before.head, {**before.refs, before.head: commit}))

    def move(self, after: Position, *, undoes: int | None = None) -> None:
        """Move to a position; after a crash the next command completes it.

        Raises:
            StateError: Uncommitted changes of files that are not tvc's are in the way.
        """
        repository = self.repository
        move_other_files(repository.git, self.before.commit, after.commit, dry_run=True)
        journal = Journal(self._command, self.before, after)
        write_journal(repository.layout, journal)
        repository.finish(journal, undoes=undoes)
        self.before = after
