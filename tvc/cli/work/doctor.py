"""What tvc doctor does."""

import json
from collections.abc import Iterator

import click

from tvc.cli.progress import format_bytes
from tvc.cli.session import Session
from tvc.domain.errors import StateError
from tvc.domain.names import printable
from tvc.upkeep.diagnosis import Diagnosis, RepositoryFacts, diagnose

__all__ = ["NotWell", "doctor"]


class NotWell(StateError):
    """Something should be put right."""


def doctor(session: Session, *, as_json: bool) -> None:
    """Do what `tvc doctor` says."""
    found = diagnose(session.folder)
    if as_json:
        click.echo(json.dumps(_facts(found), indent=2))
    else:
        for line in _lines(found):
            click.echo(line)
    if found.troubles:
        count = len(found.troubles)
        raise NotWell(f"{count} {'thing' if count == 1 else 'things'} should be put right")
    if not as_json:
        session.say("all is well")


def _lines(found: Diagnosis) -> Iterator[str]:
    program = found.program
    for name, version in program.versions.items():
        yield f"{name + ':':14}{version or 'not there'}"
    yield f"{'cores:':14}{program.cores}"
    for name, level in program.loops.items():
        yield f"{name + ':':14}{level}"
    yield from _repository_lines(found.repository)
    for trouble in found.troubles:
        yield f"problem: {printable(trouble.text, limit=500)}"
        if trouble.hint:
            yield f"  {printable(trouble.hint, limit=500)}"


def _repository_lines(facts: RepositoryFacts | None) -> Iterator[str]:
    if facts is None:
        yield f"{'repository:':14}none here"
        return
    yield f"{'repository:':14}{printable(str(facts.root), limit=500)}"
    if facts.format:
        stored = f"{facts.objects} objects, {format_bytes(facts.object_bytes)}"
        yield f"{'store:':14}{facts.format}, {stored}"
    shares = {True: "shares blocks", False: "shares no blocks", None: "cannot be written to"}
    yield f"{'disk:':14}{format_bytes(facts.free_bytes)} free, {shares[facts.shares_blocks]}"
    yield from (f"{'lock:':14}{printable(lock, limit=500)}" for lock in facts.locks)


def _facts(found: Diagnosis) -> dict[str, object]:
    repository = found.repository
    return {
        "versions": dict(found.program.versions),
        "cores": found.program.cores,
        "loops": dict(found.program.loops),
        "repository": None
        if repository is None
        else {
            "root": str(repository.root),
            "format": repository.format,
            "objects": repository.objects,
            "object_bytes": repository.object_bytes,
            "free_bytes": repository.free_bytes,
            "shares_blocks": repository.shares_blocks,
            "locks": list(repository.locks),
        },
        "problems": [{"problem": trouble.text, "hint": trouble.hint} for trouble in found.troubles],
    }
