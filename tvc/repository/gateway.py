"""The one place that runs git: fixed arguments, no hooks, nothing of the repository's own programs.

Everything that a user or a repository named comes after `--end-of-options` or `--`, and is checked
first. Local settings that would run a program (filters, fsmonitor, hooks, external transports) are
switched off for our calls: a repository may have come from somebody else. Only plumbing is used, so
that git's own locks are held for moments, and a killed tvc leaves at most one of them behind.
"""

import os
import re
import signal
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import BinaryIO, Final, NamedTuple, cast

from git.cmd import Git
from git.exc import GitCommandNotFound

from tvc.domain.errors import InputError, StateError
from tvc.domain.names import nearest, printable

__all__ = ["GitFailed", "GitGateway", "TreeEntry"]

_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.pager=cat",
    "core.editor=false",
    "core.askPass=",
    "core.sshCommand=",
    "core.alternateRefsCommand=",
    "core.fsync=all",
    "core.quotePath=false",
    "diff.external=",
    "gc.auto=0",
    "gpg.program=false",
    "commit.gpgSign=false",
    "log.showSignature=false",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "safe.bareRepository=explicit",
    "submodule.recurse=false",
    "uploadpack.packObjectsHook=",
)
_ENVIRONMENT: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C.UTF-8",
}
_IDENTITY: Final = (
    'tell git who you are: git config --global user.name "…", and the same with user.email'
)
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SMALL: Final = 1 << 16
# What writes an index reads the files that it is not sure of, and would have filters read them.
_READS_FILES: Final = frozenset(["read-tree", "update-index"])
_HINTS: Final = {
    "dubious ownership": "the folder is another user's: see safe.directory in `git help config`",
    "empty ident name": _IDENTITY,
    "Please tell me who you are": _IDENTITY,
    "No space left": "free some space on the disk and try again",
    "Read-only file system": "the repository lies on a read-only file system",
    "unable to auto-detect email": _IDENTITY,
}


class GitFailed(StateError):
    """Git refused; its own words are passed on in one line."""


class TreeEntry(NamedTuple):
    """A file of a commit's tree."""

    mode: str
    blob: str
    path: str


