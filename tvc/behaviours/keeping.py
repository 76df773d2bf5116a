"""Where results are kept: in the repository's private folder by recipe, and as notes on commits.

Notes are git's own way to say something of a commit without changing it: `git log
--notes=tvc-eval` shows them, and they are fetched and pushed as `refs/notes/tvc-eval`. A note holds
a line for each suite. It may be somebody else's, so it is read as such; `--rerun` does not read it.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from tvc.behaviours.results import BadResult, Measured, format_measured, parse_measured
from tvc.domain.documents import BadDocument
from tvc.models.strict_json import BadJson
from tvc.repository.repository import Repository, Waiting
from tvc.repository.state import read_plain_file
from tvc_store.durable import make_folder, write_durably

__all__ = ["NOTES", "find_result", "keep_result"]

NOTES: Final = "refs/notes/tvc-eval"
_FOLDER: Final = "evaluations"
_MAX_RESULT: Final = 16 << 20
_MAX_NOTE: Final = 64 << 20


def find_result(
    repository: Repository, *, recipe: str, suite: str, commit: str = ""
) -> Measured | None:
    """Return what was measured of a recipe by a suite, if that was kept.

    What cannot be read counts as not kept.

    Args:
        repository: The repository.
        recipe: Id of the recipe.
        suite: Id of the suite.
        commit: Full hash of a commit with this recipe, whose note is read too.
    """
    with suppress(BadDocument, BadResult, BadJson):
        data = read_plain_file(_file(repository, recipe, suite), limit=_MAX_RESULT)
        found = parse_measured(data, what="the result")
        if found[:2] == (recipe, suite):
            return found[2]
    for line in _note(repository, commit) if commit else []:
        with suppress(BadResult, BadJson):
            found = parse_measured(line, what="the note")
            if found[:2] == (recipe, suite):
                return found[2]
    return None


def keep_result(
    repository: Repository,
    measured: Measured,
    *,
    recipe: str,
    suite: str,
    commit: str = "",
    waiting: Waiting = Waiting(),  # noqa: B008 -- it never changes
) -> None:
    """Keep a result, in the place of what was kept before.

    Args:
        repository: The repository.
        measured: The result.
        recipe: Id of the recipe.
        suite: Id of the suite.
        commit: Full hash of a commit with this recipe, which gets it as a note.
        waiting: How to wait for another process.

    Raises:
        WriteFailed: The system refused.
        GitFailed: Git refused the note; the result is kept nevertheless.
        Locked: Another process holds the lock; likewise.
    """
    line = format_measured(measured, recipe=recipe, suite=suite).encode() + b"\n"
    place = _file(repository, recipe, suite)
    make_folder(place.parent)
    write_durably(place, [line])
    if not commit or line.strip() in _note(repository, commit):
        return
    with repository.locked("keep a result", waiting=waiting):
        others = [each for each in _note(repository, commit) if not _is_of(each, suite)]
        text = b"".join(sorted([*(each + b"\n" for each in others), line]))
        repository.git.run(
            "notes", f"--ref={NOTES}", "add", "--force", "--file=-", commit, stdin=text
        )


def _file(repository: Repository, recipe: str, suite: str) -> Path:
    # Both are hashes that we computed, and safe as names of files.
    return repository.layout.private / _FOLDER / f"{recipe}-{suite}.json"


def _note(repository: Repository, commit: str) -> list[bytes]:
    """Return the lines of a commit's note; none where there is none, or a huge one."""
    status, listed, _ = repository.git.attempt("notes", f"--ref={NOTES}", "list", commit)
    if status:
        return []
    blob = listed.decode().strip()
    size = repository.git.attempt("cat-file", "-s", blob)[1].strip()
    if not size.isdigit() or int(size) > _MAX_NOTE:
        return []
    data = repository.git.run("cat-file", "blob", blob)
    return [line for line in data.split(b"\n") if line.strip()]


def _is_of(line: bytes, suite: str) -> bool:
    try:
        return parse_measured(line, what="the note")[1] == suite
    except (BadResult, BadJson):
        return False
