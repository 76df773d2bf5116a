"""Evaluates subjects by a suite: what was measured before is not measured again.

A recipe is measured once, whatever names it has; the base model stays in memory for distances from
it. Absent: what is measured (tvc/behaviours/measuring.py), and printing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import torch
import transformers

from tvc.behaviours.keeping import find_result, keep_result
from tvc.behaviours.measuring import Bench, measure
from tvc.behaviours.results import Measured
from tvc.behaviours.subjects import Subject, base_of
from tvc.behaviours.suite import Suite
from tvc.checkout.temporary import checked_out
from tvc.dialogues.loading import Loaded, load_model
from tvc.repository.repository import Repository, Waiting
from tvc_store.errors import TvcError

__all__ = ["Evaluator", "Settings"]

_BY_CHIP: Final = {True: "cuda", False: "cpu"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How subjects are evaluated.

    Args:
        device: auto, cpu or cuda.
        rerun: Measure again what was measured before.
        distance: Whether the distance from the base is measured, for which both are in memory.
        waiting: How to wait for another process that changes the repository.
        on_subject: Told of every subject that is measured, and of those that were before.
        on_unkept: Told why a result could not be kept; it is returned nevertheless.
    """

    device: str = "auto"
    rerun: bool = False
    distance: bool = True
    waiting: Waiting = field(default_factory=Waiting)
    on_subject: Callable[[Subject, bool], None] = field(default=lambda _subject, _again: None)
    on_unkept: Callable[[TvcError], None] = field(default=lambda _: None)


class Evaluator:
    """Measures subjects of one repository by one suite.

    Args:
        repository: The repository.
        suite: What is measured.
        bench: How models are measured.
        settings: What is measured again, and where.
        known: A suite with more behaviours, whose results do too where they were kept.
    """

    def __init__(
        self,
        repository: Repository,
        suite: Suite,
        bench: Bench,
        settings: Settings,
        *,
        known: Suite | None = None,
    ) -> None:
        self._repository = repository
        self.suite = suite
        self._bench = bench
        self._settings = settings
        judge = bench.judge.model if bench.judge else ""
        self._suite_id = suite.id(judge=judge)
        self._known_id = known.id(judge=judge) if known else self._suite_id
        self._found: dict[str, Measured] = {}
        self._bases: dict[str, Loaded] = {}
        self.measured = 0

    def evaluate(self, subject: Subject) -> Measured:
        """Return what a subject does, measured now or before.

        Raises:
            CannotLoad: Its folder is no model that can speak.
            BadRows: A prompt cannot be rendered, or does not fit.
            VerifierFailed: A verifier failed, or did not decide.
        """
        recipe = subject.recipe
        if recipe not in self._found:
            self._found[recipe] = self._kept(subject, recipe) or self._measured(subject, recipe)
        return self._found[recipe]

    def _kept(self, subject: Subject, recipe: str) -> Measured | None:
        if self._settings.rerun:
            return None
        for suite in dict.fromkeys([self._suite_id, self._known_id]):
            found = find_result(self._repository, recipe=recipe, suite=suite, commit=subject.commit)
            if found is not None and self._suffices(found, subject):
                self._settings.on_subject(subject, True)  # noqa: FBT003 -- a callback has no names
                if suite == self._suite_id:
                    self._keep(subject, recipe, found)
                return found
        return None

    def _suffices(self, found: Measured, subject: Subject) -> bool:
        has_distance = found.answers_kl is not None or not self._wants_distance(subject)
        return has_distance and {*self.suite.names} <= {*found.behaviours}

    def _measured(self, subject: Subject, recipe: str) -> Measured:
        self._settings.on_subject(subject, False)  # noqa: FBT003 -- a callback has no names
        base = self._base(subject) if self._wants_distance(subject) else None
        loaded = self._load(subject)
        found = measure(loaded, self.suite, self._bench, base=base)
        found = replace(found, about=self._about(loaded))
        self._keep(subject, recipe, found)
        self.measured += 1
        return found

    def _keep(self, subject: Subject, recipe: str, found: Measured) -> None:
        try:
            keep_result(
                self._repository,
                found,
                recipe=recipe,
                suite=self._suite_id,
                commit=subject.commit,
                waiting=self._settings.waiting,
            )
        except TvcError as error:  # a full disk, or no name for git: what was found is still true
            self._settings.on_unkept(error)

    def _wants_distance(self, subject: Subject) -> bool:
        return self._settings.distance and bool(subject.state.recipe.terms)

    def _base(self, subject: Subject) -> Loaded:
        base = base_of(subject.state)
        if base.recipe not in self._bases:
            self._bases = {base.recipe: self._load(base)}  # one at a time: they are large
        return self._bases[base.recipe]

    def _load(self, subject: Subject) -> Loaded:
        with checked_out(self._repository.layout, subject.state, commit=subject.commit) as folder:
            loaded = load_model(folder)
        device = self._settings.device
        chosen = _BY_CHIP[torch.cuda.is_available()] if device == "auto" else device
        loaded.model.to(torch.device(chosen))  # pyright: ignore[reportArgumentType, reportCallIssue] -- a decorator hides its signature
        return loaded

    def _about(self, loaded: Loaded) -> dict[str, str]:
        return {
            "device": str(loaded.model.device),
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
