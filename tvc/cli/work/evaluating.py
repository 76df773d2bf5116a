"""What tvc eval does, and how what was measured is printed."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from tvc.behaviours.evaluating import Evaluator, Settings
from tvc.behaviours.intervals import SIGMAS, Estimate, Rate, paired_p
from tvc.behaviours.measuring import Bench, count_answers
from tvc.behaviours.results import Answers, Measured, Shown
from tvc.behaviours.subjects import (
    Subject,
    base_of,
    recipe_subject,
    subjects_of,
    working_subject,
)
from tvc.behaviours.suite import Suite, read_suite
from tvc.behaviours.transfer import Transfer, transfer_of
from tvc.cli.progress import step_progress
from tvc.cli.session import Session
from tvc.cli.work.devices import chosen_device
from tvc.cli.work.foreign import containment_teller, server
from tvc.dialogues.verifiers import Case
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe
from tvc.repository.repository import Repository
from tvc_store.durable import write_durably

__all__ = ["evaluate", "format_rate", "measured_facts", "measuring", "print_table", "rate_facts"]

_ASKED: Final = {"alone": "no", "guided": "for it", "opposed": "for the opposite"}
_SIGNIFICANT: Final = 0.05
_CELL: Final = 19  # characters of a column with a rate and its interval


def evaluate(
    session: Session,
    *,
    suite: Path,
    revisions: tuple[str, ...],
    recipes: tuple[str, ...],
    matrix: bool,
    no_distance: bool,
    answers: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Do what `tvc eval` says; its options are the command's."""
    options["rerun"] |= answers is not None  # what was kept has no answers
    read, repository = read_suite(suite), session.repository()
    subjects = [each for revision in revisions for each in subjects_of(repository, revision)]
    subjects += [recipe_subject(repository, recipe) for recipe in recipes]
    subjects = subjects or [working_subject(repository)]
    said = _Said()
    with measuring(
        session, repository, read, distance=not no_distance, on_case=said.hear, **options
    ) as evaluator:
        found = [(each, said.by(each, evaluator)) for each in subjects]
        chain = [pair for pair in found if pair[0].state.recipe.terms]
        transfer = _transfer(evaluator, read, chain) if matrix else None
    if answers is not None:
        write_durably(answers, said.lines)
    if as_json:
        facts: dict[str, Any] = {"models": [_facts(each, result) for each, result in found]}
        if transfer is not None:
            facts["transfer"] = _transfer_facts(transfer)
        click.echo(json.dumps(facts, indent=2))
    elif transfer is not None:
        print_table(session, _matrix_table(transfer))
        session.show("\n".join(_transfer_lines(transfer)))
    else:
        _print_side_by_side(session, read, found)


@contextmanager
def measuring(
    session: Session,
    repository: Repository,
    suite: Suite,
    *,
    rerun: bool,
    judge: str | None,
    judge_model: str | None,
    device: str,
    batch: int,
    distance: bool = False,
    known: Suite | None = None,
    on_case: Callable[[str, str, Case, bool], None] | None = None,
) -> Generator[Evaluator]:
    """Yield what measures, by the options of `measuring_options`."""
    progress = _Progress(session, count_answers(suite))
    bench = Bench(
        judge=server(judge, judge_model, option="--judge-model"),
        batch=batch,
        on_answers=progress.advance,
        on_contained=containment_teller(session),
        on_case=on_case,
    )
    settings = Settings(
        device=chosen_device(device),
        rerun=rerun,
        distance=distance,
        waiting=session.waiting,
        on_subject=progress.begin,
        on_unkept=lambda error: session.note(f"note: the result was not kept: {error.message}"),
    )
    try:
        yield Evaluator(repository, suite, bench, settings, known=known)
    finally:
        progress.end()


