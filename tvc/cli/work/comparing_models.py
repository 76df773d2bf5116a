"""What tvc lab does with two models: what lies between their weights, against random changes."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import click
import torch
from torch import Tensor

from tvc.behaviours.subjects import Subject, base_of, recipe_subject, subjects_of
from tvc.checkout.temporary import checked_out
from tvc.cli.progress import step_progress
from tvc.cli.session import Session
from tvc.cli.work.devices import chosen_device
from tvc.cli.work.laboratory import finish
from tvc.dialogues.generation import end_ids
from tvc.dialogues.loading import Loaded, load_model, quiet
from tvc.dialogues.rendering import render_examples, render_prompts
from tvc.dialogues.rows import Row, read_rows
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe
from tvc.lab.changes import change_between
from tvc.lab.report import check_free
from tvc.lab.state_direction import state_direction as compare_states
from tvc.lab.states import delta_nets
from tvc.lab.which_heads import Listener
from tvc.lab.which_heads import which_heads as compare_heads
from tvc.repository.repository import Repository
from tvc.training.provenance import versions

__all__ = ["state_direction", "which_heads"]


@dataclass(frozen=True, slots=True)
class _Pair:
    """What lies between two models.

    Args:
        before: The first, in float32.
        change: What was added to its weights to make the second.
        rows: Of the data.
        settings: For the report.
    """

    before: Loaded
    change: dict[str, Tensor]
    rows: tuple[Row, ...]
    settings: dict[str, Any]

    @property
    def pad(self) -> int:
        """Id of the token for padding."""
        return cast("int", self.before.tokenizer.pad_token_id)


def state_direction(session: Session, **options: Any) -> None:
    """Do what `tvc lab state-direction` says."""
    seeds = range(options["seed"], options["seed"] + options["seeds"])
    with _pair(session, options, responses=False) as (pair, tell):
        model = pair.before.model
        delta_nets(model)  # before anything is computed
        contexts = render_prompts(pair.rows, pair.before.tokenizer, window=options["window"])
        report = compare_states(
            model,
            pair.change,
            contexts,
            pad=pair.pad,
            seeds=seeds,
            settings=pair.settings,
            on_row=tell,
        )
    finish(session, report, options["output"])


def which_heads(session: Session, *, top: int, **options: Any) -> None:
    """Do what `tvc lab which-heads` says."""
    seeds = range(options["seed"], options["seed"] + options["seeds"])
    with _pair(session, options, responses=True) as (pair, tell):
        model, tokenizer = pair.before.model, pair.before.tokenizer
        ends = end_ids(model, tokenizer)
        examples = render_examples(pair.rows, tokenizer, window=options["window"], ends=ends)
        listener = Listener(model, examples, pad=pair.pad, on_row=tell)
        settings = pair.settings | {"top": top}
        report = compare_heads(listener, pair.change, seeds=seeds, top=top, settings=settings)
    finish(session, report, options["output"])


@contextmanager
def _pair(
    session: Session, options: dict[str, Any], *, responses: bool
) -> Generator[tuple[_Pair, Callable[[], None]]]:
    """Yield two models' difference, and what is told of each row that was computed."""
    check_free(options["output"])
    repository = session.repository()
    before, after = _subjects(repository, options)
    data = read_rows(options["data"], responses=responses)
    rows = data.rows[: options["rows"]]
    if len(rows) < 2:
        raise InputError(f"{printable(str(options['data']))} has one row; two at least are needed")
    device = chosen_device(options["device"])
    torch.set_num_threads(options["threads"] or os.cpu_count() or 1)
    loaded = _loaded(repository, before, device)
    change = change_between(loaded.model, _loaded(repository, after, device).model)
    settings: dict[str, Any] = {
        "model": after.label,
        "commit": after.commit or repository.git.resolve("HEAD"),
        "recipe": format_recipe(after.state.recipe),
        "recipe_id": after.recipe,
        "against": before.label,
        "against_commit": before.commit,
        "against_recipe_id": before.recipe,
        "data": f"{printable(data.path.name)}, {len(data.rows)} rows, sha256 {data.sha256}",
        "rows": len(rows),
        **{key: options[key] for key in ("seeds", "seed", "window")},
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    total = len(rows) * (options["seeds"] + 2)  # before, after, and each random change
    with quiet(), step_progress(session, "computing", total) as tell:
        yield _Pair(loaded, change, rows, settings), _Counted(tell).advance


class _Counted:
    """Counts rows.

    Args:
        tell: Shows how many.
    """

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        self._tell = tell
        self._done = 0

    def advance(self) -> None:
        """Count one more."""
        self._done += 1
        self._tell(self._done, "rows")


def _subjects(repository: Repository, options: dict[str, Any]) -> Sequence[Subject]:
    """Return what is compared: before and after."""
    vector: str | None = options["vector"]
    if vector is not None:
        given = click.get_current_context().get_parameter_source("revision")
        if given is click.core.ParameterSource.COMMANDLINE or options["against"]:
            raise click.UsageError("--vector looks at a vector alone: REV and --against are no use")
        after = recipe_subject(repository, vector)
        if len(after.state.recipe.terms) != 1:
            raise click.UsageError(f"{printable(vector)!r} is not the name of one vector")
        return base_of(after.state), after
    revision: str = options["revision"]
    against: str = options["against"] or f"{revision}~1"
    return _one(repository, against), _one(repository, revision)


def _one(repository: Repository, revision: str) -> Subject:
    found = subjects_of(repository, revision)
    if len(found) != 1:
        raise click.UsageError(f"{printable(revision)!r} is not one commit")
    return found[0]


def _loaded(repository: Repository, subject: Subject, device: str) -> Loaded:
    with checked_out(repository.layout, subject.state, commit=subject.commit) as folder:
        loaded = load_model(folder, dtype=torch.float32)
    loaded.model.to(device)  # pyright: ignore[reportArgumentType, reportCallIssue] -- a decorator hides its signature
    return loaded
