"""A repository of tvc: reading states of commits, and changing it one move at a time.

Whoever changes something holds the lock and works through a `Change`: objects are written first,
then commit objects, and then everything that others see moves in one journaled step.
"""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tvc.domain.documents import BadDocument
from tvc.domain.errors import StateError
from tvc.repository.gateway import GitGateway
from tvc.repository.layout import RECIPE, Layout
from tvc.repository.leftovers import remove_git_locks, remove_unfinished_files
from tvc.repository.operations import (
    OUTSIDE,
    Operation,
    last_operation,
    record_operation,
)
from tvc.repository.othertrees import move_other_files, private_index
from tvc.repository.position import (
    Journal,
    Position,
    complete,
    overlay_of,
    read_journal,
    read_position,
    read_refs,
    write_documents,
    write_journal,
)
from tvc.repository.state import State, documents_at, documents_on_disk, read_plain_file
from tvc_store.durable import (
    WriteFailed,
    make_folder,
    require_space,
    sync_folder,
    write_durably,
)
from tvc_store.errors import TvcError
from tvc_store.lock import Holder, Lock, Locked

__all__ = ["Change", "Repository", "Waiting"]

_IGNORED: Final = "/.tvc/\n/checkouts/\n"
_MOMENT: Final = 2.0  # seconds that a reader waits for a move under way
_ROOM: Final = 1 << 18  # bytes that a move may need: refs, logs, git's index, small documents


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
            with suppress(Locked, WriteFailed), found.locked("recover", waiting=Waiting(_MOMENT)):
                pass
        return found

    @contextmanager
    def locked(
        self, command: str, *, waiting: Waiting = Waiting(), complete: bool = True
    ) -> Generator[None]:
        """Hold the repository's lock, with what a killed command began completed.

        Args:
            command: The command line, named to those who wait.
            waiting: How to wait for another process.
            complete: Whether to complete it; a damaged journal could not be.

        Raises:
            Locked: Another process holds the lock.
        """
        lock = Lock.exclusive(
            self.layout.lock, command=command, timeout=waiting.timeout, on_wait=waiting.on_wait
        )
        with lock, self.git.keeping(lock.fd):
            if complete:
                self.recover()
            yield

    @classmethod
    def create(cls, root: Path, state: State, *, message: str, command: str) -> "Repository":
        """Make a repository in a folder, or complete one whose making was killed.

        Args:
            root: The folder: empty, or a git repository, whose history then goes on.
            state: What the first commit says.
            message: The commit's message.
            command: The command line, for the operation log.
        """
        layout = Layout(root)
        make_folder(layout.private)
        made = cls(layout)
        with Lock.exclusive(layout.lock, command=command) as lock, made.git.keeping(lock.fd):
            if made.git.attempt("--git-dir=.git", "rev-parse", "--verify", "--quiet", "HEAD")[0]:
                # Where a killed init stopped, another goes on, but for the locks that it left.
                (root / ".git" / "config.lock").unlink(missing_ok=True)
                made.git.run("init", "--quiet", "--initial-branch=main", "--template=", "--", ".")
                remove_git_locks(made.git)
                remove_unfinished_files(layout)
                made._first_commit(state, message)
                return made
        # The user's own .gitignore stays as it is.
        write_durably(layout.private / ".gitignore", [b"*\n"])
        with made.change(command) as change:
            change.commit(state, message)
        return made

    def _first_commit(self, state: State, message: str) -> None:
        """Commit on a branch that has no commit yet; only the last step is seen from outside."""
        require_space(self.layout.private, _ROOM)
        documents = state.documents()
        ignored = self.layout.root / ".gitignore"
        if os.path.lexists(ignored) and not _is_ours(ignored):
            # The user's own stays as it is.
            write_durably(self.layout.private / ".gitignore", [b"*\n"])
            commit = self.commit_object(documents, parents=[], message=message)
        else:
            everything = documents | {".gitignore": _IGNORED}
            commit = self.commit_object(everything, parents=[], message=message)
            write_durably(ignored, [_IGNORED.encode()])
        write_documents(self.layout.root, documents)
        self.git.run("read-tree", commit)
        self.git.attempt("update-index", "-q", "--refresh")
        head = self.git.text("symbolic-ref", "HEAD")
        self.git.run("update-ref", "-m", "tvc: init", "--create-reflog", head, commit)

    @classmethod
    def is_started(cls, root: Path) -> bool:
        """Say whether a folder is a repository whose first commit was made."""
        git = GitGateway(root)
        status = git.attempt("--git-dir=.git", "cat-file", "-e", f"HEAD:{RECIPE}")[0]
        return status == 0

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
        with private_index(self.git) as environment:
            if parents:
                self.git.run("read-tree", parents[0], environment=environment)
                gone = set(documents_at(self.git, parents[0])) - set(documents)
            else:
                gone = set[str]()
            lines = [f"0 {'0' * len(parents[0])}\t{path}\0" for path in sorted(gone)]
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
        with self.locked(command, waiting=waiting):
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
        remove_git_locks(self.git)
        if self._is_under_way(journal):
            self.finish(journal)
        else:
            self._forget_journal()
        remove_unfinished_files(self.layout)

    def _is_under_way(self, journal: Journal) -> bool:
        """Whether every branch is where the move began or ends: git may have been used since."""
        now = read_refs(self.git)
        before, after = journal.before.refs, journal.after.refs
        return all(now.get(ref) in (before.get(ref), after.get(ref)) for ref in {*before, *after})

    def _forget_journal(self) -> None:
        # Synced, lest it come back after a power cut, when other moves have been made.
        self.layout.journal.unlink(missing_ok=True)
        sync_folder(self.layout.private)

    def finish(self, journal: Journal) -> None:
        """Make the move that the journal says, log it, and remove the journal."""
        complete(self.git, self.layout, journal)
        last = last_operation(self.layout)
        if last is None or last.after != journal.after or last.before != journal.before:
            number = last.number + 1 if last else 1
            record_operation(
                self.layout,
                Operation(
                    number,
                    time.time(),
                    journal.command,
                    journal.before,
                    journal.after,
                    journal.undoes,
                ),
            )
        self._forget_journal()

    def take_back(self, journal: Journal) -> bool:
        """Undo what was made of a move that failed, and say whether that was possible.

        Where it was not, the journal stays, and the next command completes the move.
        """
        with suppress(TvcError, OSError):
            self._remove_locks_of_killed()
            complete(self.git, self.layout, journal.backward)
        with suppress(TvcError, OSError):
            self._remove_locks_of_killed()
            # Git's index may be left behind, which no command of tvc's minds.
            if self.position() == journal.before:
                self._forget_journal()
                return True
        return False

    def _remove_locks_of_killed(self) -> None:
        # Only where the system ended a git of ours: else the lock may be a living git's.
        if self.git.was_killed:
            remove_git_locks(self.git)