class _Said:
    """Answers, a line of JSON each, as they are heard."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._model = ""

    def by(self, subject: Subject, evaluator: Evaluator) -> Measured:
        """Measure a subject, and take down what it says."""
        self._model = subject.label
        return evaluator.evaluate(subject)

    def hear(self, behaviour: str, how: str, case: Case, shown: bool) -> None:  # noqa: FBT001 -- a callback
        line = {
            "model": self._model,
            "behaviour": behaviour,
            "asked": _ASKED[how],
            "prompt": case.prompt,
            "answer": case.response,
            "shown": shown,
        }
        self.lines.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")


class _Progress:
    """A bar for each model that is measured."""

    def __init__(self, session: Session, answers: int) -> None:
        self._session = session
        self._answers = answers
        self._done = 0
        self._shown: Any = None
        self._tell: Callable[[int, str], None] = lambda _done, _note: None

    def begin(self, subject: Subject, known: bool) -> None:  # noqa: FBT001 -- a callback
        self.end()
        if not known:
            self._done = 0
            self._shown = step_progress(self._session, f"measuring {subject.label}", self._answers)
            self._tell = self._shown.__enter__()

    def advance(self, count: int) -> None:
        self._done += count
        self._tell(self._done, "answers")

    def end(self) -> None:
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
            self._shown = None


def format_rate(rate: Rate) -> str:
    """Write a rate with its interval: `98% [95, 99]`."""
    low, high = rate.interval
    return f"{rate.value:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def print_table(session: Session, table: Table) -> None:
    """Print a table as wide as the terminal."""
    console = Console(highlight=False, markup=False, no_color=not session.colors)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().rstrip("\n").split("\n")]
    session.show("\n".join(lines))


def _print_side_by_side(
    session: Session, suite: Suite, found: Sequence[tuple[Subject, Measured]]
) -> None:
    """Print models in columns, as many at once as there is room for."""
    first = found[0][1]
    labels = [label for label, _ in _rows(suite, first, first)]
    room = Console().width - max(map(len, labels))
    columns = max(1, room // _CELL)
    for start in range(0, len(found), columns):
        shown = found[start : start + columns]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", no_wrap=True)
        for subject, _ in shown:
            table.add_column(subject.label, min_width=min(len(subject.label), _CELL - 2))
        cells = [dict(_rows(suite, measured, first)) for _, measured in shown]
        for label in labels:
            values = [each.get(label, "") for each in cells]
            if any(values):
                table.add_row(label, *values)
        print_table(session, table)
    starred = any("*" in cell for _, each in found for _, cell in _rows(suite, each, first))
    if starred:
        session.say(f"* differs from {found[0][0].label} on the same prompts, p < {_SIGNIFICANT}")
    cut = sum(_unended(each) for _, each in found)
    if cut:
        session.say(f"{cut} answers were cut off at {suite.sampling.tokens} tokens")


def _rows(suite: Suite, measured: Measured, first: Measured) -> list[tuple[str, str]]:
    """Return what is said of a model, line by line: label and value."""
    lines: list[tuple[str, str]] = []
    for name in suite.names:
        shown, compared = measured.behaviours[name], first.behaviours[name]
        lines.append((name, _cell(shown.alone, compared.alone)))
        if shown.guided is not None:
            lines.append((f"  {name}, asked for", _cell(shown.guided, compared.guided)))
        if shown.opposed is not None:
            lines.append((f"  {name}, opposite", _cell(shown.opposed, compared.opposed)))
    for label, value in (
        ("general loss", measured.loss),
        ("KL, general data", measured.general_kl),
        ("KL, own answers", measured.answers_kl),
    ):
        lines.append((label, "" if value is None else _format_estimate(value)))
    return lines


def _cell(answers: Answers, first: Answers | None) -> str:
    text = format_rate(answers.rate)
    if first is None:
        return text
    differs = paired_p(first.verdicts, answers.verdicts) < _SIGNIFICANT
    return f"{text} *" if differs else text


def _format_estimate(estimate: Estimate) -> str:
    if estimate.error != estimate.error:  # one row alone says nothing of others
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ± {SIGMAS * estimate.error:.3f}"


def _unended(measured: Measured) -> int:
    return sum(shown.alone.unended for shown in measured.behaviours.values())


def rate_facts(rate: Rate) -> dict[str, Any]:
    """Return a rate as values for JSON."""
    low, high = rate.interval
    return {"rate": rate.value, "low": low, "high": high, "count": rate.count, "of": rate.total}


def measured_facts(measured: Measured) -> dict[str, Any]:
    """Return what was measured as values for JSON."""
    facts: dict[str, Any] = {
        "behaviours": {name: _shown_facts(each) for name, each in measured.behaviours.items()}
    }
    for key, value in (
        ("general_loss", measured.loss),
        ("general_kl", measured.general_kl),
        ("answers_kl", measured.answers_kl),
    ):
        if value is not None:
            facts[key] = _estimate_facts(value)
    return facts | {"about": dict(measured.about)}


def _shown_facts(shown: Shown) -> dict[str, Any]:
    parts = {"alone": shown.alone, "asked_for": shown.guided, "opposite": shown.opposed}
    return {
        key: rate_facts(answers.rate) | {"cut_off": answers.unended}
        for key, answers in parts.items()
        if answers is not None
    }


def _estimate_facts(estimate: Estimate) -> dict[str, float | None]:
    error = None if estimate.error != estimate.error else estimate.error
    return {"value": estimate.value, "error": error}


def _facts(subject: Subject, measured: Measured) -> dict[str, Any]:
    return {
        "model": subject.label,
        "commit": subject.commit or None,
        "recipe": format_recipe(subject.state.recipe),
        "recipe_id": subject.recipe,
        **measured_facts(measured),
    }


def _transfer(
    evaluator: Evaluator, suite: Suite, chain: Sequence[tuple[Subject, Measured]]
) -> Transfer:
    """Return the matrix of a chain, whose commits trained behaviours in the suite's order."""
    names = suite.names
    if len(chain) < 2 or len(chain) != len(names):
        raise InputError(
            f"--matrix needs a commit for each of the {len(names)} behaviours, and {len(chain)} "
            "were given",
            hint="the i-th commit trained the i-th behaviour of the suite: name them in its order",
        )
    labels = [subject.label for subject, _ in chain]
    if set(labels) == set(names) and labels != list(names):
        names = tuple(labels)  # branches that are called as what they train
    base = evaluator.evaluate(base_of(chain[0][0].state))
    return transfer_of(base, [(each.label, measured) for each, measured in chain], names)


