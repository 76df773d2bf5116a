"""What tvc bisect does."""

import json
from pathlib import Path
from typing import Any

import click

from tvc.behaviours.bisecting import Found, Probe, TermFound, bisect_terms, prefixes
from tvc.behaviours.bisecting import bisect as bisect_line
from tvc.behaviours.evaluating import Evaluator
from tvc.behaviours.intervals import Rate
from tvc.behaviours.subjects import Subject, commit_line, subjects_of, working_subject
from tvc.behaviours.suite import read_suite
from tvc.cli.session import Session
from tvc.cli.work.evaluating import format_rate, measuring, rate_facts
from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.repository.repository import Repository

__all__ = ["bisect"]


def bisect(
    session: Session,
    *,
    suite: Path,
    behaviour: str,
    where: str,
    terms: bool,
    threshold: float | None,
    every: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Do what `tvc bisect` says; its options are the command's."""
    read, repository = read_suite(suite), session.repository()
    if behaviour not in read.names:
        raise InputError(
            f"the suite has no behaviour {printable(behaviour)!r}",
            hint=nearest(behaviour, read.names) or f"it has {', '.join(read.names)}",
        )
    # Only what is searched for is measured.
    only = read.only(behaviour)
    with measuring(session, repository, only, known=read, **options) as evaluator:

        def rate_of(subject: Subject) -> Rate:
            return evaluator.evaluate(subject).behaviours[behaviour].alone.rate

        if terms:
            whole = _whole(repository, where)
            session.note(_plan(len(prefixes(whole)), every=every, more=2))
            in_terms = bisect_terms(whole, rate_of, threshold=threshold, every=every)
            _print_term(session, in_terms, behaviour, evaluator, as_json=as_json)
        else:
            line = _line(repository, where)
            session.note(_plan(len(line), every=every, more=0))
            found = bisect_line(line, rate_of, threshold=threshold, every=every)
            _print_commit(session, repository, found, behaviour, evaluator, as_json=as_json)


def _whole(repository: Repository, where: str) -> Subject:
    if where == "HEAD":
        return working_subject(repository)
    found = subjects_of(repository, where)
    if len(found) != 1:
        raise InputError(f"--terms searches one recipe, and {printable(where)!r} are {len(found)}")
    return found[0]


def _line(repository: Repository, where: str) -> list[Subject]:
    good, _, bad = where.partition("..")
    if good in {"", "HEAD"} and not bad:
        raise InputError("say between which commits: GOOD..BAD", hint="see: tvc log")
    (first,) = subjects_of(repository, repository.git.resolve(good))
    label = first.commit[:10]
    return [
        Subject(label, first.state, first.commit),
        *commit_line(repository, good, bad or "HEAD"),
    ]


def _plan(count: int, *, every: bool, more: int) -> str:
    steps = count if every else 2 + (count - 2).bit_length() if count > 2 else count
    return f"{count} models; at most {steps + more} of them are measured"


def _print_commit(
    session: Session,
    repository: Repository,
    found: Found,
    behaviour: str,
    evaluator: Evaluator,
    *,
    as_json: bool,
) -> None:
    commit = found.subject.commit
    subject = printable(repository.git.text("log", "-1", "--format=%s", commit), limit=200)
    if as_json:
        facts = {"commit": commit, "subject": subject, **_facts(found, evaluator)}
        click.echo(json.dumps(facts, indent=2))
        return
    session.show("\n".join(_probe_lines(found.probes, found)))
    verb = "brought in" if found.after.rate.value > found.before.rate.value else "took away"
    session.show(f"{commit[:10]} {verb} {behaviour}: {subject}")
    _say_doubts(session, found)


def _print_term(
    session: Session, found: TermFound, behaviour: str, evaluator: Evaluator, *, as_json: bool
) -> None:
    if as_json:
        facts = {
            "term": found.term,
            "alone": rate_facts(found.alone),
            "without": rate_facts(found.without),
            "verdict": found.words,
            **_facts(found.found, evaluator),
        }
        click.echo(json.dumps(facts, indent=2))
        return
    lines = _probe_lines(found.found.probes, found.found)
    alone, without = format_rate(found.alone), format_rate(found.without)
    lines.append(f"  {found.term} alone {alone}, all but it {without}")
    session.show("\n".join(lines))
    inner = found.found
    verb = "brings in" if inner.after.rate.value > inner.before.rate.value else "takes away"
    session.show(f"{found.term} {verb} {behaviour}: {found.words}")
    _say_doubts(session, inner)


def _probe_lines(probes: tuple[Probe, ...], found: Found) -> list[str]:
    width = max(len(probe.label) for probe in probes)
    return [
        f"{'>' if probe.place == found.after.place else ' '} {probe.label:{width}}  "
        f"{format_rate(probe.rate)}"
        for probe in probes
    ]


def _say_doubts(session: Session, found: Found) -> None:
    for doubt in found.doubts:
        session.show(f"but: {doubt}")


def _facts(found: Found, evaluator: Evaluator) -> dict[str, Any]:
    return {
        "before": rate_facts(found.before.rate),
        "after": rate_facts(found.after.rate),
        "probes": [{"label": each.label, **rate_facts(each.rate)} for each in found.probes],
        "doubts": list(found.doubts),
        "measured": evaluator.measured,
    }
