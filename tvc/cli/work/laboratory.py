"""What tvc lab does: options become experiments, and their reports files."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from tvc.behaviours.measuring import Bench
from tvc.behaviours.suite import Suite, read_suite
from tvc.checkout.temporary import checked_out
from tvc.cli.progress import step_progress
from tvc.cli.session import Session
from tvc.cli.work.devices import chosen_device
from tvc.cli.work.foreign import containment_teller, server
from tvc.dialogues.example import Example
from tvc.dialogues.loading import quiet
from tvc.dialogues.mixing import parse_mix
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe, recipe_id
from tvc.lab.backward_transfer import Stage, check_stages
from tvc.lab.backward_transfer import backward_transfer as measure_transfer
from tvc.lab.examples_needed import examples_needed as find_examples_needed
from tvc.lab.learning_rate import learning_rate as compare_rates
from tvc.lab.report import Report, check_free, write_report
from tvc.lab.trials import Trials, check_behaviours
from tvc.repository.repository import Repository
from tvc.training.preparing import Data, Prepared, prepare_data
from tvc.training.provenance import provenance_before
from tvc.training.settings import Settings
from tvc.training.tiers import choose_tier

__all__ = ["backward_transfer", "examples_needed", "finish", "learning_rate"]

_ASKED: Final = ("origin", "seeds", "judge_model", "window")


@dataclass(frozen=True, slots=True)
class _Material:
    """What an experiment trains on and with.

    Args:
        trials: Where and how.
        prepared: Data of each `--data` or `--stage`, in their order.
        general: What is mixed in.
        share: Its share.
        settings: For the report.
    """

    trials: Trials
    prepared: tuple[Prepared, ...]
    general: tuple[Example, ...]
    share: Fraction
    settings: dict[str, Any]

    def main(self, number: int = 0) -> tuple[Example, ...]:
        """Return examples of one file of data."""
        found = self.prepared[number]
        return found.examples[: found.sizes[0]]


def examples_needed(
    session: Session, *, behaviour: str, counts: tuple[int, ...], **options: Any
) -> None:
    """Do what `tvc lab examples-needed` says."""
    trainings = len({*counts, 0, 1, 2}) * options["seeds"]
    asked = {"behaviour": behaviour, "counts": sorted({*counts, 0, 1, 2})}
    with _material(session, [options["data"]], [behaviour], trainings, options) as found:
        report = find_examples_needed(
            found.trials,
            found.main(),
            found.general,
            share=found.share,
            behaviour=behaviour,
            counts=counts,
            settings=asked | found.settings,
        )
    finish(session, report, options["output"])


def learning_rate(
    session: Session, *, behaviour: str, rates: tuple[float, ...], **options: Any
) -> None:
    """Do what `tvc lab learning-rate` says."""
    trainings = sum(rate > 0 for rate in rates) * options["seeds"]
    asked = {"behaviour": behaviour, "rates": sorted({0.0, *rates})}
    data, options = [options["data"]], options | {"lr": max(rates) or 1.0}
    with _material(session, data, [behaviour], trainings, options) as found:
        del found.settings["lr"]
        report = compare_rates(
            found.trials,
            found.main(),
            found.general,
            share=found.share,
            behaviour=behaviour,
            rates=rates,
            settings=asked | found.settings,
        )
    finish(session, report, options["output"])


def backward_transfer(
    session: Session, *, stages: tuple[tuple[str, Path], ...], **options: Any
) -> None:
    """Do what `tvc lab backward-transfer` says."""
    names, files = [name for name, _ in stages], [file for _, file in stages]
    check_stages(names)
    trainings = 3 * len(stages) * options["seeds"]
    with _material(session, files, names, trainings, options) as found:
        report = measure_transfer(
            found.trials,
            [Stage(name, found.main(number)) for number, name in enumerate(names)],
            found.general,
            share=found.share,
            settings={"stages": names} | found.settings,
        )
    finish(session, report, options["output"])


@contextmanager
def _material(
    session: Session,
    data: list[Path],
    behaviours: list[str],
    trainings: int,
    options: dict[str, Any],
) -> Generator[_Material]:
    """Yield a model to train from and rendered data; everything wrong with them is said here."""
    check_free(options["output"])
    suite, repository = read_suite(options["suite"]), session.repository()
    check_behaviours(suite, behaviours)
    mixes = [parse_mix(options["mix"])] if options["mix"] else []
    commit = repository.git.resolve(options["origin"])
    state = repository.state_at(commit)
    with checked_out(repository.layout, state, commit=commit) as base:
        several = tuple(_prepared(base, file, mixes, options) for file in data)
        general = several[0].examples[several[0].sizes[0] :]
        settings = _settings(options, several)
        with quiet(), step_progress(session, "training", trainings * settings.steps) as tell:
            yield _Material(
                Trials(
                    base=base,
                    # Beside the model: ours, locked, and removed together with it.
                    place=_own_folder(base),
                    origin=commit,
                    recipe=recipe_id(state.normal),
                    settings=settings,
                    repeated=options["seeds"],
                    suite=suite,
                    bench=_bench(session, options),
                    on_step=_Counted(tell).advance,
                ),
                several,
                general,
                mixes[0][1] if mixes else Fraction(),
                _facts(repository, commit, suite, settings, several, options),
            )


def _prepared(
    base: Path, file: Path, mixes: list[tuple[str, Fraction]], options: dict[str, Any]
) -> Prepared:
    several = tuple((Path(mix), share) for mix, share in mixes)
    return prepare_data(Data(file, several, None, options["window"]), base, seed=options["seed"])


class _Counted:
    """Counts the steps of all trainings.

    Args:
        tell: Shows them.
    """

    def __init__(self, tell: Any) -> None:
        self._tell = tell
        self._done = 0

    def advance(self, label: str) -> None:
        """Count one more."""
        self._done += 1
        self._tell(self._done, label)


def _own_folder(base: Path) -> Path:
    folder = base.with_name("trials")
    folder.mkdir()
    return folder


def _bench(session: Session, options: dict[str, Any]) -> Bench:
    judge = server(options["judge"], options["judge_model"], option="--judge-model")
    return Bench(judge=judge, on_contained=containment_teller(session))


def _settings(options: dict[str, Any], several: tuple[Prepared, ...]) -> Settings:
    tier: str = options["tier"]
    if tier == "auto":
        tier = str(choose_tier(each for found in several for each in found.examples))
    plain = ("optimizer", "rank", "lr", "steps", "batch", "micro_batch", "seed")
    return Settings(
        **{key: options[key] for key in plain},
        tier=tier,
        multiplier=1.0,
        weight_decay=0.0,
        clip=0.0,
        schedule="linear",
        warmup=0,
        checkpoint_decisions=False,
        keep_delta="none",
        checkpoint_every=0,
        processes=1,
        threads=options["threads"] or os.cpu_count() or 1,
        device=chosen_device(options["device"]),
    )


def _facts(
    repository: Repository,
    commit: str,
    suite: Suite,
    settings: Settings,
    several: tuple[Prepared, ...],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return what a report says of how it was made."""
    state = repository.state_at(commit)
    before = provenance_before(settings, "")
    return {
        "commit": commit,
        "recipe": format_recipe(state.recipe),
        "recipe_id": recipe_id(state.normal),
        "suite": printable(str(options["suite"])),
        "suite_id": suite.id(judge=options["judge_model"] or ""),
        **{f"data{n}": found.provenance["data"] for n, found in enumerate(several, 1)},
        "mix": several[0].provenance.get("mix1", "none"),
        **{key: options[key] for key in _ASKED if options[key] is not None},
        **settings.to_json(),
        "versions": before["versions"],
        "processor": before["device"],
    }


def finish(session: Session, report: Report, folder: Path) -> None:
    """Write a report, and say what it found."""
    write_report(report, folder)
    for sentence in report.found:
        session.say(sentence)
    session.say(f"report: {printable(str(folder / 'report.md'))}")
