"""Which commits a repository must be able to check out, and which documents they have.

Roots are branches, tags, a detached HEAD, young entries of git's reflog and of the operation log,
and what is under way. Git is asked a few times in all, not once a commit. Absent on purpose: what
the documents say, and objects.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tvc.domain.documents import MAX_DOCUMENT
from tvc.domain.errors import StateError
from tvc.domain.names import printable
from tvc.repository.gateway import GitFailed, GitGateway
from tvc.repository.layout import BASES, RECIPE, VECTORS, Layout, is_owned
from tvc.repository.operations import read_log
from tvc.repository.position import Position, read_journal
from tvc.repository.repository import Repository
from tvc.repository.state import documents_on_disk, read_plain_file
from tvc_store.errors import TvcError

__all__ = ["Document", "History", "Root", "find_roots", "read_history"]

_WORKING_TREE = "the working tree"


@dataclass(frozen=True, slots=True)
class Root:
    """Something from which commits, or documents that are in no commit, have to be kept.

    Args:
        name: For a person: `main`, `tag v1`, `operation 7`.
        commit: Full hash of a commit; None where there are documents only.
        documents: Path → text, of documents beside the commit's.
        is_tip: Whether it is a branch, a tag or a detached HEAD.
        is_record: Whether it only records where something once was, in the reflog or the operation
            log: what it needs may be gone, after `tvc gc`.
    """

    name: str
    commit: str | None
    documents: Mapping[str, str] = field(default_factory=dict[str, str])
    is_tip: bool = False
    is_record: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """One text of one path.

    Args:
        path: recipe.toml, vectors/NAME.toml or bases/NAME.toml.
        text: Its content, of at most `MAX_DOCUMENT` bytes.
    """

    path: str
    text: str


class History:
    """The documents of all commits that roots reach.

    Args:
        roots: The roots, those that git has lost left out.
        parents: Commit → parents, of all commits reached.
        introduced: Commit → the documents that it has and a parent has not.
        failures: What could not be read.
    """

    def __init__(
        self,
        roots: Sequence[Root],
        parents: Mapping[str, Sequence[str]],
        introduced: Mapping[str, Sequence[Document]],
        failures: Sequence[TvcError],
    ) -> None:
        self.roots = roots
        self.failures = failures
        self.commits = len(parents)
        self._parents = parents
        self._introduced = introduced
        self._places: dict[Document, list[Root]] | None = None
        self._current: set[Document] | None = None

    def tips(self) -> list[tuple[str, str]]:
        """Return name and commit of branches, tags and a detached HEAD."""
        return [(root.name, root.commit) for root in self.roots if root.commit and root.is_tip]

    def documents(self) -> list[Document]:
        """Return every document of every commit and root, once."""
        found = {each for documents in self._introduced.values() for each in documents}
        found |= {each for root in self.roots for each in _beside(root)}
        return sorted(found, key=lambda each: (each.path, each.text))

    def places(self, document: Document) -> list[str]:
        """Return the names of the roots that reach a document; of records only if no other does."""
        if self._places is None:
            found: dict[Document, list[Root]] = defaultdict(list)
            for root in self.roots:
                for each in dict.fromkeys(self._reached(root)):
                    found[each].append(root)
            self._places = found
        reaching = self._places.get(document, [])
        current = [root.name for root in reaching if not root.is_record]
        return list(dict.fromkeys(current or [root.name for root in reaching]))

    def is_current(self, document: Document) -> bool:
        """Say whether a document is needed by more than records of what once was."""
        if self._current is None:
            self._current = {
                each for root in self.roots if not root.is_record for each in self._reached(root)
            }
        return document in self._current

    def _reached(self, root: Root) -> Iterator[Document]:
        yield from _beside(root)
        pending = [root.commit] if root.commit is not None else []
        seen = set(pending)
        while pending:
            commit = pending.pop()
            yield from self._introduced.get(commit, ())
            older = [each for each in self._parents.get(commit, ()) if each not in seen]
            pending += older
            seen.update(older)


def _beside(root: Root) -> Iterator[Document]:
    return (Document(path, text) for path, text in sorted(root.documents.items()))


def find_roots(repository: Repository, *, since: float) -> tuple[list[Root], list[TvcError]]:
    """Return all that has to be kept, and what is too damaged to say.

    Args:
        repository: The repository.
        since: Entries of the reflog and the operation log before this do not count, in seconds
            since the epoch.
    """
    git, layout = repository.git, repository.layout
    found, damaged = read_log(layout)
    failures: list[TvcError] = list(damaged.values())
    roots: list[Root] = []
    further = (_working_tree, _merge_heads, _journal)
    for find in (partial(_refs, git), *(partial(each, layout) for each in further)):
        try:
            roots += find()
        except TvcError as error:
            failures.append(error)
    records = [Root("the reflog", commit) for commit in _reflog(git, since=since)]
    for operation in found:
        if operation.time >= since:
            records += _of_position(f"operation {operation.number}", operation.before)
            records += _of_position(f"operation {operation.number}", operation.after)
    return [*roots, *(replace(each, is_record=True) for each in records)], failures


def _working_tree(layout: Layout) -> list[Root]:
    return [Root(_WORKING_TREE, None, documents_on_disk(layout.root))]


def _journal(layout: Layout) -> list[Root]:
    journal = read_journal(layout)
    positions = (journal.before, journal.after) if journal else ()
    return [root for each in positions for root in _of_position("the move under way", each)]


def _refs(git: GitGateway) -> Iterator[Root]:
    if git.attempt("symbolic-ref", "--quiet", "HEAD")[0]:
        yield Root("HEAD", git.resolve("HEAD"), is_tip=True)
    status, output, errors = git.attempt("for-each-ref", "--format=%(objectname) %(refname)")
    lines = output.decode("utf-8", "replace").splitlines()
    if status or "broken" in errors:  # git passes over what it cannot read with a warning
        raise StateError(f"git: {printable((errors.strip() or 'failed').splitlines()[0])}")
    for sha, _, ref in (line.partition(" ") for line in lines):
        if ref.startswith("refs/notes/"):  # git's notes on commits have no recipe
            continue
        name = ref.removeprefix("refs/heads/").removeprefix("refs/remotes/")
        yield Root(f"tag {ref[10:]}" if ref.startswith("refs/tags/") else name, sha, is_tip=True)


def _reflog(git: GitGateway, *, since: float) -> list[str]:
    """Return the commits of young entries; git passes over those that it has no longer."""
    status, output, _ = git.attempt(
        "log", "--walk-reflogs", "--all", "--format=%H %gd", "--date=unix"
    )
    young: dict[str, None] = {}
    for line in output.decode("utf-8", "replace").splitlines() if status == 0 else ():
        sha, _, selector = line.partition(" ")
        seconds = selector.rpartition("@{")[2].rstrip("}")
        if not seconds.isdigit() or int(seconds) >= since:
            young[sha] = None
    return list(young)


def _of_position(name: str, position: Position) -> Iterator[Root]:
    texts = {path: text for path, text in position.overlay.items() if text is not None}
    yield Root(name, position.commit, texts)
    yield from (Root(name, sha) for sha in dict.fromkeys(position.refs.values()))


def _merge_heads(layout: Layout) -> list[Root]:
    if not layout.merging.exists():
        return []
    try:
        body: Any = json.loads(read_plain_file(layout.merging, limit=MAX_DOCUMENT))
        return [Root("the merge under way", str(parent)) for parent in body["parents"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StateError(
            f"{layout.merging} is damaged", hint="go back to before the merge: tvc merge --abort"
        ) from None


def read_history(git: GitGateway, roots: Sequence[Root], failures: Sequence[TvcError]) -> History:
    """Read the documents of all commits that roots reach.

    Args:
        git: The repository.
        roots: The roots.
        failures: What could not be read already.

    What git has lost is left out and said in `failures`; only commits of the reflog and the
    operation log may be lost without harm, since git removes them in time, and go unmentioned.
    """
    failed = list(failures)
    known = _known(git, {root.commit for root in roots if root.commit})
    kept = [root for root in roots if root.commit is None or root.commit in known]
    failed += (
        StateError(f"git has lost {root.commit[:10]}, which {printable(root.name)} names")
        for root in _lost(git, [r for r in roots if r.is_tip and r.commit not in known])
        if root.commit
    )
    starts = sorted({known[root.commit] for root in kept if root.commit})
    kept = [replace(r, commit=known[r.commit]) if r.commit else r for r in kept]
    parents: dict[str, Sequence[str]] = {}
    introduced: dict[str, Sequence[Document]] = {}
    try:
        _read(git, starts, parents, introduced)
    except GitFailed:
        # One by one, so that what hangs together is read in spite of what does not.
        for start in starts:
            try:
                _read(git, [start], parents, introduced)
            except GitFailed as error:
                failed.append(error)
    return History(kept, parents, introduced, failed)


def _known(git: GitGateway, hashes: Iterable[str]) -> dict[str, str]:
    """Return the hash that names a commit, or a tag of one → the commit, for those git has."""
    wanted = sorted(hashes)
    kinds = _kinds(git, [f"{sha}^{{commit}}" for sha in wanted])
    return {
        sha: line.split()[0]
        for sha, line in zip(wanted, kinds, strict=True)
        if line.split()[1] == "commit"
    }


def _kinds(git: GitGateway, names: Sequence[str]) -> list[str]:
    """Return `HASH KIND …` or `NAME missing` for each object; a damaged one is missing."""
    request = "".join(f"{name}\n" for name in names).encode()
    try:
        return git.run("cat-file", "--batch-check", stdin=request).decode().splitlines()
    except GitFailed:
        if len(names) == 1:
            return [f"{names[0]} missing"]
        return [line for name in names for line in _kinds(git, [name])]


def _lost(git: GitGateway, roots: Sequence[Root]) -> list[Root]:
    """Return the roots of which git has nothing; a tag may name what is no commit."""
    kinds = _kinds(git, [root.commit or "" for root in roots])
    return [r for r, line in zip(roots, kinds, strict=True) if line.endswith("missing")]


def _read(
    git: GitGateway,
    starts: Sequence[str],
    parents: dict[str, Sequence[str]],
    introduced: dict[str, Sequence[Document]],
) -> None:
    if not starts:
        return
    listed = git.run("rev-list", "--parents", "--stdin", stdin="\n".join(starts).encode() + b"\n")
    lines = [line.split() for line in listed.decode().splitlines()]
    commits = "".join(f"{line[0]}\n" for line in lines)
    changes = git.run(
        *("diff-tree", "--stdin", "-r", "-m", "--root", "-z", "--raw", "--no-renames"),
        *("--", RECIPE, VECTORS.rstrip("/"), BASES.rstrip("/")),
        stdin=commits.encode(),
    )
    found = _introduced(changes.decode("utf-8", "surrogateescape"))
    blobs = sorted({blob for entries in found.values() for _, blob in entries})
    texts = dict(zip(blobs, git.blobs(blobs, limit=MAX_DOCUMENT), strict=True))
    for commit, entries in found.items():
        introduced[commit] = [
            Document(path, texts[blob].decode("utf-8", "surrogateescape")) for path, blob in entries
        ]
    parents.update({line[0]: line[1:] for line in lines})


def _introduced(output: str) -> dict[str, list[tuple[str, str]]]:
    """Read what `git diff-tree --stdin -z` wrote: commit → (path, blob) of what it brought."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    commit = ""
    fields = iter(output.split("\0"))
    for each in fields:
        if not each.startswith(":"):
            commit = each.strip() or commit
            continue
        _, mode, _, blob, _ = each.split(" ")
        path = next(fields)
        if mode.startswith("1") and is_owned(path):
            found[commit].append((path, blob))
    return found
