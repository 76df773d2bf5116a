"""What tvc merge does."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import click

from tvc.cli.made import IDLE_MERGE, say_made
from tvc.cli.measures import interference_facts, interference_of, say_interference
from tvc.cli.progress import progress_of
from tvc.cli.session import Session
from tvc.domain.changes import describe_changes
from tvc.domain.errors import InputError, StateError
from tvc.domain.grammar import parse_number, parse_option
from tvc.domain.names import printable
from tvc.domain.recipe import OptionValue, format_recipe
from tvc.domain.threeway import Side
from tvc.merging.presets import preset_options
from tvc.merging.registry import find_method
from tvc.repository.objects import Objects, open_objects
from tvc.repository.position import Position
from tvc.repository.repository import Repository
from tvc.repository.state import read_plain_file
from tvc.versioning.conflicts import describe_conflicts, merging_of, stop_for_conflicts
from tvc.versioning.finishing import commit_state
from tvc.versioning.mergekit import RANDOM
from tvc.versioning.mergekit_file import parse_mergekit
from tvc.versioning.mergekit_models import prepare_mergekit
from tvc.versioning.merging import (
    MergeRequest,
    Prepared,
    UpToDate,
    prepare_merge,
)
from tvc.versioning.strict_yaml import MAX_YAML
from tvc_store.local import Store

__all__ = ["merge"]


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of merge that are the method's business, as they were typed."""

    density: str | None
    scope: str | None
    normalize: str | None
    seed: int | None
    option: tuple[str, ...]
    like: str | None

    @property
    def is_given(self) -> bool:
        """Whether one of them was given that a file could say too, which the seed is not."""
        return bool(self.option or any((self.density, self.scope, self.normalize, self.like)))

    def read(self, method: str | None) -> dict[str, OptionValue]:
        """Return the options of a method, those of the preset below those that were given."""
        given = {
            "density": self.density,
            "scope": self.scope,
            "normalize": self.normalize,
            "seed": None if self.seed is None else str(self.seed),
            **dict(_split(text) for text in self.option),
        }
        typed = {name: parse_option(text) for name, text in given.items() if text is not None}
        if method is None:
            if typed or self.like:
                word = next(iter(typed), "like")
                raise InputError(f"--{word} is for a merge method", hint="say which: --ties")
            return {}
        preset: Mapping[str, object] = preset_options(self.like, method) if self.like else {}
        known = find_method(method).options
        # What the user is likely to look for in the recipe is written there even when it is the
        # default: how much is kept, and what the draws follow from.
        shown = {name: known[name].default for name in ("density", "seed") if name in known}
        return {name: _exact(value) for name, value in {**shown, **preset}.items()} | typed


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{printable(text)!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _exact(value: object) -> OptionValue:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return Fraction(repr(value))
    if isinstance(value, tuple):
        return tuple(Fraction(repr(each)) for each in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # numbers, as options have them
    raise AssertionError(f"no option has a value like {value!r}")


def merge(
    session: Session,
    *,
    branches: tuple[str, ...],
    method: str | None,
    flag: str | None,
    scale: str,
    weights: tuple[str, ...],
    message: str | None,
    no_commit: bool,
    no_ff: bool,
    favour: Side | None,
    dry_run: bool,
    abort: bool,
    as_json: bool,
    config: Path | None,
    **options: Any,
) -> None:
    """Do what `tvc merge` says; its options are the command's."""
    if as_json and not dry_run:
        raise click.UsageError("--json is for --dry-run")
    repository = session.repository()
    chosen = _Options(**options)
    if abort:
        _abort(session, repository)
        return
    if config is not None:
        if branches or method or flag or scale != "1" or weights or no_ff or chosen.is_given:
            raise click.UsageError("the file says what is merged, and how: leave the rest out")
        work = _from_mergekit(session, repository, config, chosen.seed or 0, favour)
    else:
        if not branches:
            raise click.UsageError("name the branches to merge, or say --abort")
        if method and flag and method != flag:
            raise click.UsageError(f"--method {method} and --{flag} are two methods")
        scaled = parse_number(scale)
        if not (method or flag) and (scaled != 1 or weights):
            raise click.UsageError("--lambda and --weight are for a merge method, such as --ties")
        request = MergeRequest(
            branches,
            method or flag,
            chosen.read(method or flag),
            scaled,
            {name: parse_number(value) for name, value in map(_split, weights)},
            favour,
            fast_forward=not (no_ff or no_commit),
        )
        work = _of_branches(repository, request)
    try:
        if dry_run:
            _say_dry_run(session, repository, work, as_json=as_json)
        else:
            favoured = favour is not None
            _merge(session, repository, work, message, favoured=favoured, no_commit=no_commit)
    except UpToDate as error:
        session.say(f"{error.message}.")


class _Work(NamedTuple):
    """A merge to be made: how to work it out, and what its commit says if the user says nothing."""

    prepare: Callable[[Position, Store], Prepared]
    message: str


def _of_branches(repository: Repository, request: MergeRequest) -> _Work:
    names = ", ".join(map(printable, request.branches))
    message = f"Merge {names}" + (f" by {request.method}" if request.method else "")

    def prepare(now: Position, store: Store) -> Prepared:
        return prepare_merge(repository, now, request, store)

    return _Work(prepare, message)


def _from_mergekit(
    session: Session, repository: Repository, config: Path, seed: int, favour: Side | None
) -> _Work:
    text = read_plain_file(session.folder / config, limit=MAX_YAML)
    try:
        file = parse_mergekit(text.decode(), what=printable(config.name))
    except UnicodeDecodeError:
        raise InputError(f"{printable(config.name)} is not UTF-8") from None
    if file.method in RANDOM:
        session.note(f"the random draws are tvc's, not mergekit's: their seed is {seed}")
    names = ", ".join(printable(name) for name in file.models if name != file.base_model)

    def prepare(now: Position, store: Store) -> Prepared:
        return prepare_mergekit(repository, now, file, store, seed=seed, favour=favour)

    return _Work(prepare, f"Merge {names} by {file.method}, as {printable(config.name)} says")


def _abort(session: Session, repository: Repository) -> None:
    with repository.change(session.command_line, waiting=session.waiting) as change:
        if change.before.merging is None:
            raise StateError("there is no merge to abort")
        change.move(Position(change.before.head, change.before.refs))
    session.say("back to before the merge")


def _say_dry_run(session: Session, repository: Repository, work: _Work, *, as_json: bool) -> None:
    with open_objects(repository.layout) as store:
        prepared = work.prepare(repository.position(), store)
        objects, base = Objects(store, prepared.state), prepared.base.base
        if as_json:
            clashes = interference_of(session, objects, base, prepared.differences())
            facts = {
                "recipe": format_recipe(prepared.state.recipe),
                "changes": _changes(prepared),
                "conflicts": describe_conflicts(prepared),
                "fast_forward": prepared.fast_forward,
                "interference": interference_facts(clashes) if clashes else [],
            }
            click.echo(json.dumps(facts, indent=2))
            return
        for line in _prepared_lines(prepared):
            click.echo(line)  # asked for, so that --quiet does not silence it
        say_interference(session, objects, base, prepared.differences())


def _merge(
    session: Session,
    repository: Repository,
    work: _Work,
    message: str | None,
    *,
    favoured: bool,
    no_commit: bool,
) -> None:
    with repository.change(session.command_line, waiting=session.waiting) as change:
        change.require_clean()
        with open_objects(repository.layout) as store:
            prepared = work.prepare(change.before, store)
        text = message or work.message
        if prepared.fast_forward:
            change.advance(prepared.fast_forward)
            session.say(f"fast-forward to {prepared.fast_forward[:10]}")
            _say_prepared(session, prepared)
            return
        if not prepared.is_clear:
            raise stop_for_conflicts(change, prepared, text)
        if no_commit:
            change.edit_documents(prepared.state.documents(), merging=merging_of(prepared, text))
            _say_prepared(session, prepared)
            session.say("(record it with: tvc commit)")
            return
        with progress_of(session, "merging") as on_plan:
            made = commit_state(
                change,
                prepared.state,
                text,
                other_parents=[tip.commit for tip in prepared.theirs],
                # Whoever says whose side to take may get that side, unchanged.
                idle_hint=None if favoured else IDLE_MERGE,
                on_plan=on_plan,
            )
        _say_prepared(session, prepared)
        say_made(session, change, made)


def _say_prepared(session: Session, prepared: Prepared) -> None:
    for line in _prepared_lines(prepared):
        session.say(line)


def _prepared_lines(prepared: Prepared) -> list[str]:
    if not prepared.is_clear:
        rest = format_recipe(prepared.state.recipe)
        return [*describe_conflicts(prepared), f"agreed on: {rest}"]
    return [*_changes(prepared), f"recipe: {format_recipe(prepared.state.recipe)}"]


def _changes(prepared: Prepared) -> list[str]:
    return describe_changes(prepared.ours.state.recipe, prepared.state.recipe)
