"""`tvc fsck`: everything that is wrong with a repository, and what suffers from it.

Every stored object and every borrowed file is read and verified; every object that a commit needs
is looked for; git checks its own part. An inspection reports and goes on, and changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tvc.domain.errors import StateError
from tvc.domain.names import printable
from tvc.repository.layout import Layout
from tvc.repository.operations import read_log
from tvc.repository.position import read_journal
from tvc.repository.repository import Repository
from tvc.repository.state import State, documents_at
from tvc.upkeep.history import History, find_roots, read_history
from tvc.upkeep.needs import Needs, Use, find_needs
from tvc_store.borrowed import DamagedRecord
from tvc_store.check import Finding, check
from tvc_store.errors import TvcError
from tvc_store.ids import ObjectId
from tvc_store.local import Store
from tvc_store.opened import Damaged
from tvc_store.reading import Missing

__all__ = ["Inspection", "Problem", "ProblemKind", "inspect", "survey", "work_bytes"]

ProblemKind = Literal[
    "damaged", "misplaced", "missing", "source", "document", "git", "operation", "stray"
]

_SHOWN: Final = 4
_EVER: Final = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Args:
        kind: `damaged`, `misplaced`: what lies in an object's place is not that object; `missing`:
            there is nothing; `source`: a borrowed file, or the record of one; `document`: a text
            of tvc's; `git`: what git says of its part; `operation`: a record of the operation log
            or the journal; `stray`: a file that is nobody's, harmless.
        text: What is wrong, in one line.
        id: The object, if it is one.
        path: The file, if it is one.
        needed_by: What needs it, in words.
    """

    kind: ProblemKind
    text: str
    id: ObjectId | None = None
    path: Path | None = None
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was looked at, and what is wrong.

    Args:
        problems: What is wrong.
        strays: Harmless files that belong to nobody.
        needs: What the commits need.
        commits: Number of commits.
        objects: Number of objects stored.
    """

    problems: tuple[Problem, ...]
    strays: tuple[Problem, ...]
    needs: Needs = field(repr=False)
    commits: int
    objects: int


def survey(repository: Repository, store: Store, *, since: float) -> tuple[History, Needs]:
    """Return the history that has to be kept and what it needs; arguments as for `find_roots`."""
    roots, failures = find_roots(repository, since=since)
    history = read_history(repository.git, roots, failures)
    return history, find_needs(history.documents(), store.read_blob)


def work_bytes(store: Store) -> int:
    """Return the bytes that an inspection reads, as far as can be told."""
    stored = sum(store.stored_size(identity) for identity in store.object_ids())
    try:
        sources = store.sources()
    except DamagedRecord:
        return stored
    return stored + sum(t.spec.nbytes for s in sources for t in s.tensors.values())


def inspect(
    repository: Repository, store: Store, *, on_bytes: Callable[[int], None] = lambda _: None
) -> Inspection:
    """Check everything.

    Args:
        repository: The repository; its journal may be damaged.
        store: Its store, kept from `tvc gc`.
        on_bytes: Called with the bytes of every object and borrowed tensor done.
    """
    history, needs = survey(repository, store, since=_EVER)
    findings = list(check(store, progress=on_bytes))
    problems = [
        *_records(repository.layout, history),
        *_git(repository),
        *_documents(repository, history, needs),
        *_objects(store, history, needs, [each for each in findings if each.kind != "stray"]),
    ]
    strays = [_of_finding(each, ()) for each in findings if each.kind == "stray"]
    stored = sum(1 for _ in store.object_ids())
    return Inspection(tuple(problems), tuple(strays), needs, history.commits, stored)


def _line(error: TvcError) -> str:
    return printable(error.message, limit=500)


def _records(layout: Layout, history: History) -> Iterator[Problem]:
    _, files = read_log(layout)
    try:
        read_journal(layout)
    except StateError as error:
        files = {**files, layout.journal: error}
    for path, error in files.items():
        yield Problem("operation", _line(error), path=path)
    said = {error.message for error in files.values()}
    for error in history.failures:
        if error.message not in said:
            yield Problem("git", _line(error))


def _git(repository: Repository) -> Iterator[Problem]:
    status, output, errors = repository.git.attempt(
        "fsck", "--full", "--no-dangling", "--no-progress"
    )
    lines = [*output.decode("utf-8", "replace").splitlines(), *errors.splitlines()]
    said = [line for line in lines if line.startswith(("missing", "broken", "error", "fatal"))]
    if status:
        for line in dict.fromkeys(said or lines or ["it failed without a word"]):
            yield Problem("git", f"git fsck: {printable(line, limit=300)}")


def _documents(repository: Repository, history: History, needs: Needs) -> Iterator[Problem]:
    said: set[str] = set()
    for document, error in needs.malformed.items():
        said.add(error.message)
        yield Problem("document", _line(error), needed_by=_some(history.places(document)))
    # Every document may be well-formed, and the whole still name what it does not describe.
    for name, commit in history.tips():
        try:
            state = State.parse(documents_at(repository.git, commit))
            state.library().normal_form(state.recipe)
        except TvcError as error:
            if error.message not in said:
                yield Problem("document", _line(error), needed_by=(printable(name),))


def _objects(
    store: Store, history: History, needs: Needs, findings: Sequence[Finding]
) -> Iterator[Problem]:
    known = {each.id for each in findings if each.id}
    others = sorted({*needs.tensors, *needs.blobs} - known)
    absent = {each: why for each in others if (why := _absence(store, needs, each)) is not None}
    lists = {ref.id: error for ref, error in needs.unreadable.items()}
    malformed = {i: e for i, e in lists.items() if i not in known and i not in absent}
    borrowed = {each: _borrowed(store, each.path) for each in findings if each.kind == "source"}
    ids = {each for tensors in borrowed.values() for each in tensors}
    uses = needs.users({*known, *absent, *malformed, *ids})
    # A file that is gone is one problem, however many tensors it takes with it.
    causes: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        causes.setdefault((finding.kind, finding.problem), []).append(finding)
    for together in causes.values():
        objects = [each.id for each in together if each.id]
        objects += [i for each in together for i in borrowed.get(each, ())]
        users = [use for identity in objects for use in uses[identity]]
        yield _of_finding(together[-1], _described(history, users))
    for identity, why in absent.items():
        if not any(history.is_current(use.document) for use in uses[identity]):
            continue  # only the reflog or the operation log names it, and `tvc gc` has removed it
        yield Problem("missing", why, identity, None, _described(history, uses[identity]))
    for identity, error in malformed.items():
        yield Problem("damaged", _line(error), identity, None, _described(history, uses[identity]))


def _borrowed(store: Store, file: Path) -> list[ObjectId]:
    """Return the tensors that a file is to give."""
    try:
        sources = store.sources()
    except DamagedRecord:
        return []
    return [i for s in sources for i, t in s.tensors.items() if s.root / t.file == file]


def _absence(store: Store, needs: Needs, identity: ObjectId) -> str | None:
    """Say what is wrong with an object in whose place a check found nothing wrong."""
    try:
        if identity in needs.blobs:
            return None if store.is_stored(identity) else Missing(identity).message
        spec = store.tensor_spec(identity)
    except (Missing, Damaged, DamagedRecord) as error:
        return _line(error)
    wanted = needs.tensors[identity]
    if wanted is not None and wanted != spec:
        return f"{identity} is {spec.dtype} {list(spec.shape)}, not what a list says"
    return None


def _of_finding(finding: Finding, needed_by: tuple[str, ...]) -> Problem:
    text = printable(finding.problem, limit=500)
    return Problem(finding.kind, text, finding.id, finding.path, needed_by)


def _described(history: History, uses: Sequence[Use]) -> tuple[str, ...]:
    words: dict[str, list[str]] = {}
    for use in uses:
        words.setdefault(f"{use.what} of {use.owner}", []).extend(history.places(use.document))
    return tuple(
        f"{printable(what)} on {', '.join(_some(list(dict.fromkeys(places))))}"
        for what, places in words.items()
    )


def _some(names: Sequence[str]) -> tuple[str, ...]:
    shown = [printable(name) for name in names[:_SHOWN]]
    return (*shown, f"{len(names) - _SHOWN} more") if len(names) > _SHOWN else tuple(shown)
