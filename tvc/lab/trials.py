"""Trains for an experiment, and measures what came of it; nothing is committed or kept.

A trial is a run as `tvc train` makes them, in a folder of the experiment's own. Absent: another
loop than that of training, and another evaluation than that of behaviours.
"""

import os
import random
import secrets
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tvc.behaviours.measuring import Bench, measure
from tvc.behaviours.results import Answers, Measured
from tvc.behaviours.suite import Suite
from tvc.dialogues.example import Example
from tvc.dialogues.loading import Loaded, load_model
from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.lab.intervals import rate_interval
from tvc.optimizers.readings import Interval
from tvc.training.loop import Diverged, Step, train
from tvc.training.run import Run, Task
from tvc.training.saving import CannotSave
from tvc.training.settings import Settings
from tvc_store.durable import write_errors
from tvc_store.ids import ObjectId

__all__ = [
    "Trials",
    "answers_facts",
    "check_behaviours",
    "drawn_order",
    "measured_facts",
    "rate_of",
]


@dataclass(frozen=True, slots=True)
class Trials:
    """Where and how an experiment trains and measures.

    Args:
        base: Model that trainings begin from.
        place: Folder for trainings, on the same file system.
        origin: Full hash of the base's commit.
        recipe: Id of its recipe.
        settings: Of every training; their seed is the first one's.
        repeated: How many seeds.
        suite: What is measured.
        bench: How.
        on_step: Told after each step of what is being trained.
    """

    base: Path
    place: Path
    origin: str
    recipe: ObjectId
    settings: Settings
    repeated: int
    suite: Suite
    bench: Bench
    on_step: Callable[[str], None] = field(default=lambda _: None)

    @property
    def seeds(self) -> range:
        """The seeds, one for each repetition."""
        return range(self.settings.seed, self.settings.seed + self.repeated)

    @contextmanager
    def trained(
        self,
        label: str,
        examples: Sequence[Example],
        order: Sequence[Sequence[int]],
        *,
        base: Path | None = None,
        **changed: Any,
    ) -> Generator[Path]:
        """Yield the model that a training ends in, and remove it afterwards.

        Args:
            label: What it is, for progress.
            examples: What is trained on.
            order: For each step, the numbers of its examples.
            base: Model to begin from, where it is not that of all.
            changed: Settings that differ, such as the seed.

        Raises:
            Diverged: The loss, or what was trained, is no longer finite.
        """
        settings = replace(self.settings, steps=len(order), **changed)
        run = Run.named(self.place, f"trial_{secrets.token_hex(4)}")
        try:
            with write_errors(run.path):
                run.path.mkdir(parents=True)
                # The files are the same: a training changes none of its base.
                shutil.copytree(base or self.base, run.base, copy_function=_linked)
            run.prepare(Task(settings, self.recipe, self.origin, {}, label), examples, order)
            self._train(run, label)
            yield run.model
        finally:
            shutil.rmtree(run.path, ignore_errors=True)

    def _train(self, run: Run, label: str) -> None:
        made = 0

        def on_step(step: Step) -> None:
            nonlocal made
            made = step.step
            self.on_step(f"{label}, loss {step.loss:.4f}")

        try:
            train(run, on_step=on_step)
        except CannotSave as error:
            if not made:  # what can never be saved is refused before the first step
                raise
            raise Diverged(error.message) from error

    def load(self, folder: Path) -> Loaded:
        """Load a model where it is measured."""
        loaded = load_model(folder)
        loaded.model.to(self.settings.device)  # pyright: ignore[reportArgumentType, reportCallIssue] -- a decorator hides its signature
        return loaded

    def measured(self, folder: Path, *, base: Loaded | None = None) -> Measured:
        """Return what a model does.

        Args:
            folder: Where it lies.
            base: The model that distances are taken from; None for none.
        """
        return measure(self.load(folder), self.suite, self.bench, base=base)


def _linked(source: str, target: str) -> None:
    """Give a file a second name; where there are none, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def check_behaviours(suite: Suite, names: Sequence[str]) -> None:
    """Refuse names of behaviours that a suite does not have.

    Raises:
        InputError: There is no such behaviour.
    """
    for name in names:
        if name not in suite.names:
            close = nearest(name, suite.names)
            raise InputError(
                f"the suite has no behaviour {printable(name)!r}",
                hint=close or f"it has {', '.join(suite.names)}",
            )


def drawn_order(count: int, *, seed: int) -> list[int]:
    """Return numbers below `count` in an order that is drawn from a seed."""
    order = list(range(count))
    random.Random(f"tvc lab {seed}").shuffle(order)  # noqa: S311 -- an order, no secret
    return order


def rate_of(several: Sequence[Measured], behaviour: str) -> Interval:
    """Return the rate of a behaviour over seeds and prompts.

    Args:
        several: What was measured, seed after seed, on the same prompts.
        behaviour: Which.
    """
    return rate_interval([each.behaviours[behaviour].alone.verdicts for each in several])


def answers_facts(answers: Answers) -> dict[str, Any]:
    """Return a rate and every verdict as values for JSON."""
    rate = answers.rate
    low, high = rate.interval
    return {
        "rate": rate.value,
        "low": low,
        "high": high,
        "count": rate.count,
        "of": rate.total,
        "cut_off": answers.unended,
        "verdicts": "".join("01"[each] for each in answers.verdicts),
    }


def measured_facts(measured: Measured) -> dict[str, Any]:
    """Return what was measured of a model as values for JSON."""
    facts: dict[str, Any] = {
        "behaviours": {
            name: answers_facts(shown.alone) for name, shown in measured.behaviours.items()
        }
    }
    for key in ("loss", "general_kl", "answers_kl"):
        found = getattr(measured, key)
        if found is not None:
            facts[key] = {"value": found.value, "error": found.error}
    return facts