def _is_ours(ignored: Path) -> bool:
    """Say whether a killed init wrote a .gitignore."""
    try:
        return read_plain_file(ignored, limit=len(_IGNORED)) == _IGNORED.encode()
    except BadDocument:
        return False


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

        Args:
            after: Where to.
            undoes: Number of the operation that this takes back.

        Raises:
            StateError: Uncommitted changes of files that are not tvc's are in the way; git no
                longer has a commit.
            WriteFailed: The disk is full, or may not be written; nothing was changed.
        """
        repository = self.repository
        _require_commits(repository.git, self.before, after)
        move_other_files(repository.git, self.before.commit, after.commit, dry_run=True)
        journal = Journal(self._command, self.before, after, undoes)
        require_space(repository.layout.private, _ROOM)
        write_journal(repository.layout, journal)
        try:
            repository.finish(journal)
        except (TvcError, OSError) as error:
            if repository.take_back(journal):
                raise
            raise StateError(
                f"{error}; the next command of tvc completes what was begun",
                hint="put right what is in its way: free some space, for instance",
            ) from error
        self.before = after


def _require_commits(git: GitGateway, before: Position, after: Position) -> None:
    """Check that git has what refs are to name, since a journal must never be in vain."""
    wanted = {sha for ref, sha in after.refs.items() if before.refs.get(ref) != sha}
    request = "".join(f"{sha}\n" for sha in sorted({*wanted, after.commit})).encode()
    lines = git.run("cat-file", "--batch-check", stdin=request).decode().splitlines()
    gone = [line.split()[0] for line in lines if line.endswith("missing")]
    if gone:
        raise StateError(
            f"git no longer has {gone[0][:10]}, which was not part of any branch for a long time"
        )