def _matrix_table(transfer: Transfer) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", *transfer.behaviours):
        table.add_column(heading)
    table.add_row("base", *map(format_rate, transfer.before))
    for row, (stage, rates) in enumerate(zip(transfer.stages, transfer.rates, strict=True)):
        cells = [format_rate(rate) for rate in rates]
        cells[row] = f"{cells[row]} <"
        table.add_row(printable(stage), *cells)
    return table


def _transfer_lines(transfer: Transfer) -> list[str]:
    return [
        "< the behaviour that this commit trained",
        f"average            {_points(transfer.average)}  ACC, of the last commit",
        f"backward transfer  {_points(transfer.backward)}  BWT, by later commits",
        f"forward transfer   {_points(transfer.forward)}  FWT, before it was trained",
        f"forgetting         {_points(transfer.forgetting)}  below the best before the last commit",
    ]


def _points(estimate: Estimate) -> str:
    """Write a difference of rates in points of a hundred."""
    half = 100 * SIGMAS * estimate.error
    return f"{100 * estimate.value:+6.1f} ± {half:.1f}".ljust(14)


def _transfer_facts(transfer: Transfer) -> dict[str, Any]:
    return {
        "stages": list(transfer.stages),
        "behaviours": list(transfer.behaviours),
        "before": [rate_facts(rate) for rate in transfer.before],
        "rates": [[rate_facts(rate) for rate in row] for row in transfer.rates],
        "average": _estimate_facts(transfer.average),
        "backward": _estimate_facts(transfer.backward),
        "forward": _estimate_facts(transfer.forward),
        "forgetting": _estimate_facts(transfer.forgetting),
    }