class GitGateway:
    """Runs git in one working tree.

    Args:
        root: The working tree.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._git = Git(root)
        # GitPython starts git in the current folder where its own is gone; -C does not.
        self._options = ["-C", str(root.absolute())]
        self._options += [part for setting in _SETTINGS for part in ("-c", setting)]
        self._kept: tuple[int, ...] = ()
        self.was_killed = False  # whether the system ended a git of ours, which leaves its locks
        self._filterless: dict[str, str] | None = None
        # What a full hash names never changes, and one command asks for the same again and again.
        self._resolved: set[tuple[str, str]] = set()
        self._trees: dict[tuple[str, ...], list[TreeEntry]] = {}
        self._small: dict[str, bytes] = {}

    @contextmanager
    def keeping(self, fd: int | None) -> Generator[None]:
        """Let every git of this context inherit a lock file.

        Where tvc is killed, a git that it had started goes on for a moment; with the file open it
        keeps the lock for that moment, so that no other tvc works beside it.
        """
        before = self._kept
        self._kept = before if fd is None else (*before, fd)
        try:
            yield
        finally:
            self._kept = before

    def run(
        self, *arguments: str, stdin: bytes | None = None, environment: dict[str, str] | None = None
    ) -> bytes:
        """Run git and return what it wrote to standard output.

        Args:
            arguments: Subcommand and its arguments; foreign names after `--end-of-options` or `--`.
            stdin: What git reads from its standard input.
            environment: Variables for this call.

        Raises:
            GitFailed: Git exited with an error.
        """
        status, output, errors = self.attempt(*arguments, stdin=stdin, environment=environment)
        if status:
            raise _failure(arguments[0], status, errors)
        return output

    def text(self, *arguments: str) -> str:
        """Run git and return its standard output as text, without the final newline.

        Raises:
            GitFailed: Git exited with an error.
        """
        return self.run(*arguments).decode("utf-8", "replace").rstrip("\n")

    def attempt(
        self, *arguments: str, stdin: bytes | None = None, environment: dict[str, str] | None = None
    ) -> tuple[int, bytes, str]:
        """Run git and return its exit status, standard output and standard error."""
        given = _ENVIRONMENT | (environment or {})
        if arguments[0] in _READS_FILES:
            given |= self._without_filters()
        with _fed(stdin) as source:
            try:
                result = self._git.execute(
                    ["git", *self._options, *arguments],
                    istream=cast("int", source),
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                    env=given,
                    pass_fds=self._kept,
                )
            except GitCommandNotFound:
                raise InputError(
                    "git was not found", hint="install git: apt-get install git"
                ) from None
        self.was_killed |= result[0] < 0
        return result

    def _without_filters(self) -> dict[str, str]:
        """Return the environment in which git runs no filter that its configuration names.

        As variables and not with `-c`, which would cut a name at its first `=`.
        """
        if self._filterless is None:
            _, output, _ = self.attempt("config", "-z", "--name-only", "--get-regexp", r"^filter\.")
            names = sorted(set(output.decode("utf-8", "surrogateescape").split("\0")) - {""})
            self._filterless = {"GIT_CONFIG_COUNT": str(len(names))}
            for number, name in enumerate(names):
                off = "false" if name.endswith(".required") else ""
                self._filterless[f"GIT_CONFIG_KEY_{number}"] = name
                self._filterless[f"GIT_CONFIG_VALUE_{number}"] = off
        return self._filterless

    def resolve(self, revision: str, *, kind: str = "commit") -> str:
        """Return the full hash of a revision.

        Raises:
            GitFailed: There is no such revision.
        """
        if (revision, kind) in self._resolved:
            return revision
        status, output, _ = self.attempt(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{{kind}}}"
        )
        if status or "\0" in revision or "\n" in revision:
            raise GitFailed(
                f"there is no revision {printable(revision)!r}",
                hint=nearest(revision, self._short_names())
                or "`tvc log` shows commits, `tvc branch` branches",
            )
        found = output.decode().strip()
        self._resolved.add((found, kind))
        return found

    def _short_names(self) -> list[str]:
        """Return what branches and tags are called, for a hint."""
        _, output, _ = self.attempt(
            "for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags"
        )
        lines = output.decode("utf-8", "replace").splitlines()
        return [line.split("/", 2)[2] for line in lines]

    def tree(self, commit: str, paths: Sequence[str]) -> list[TreeEntry]:
        """List the files of a commit at or below `paths`."""
        key = (commit, *paths)
        if key in self._trees:
            return self._trees[key]
        output = self.run("ls-tree", "-r", "-z", "--full-tree", commit, "--", *paths)
        entries: list[TreeEntry] = []
        for line in output.decode("utf-8", "surrogateescape").split("\0")[:-1]:
            facts, _, path = line.partition("\t")
            mode, _, blob = facts.split(" ")
            entries.append(TreeEntry(mode, blob, path))
        if _HASH.fullmatch(commit):
            self._trees[key] = entries
        return entries

    def blobs(self, ids: Iterable[str], *, limit: int) -> list[bytes]:
        """Read blobs.

        Args:
            ids: Full hashes.
            limit: Bytes that one blob may have.

        Raises:
            GitFailed: A blob is missing or larger than `limit`.
        """
        wanted = list(ids)
        unread = [blob for blob in dict.fromkeys(wanted) if blob not in self._small]
        found = dict(zip(unread, self._read_blobs(unread, limit), strict=True))
        self._small |= {blob: data for blob, data in found.items() if len(data) <= _SMALL}
        contents = [found[blob] if blob in found else self._small[blob] for blob in wanted]
        if any(len(data) > limit for data in contents):
            raise GitFailed("a file in the commit is too large")
        return contents

    def _read_blobs(self, ids: Sequence[str], limit: int) -> list[bytes]:
        if not ids:
            return []
        request = "".join(f"{blob}\n" for blob in ids).encode()
        # Sizes first, so that a huge blob is refused before it is read.
        for line in self.run("cat-file", "--batch-check", stdin=request).splitlines():
            if line.endswith(b"missing") or int(line.split()[2]) > limit:
                raise GitFailed("a file in the commit is missing from git, or too large")
        return _split_batch(self.run("cat-file", "--batch", stdin=request), len(ids))

    def write_blob(self, data: bytes) -> str:
        """Write a blob and return its hash."""
        output = self.run("hash-object", "-w", "-t", "blob", "--stdin", "--no-filters", stdin=data)
        return output.decode().strip()


@contextmanager
def _fed(data: bytes | None) -> Generator[BinaryIO | None]:
    """Yield a pipe from which data can be read; no file, since disks get full."""
    if data is None:
        yield None
        return
    reading, writing = os.pipe()
    feeder = Thread(target=_feed, args=(writing, data), daemon=True)
    feeder.start()
    try:
        with os.fdopen(reading, "rb") as source:
            yield source
    finally:
        feeder.join()


def _feed(fd: int, data: bytes) -> None:
    with suppress(BrokenPipeError):  # git ended without reading everything, and has said why
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    os.close(fd)


def _split_batch(output: bytes, count: int) -> list[bytes]:
    found: list[bytes] = []
    position = 0
    for _ in range(count):
        end = output.index(b"\n", position)
        size = int(output[position:end].split()[2])
        found.append(output[end + 1 : end + 1 + size])
        position = end + 1 + size + 1
    return found


def _failure(command: str, status: int, errors: str) -> GitFailed:
    if status == -signal.SIGXFSZ:
        return GitFailed(
            f"git {command}: the file size limit was reached",
            hint="raise the limit (ulimit -f) or use a file system that holds larger files",
        )
    lines = [line for line in errors.strip().splitlines() if not line.startswith("hint:")]
    said = next((line for line in lines if line.startswith(("fatal:", "error:"))), None)
    words = printable((said or (lines or ["no message"])[-1]).removeprefix("fatal: "), limit=300)
    hint = next((hint for sign, hint in _HINTS.items() if sign in errors), None)
    return GitFailed(f"git {command}: {words}", hint=hint)
