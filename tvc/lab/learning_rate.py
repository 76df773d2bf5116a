"""What does the learning rate do: to the behaviour, to everything else, to the distance moved?

The control is a learning rate of 0: the model as it was. Absent: reading options.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from tvc.behaviours.intervals import Estimate
from tvc.behaviours.results import Measured
from tvc.dialogues.example import Example
from tvc.domain.errors import InputError
from tvc.lab.examples_needed import order_of
from tvc.lab.intervals import over_seeds
from tvc.lab.plotting import Panel, draw_panels
from tvc.lab.report import Report, Table, format_interval, interval_facts
from tvc.lab.trials import Trials, check_behaviours, measured_facts, rate_of
from tvc.optimizers.readings import Interval
from tvc.training.loop import Diverged

__all__ = ["RATES", "best_rate", "learning_rate"]

RATES: Final = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)

_Found = Mapping[float, Sequence[Measured]]


@dataclass(frozen=True, slots=True)
class _Runs:
    """What came of all trainings, by learning rate.

    Args:
        found: What was measured, seed after seed.
        diverged: Seeds with which the loss, or the weights, were no longer finite.
    """

    found: dict[float, list[Measured]]
    diverged: dict[float, list[int]]


def learning_rate(
    trials: Trials,
    main: Sequence[Example],
    general: Sequence[Example],
    *,
    share: Fraction,
    behaviour: str,
    rates: Sequence[float],
    settings: Mapping[str, Any],
) -> Report:
    """Train with several learning rates, and report what each does.

    Args:
        trials: Where and how.
        main: Examples of the behaviour.
        general: What is mixed in; may be empty.
        share: Of the rows that are general, where there are any.
        behaviour: Of the suite.
        rates: Learning rates; 0 stands for itself.
        settings: What was asked for, for the report.

    Raises:
        InputError: There is no such behaviour, or no learning rate above 0.
    """
    check_behaviours(trials.suite, [behaviour])
    rates = sorted({rate for rate in rates if rate})
    if not rates:
        raise InputError("there is no learning rate above 0 to compare with 0")
    base = trials.load(trials.base)
    untrained = trials.measured(trials.base, base=base)
    runs = _Runs({rate: [] for rate in rates}, {rate: [] for rate in rates})
    every, steps, batch = [*main, *general], trials.settings.steps, trials.settings.batch
    first, rest = range(len(main)), range(len(main), len(every))
    # Without general data all rows are of the one file that there is.
    chosen, others = (first, rest) if general else (rest, first)
    for seed in trials.seeds:
        order = order_of(chosen, others, share, seed=seed, steps=steps, batch=batch)
        for rate in rates:
            label = f"lr {rate:g}, seed {seed}"
            try:
                with trials.trained(label, every, order, seed=seed, lr=rate) as model:
                    measured = trials.measured(model, base=base)
            except Diverged:
                measured = None
            if measured is None or not _is_finite(measured):
                runs.diverged[rate].append(seed)
            else:
                runs.found[rate].append(measured)
    return _report(trials, untrained, runs, behaviour, settings)


def _is_finite(measured: Measured) -> bool:
    found = (measured.loss, measured.general_kl, measured.answers_kl)
    return all(each is None or math.isfinite(each.value) for each in found)


def _value(name: str) -> Callable[[Measured], float]:
    def value(measured: Measured) -> float:
        estimate: Estimate | None = getattr(measured, name)
        return estimate.value if estimate is not None else 0.0

    return value


def best_rate(found: _Found, untrained: Measured, behaviour: str) -> float | None:
    """Return the learning rate of the highest rate that does not measurably harm.

    Args:
        found: For each learning rate, what was measured, seed after seed; none where all diverged.
        untrained: What was measured before.
        behaviour: Whose rate.

    Returns:
        The one with the highest mean rate of those whose general loss did not rise by more than
        chance over seeds (one-sided, 97.5 %); the lowest where several are equal; None where all
        harm.
    """
    harmless: dict[float, float] = {}
    for rate, several in found.items():
        if not several:
            continue
        risen = over_seeds([_value("loss")(m) - _value("loss")(untrained) for m in several])
        if untrained.loss is None or risen.low <= 0:
            harmless[rate] = rate_of(several, behaviour).mean
    return max(harmless, key=lambda rate: (harmless[rate], -rate), default=None)


def _report(
    trials: Trials,
    untrained: Measured,
    runs: _Runs,
    behaviour: str,
    settings: Mapping[str, Any],
) -> Report:
    best = best_rate(runs.found, untrained, behaviour)
    rows = {0.0: [untrained]} | {rate: each for rate, each in runs.found.items() if each}
    names = [name for name in _LABELS if _has(rows, name)]
    return Report(
        name="learning-rate",
        question=f"What does the learning rate do to '{behaviour}', and to everything else?",
        found=_sentences(rows, untrained, best, runs.diverged, behaviour),
        method=_method(trials),
        limits=[
            "It holds for this optimizer, schedule and number of steps.",
            "General loss tells of general data alone; whether instructions are still followed is "
            "asked by `tvc eval` with an opposite.",
        ],
        settings=settings,
        facts={
            "best": best,
            "seeds": list(trials.seeds),
            "control": measured_facts(untrained),
            "rates": [_rate_facts(rate, runs, names, trials.suite.names) for rate in runs.found],
        },
        tables=[_table(rows, runs.diverged, trials, names)],
        plots={"rates.png": _plot(rows, names, trials.suite.names)},
    )


def _method(trials: Trials) -> list[str]:
    return [
        f"For each of {trials.repeated} seeds the same rows in the same order are trained on "
        f"with every learning rate, {trials.settings.steps} steps of {trials.settings.batch}.",
        "Control: learning rate 0, the model as it was, measured on the same prompts.",
        "Rates have 95 % intervals over seeds and prompts; those of loss and KL are over "
        "seeds, by Student's t.",
        "KL(model || before) in nats for each token: exact over the vocabulary, on general "
        "data and on the model's own answers.",
        "A rise of the general loss is measurable where its interval over seeds lies above 0.",
    ]


def _rate_facts(
    rate: float, runs: _Runs, names: Sequence[str], behaviours: Sequence[str]
) -> dict[str, Any]:
    several = runs.found[rate]
    facts: dict[str, Any] = {"lr": rate, "diverged_seeds": runs.diverged[rate]}
    if several:
        facts["behaviours"] = {each: interval_facts(rate_of(several, each)) for each in behaviours}
        facts |= {name: interval_facts(_over(several, _value(name))) for name in names}
    return facts | {"seeds": [measured_facts(each) for each in several]}


def _plot(rows: _Found, names: Sequence[str], behaviours: Sequence[str]) -> bytes:
    lines = {name: [_over(several, _value(name)) for several in rows.values()] for name in names}
    rates = {name: [rate_of(several, name) for several in rows.values()] for name in behaviours}
    kls = {_LABELS[name]: values for name, values in lines.items() if name != "loss"}
    panels = [Panel("rate", rates)]
    panels += [Panel("general loss", {"over seeds": lines["loss"]})] if "loss" in lines else []
    panels += [Panel("KL from the model before", kls)] if kls else []
    return draw_panels(panels, [f"{rate:g}" for rate in rows], across="learning rate")


_LABELS: Final = {
    "loss": "general loss",
    "general_kl": "KL, general data",
    "answers_kl": "KL, own answers",
}


def _has(rows: _Found, name: str) -> bool:
    return any(getattr(each, name) is not None for several in rows.values() for each in several)


def _over(several: Sequence[Measured], value: Callable[[Measured], float]) -> Interval:
    return over_seeds([value(each) for each in several])


def _sentences(
    rows: _Found,
    untrained: Measured,
    best: float | None,
    diverged: Mapping[float, Sequence[int]],
    behaviour: str,
) -> list[str]:
    before = untrained.behaviours[behaviour].alone.rate.value
    if best is None:
        answer = "Every learning rate raises the general loss measurably."
    else:
        rate = format_interval(rate_of(rows[best], behaviour), percent=True)
        harm = " of those that do not measurably raise the general loss" if untrained.loss else ""
        answer = (
            f"The highest rate{harm} is {rate}, at learning rate {best:g}; before it was "
            f"{100 * before:.1f} %."
        )
    gone = [f"{rate:g} ({len(seeds)})" for rate, seeds in diverged.items() if seeds]
    return [answer, *([f"Diverged, with so many seeds: {', '.join(gone)}."] if gone else [])]


def _table(
    rows: _Found, diverged: Mapping[float, Sequence[int]], trials: Trials, names: Sequence[str]
) -> Table:
    behaviours = trials.suite.names
    cells: list[list[str]] = []
    for rate, several in rows.items():
        gone = len(diverged.get(rate, ()))
        shown = [format_interval(rate_of(several, each), percent=True) for each in behaviours]
        shown += [format_interval(_over(several, _value(each))) for each in names]
        cells.append([f"{rate:g}" if rate else "0, control", *shown, str(gone)])
    cells += [
        [f"{rate:g}", *["diverged"] * (len(behaviours) + len(names)), str(len(seeds))]
        for rate, seeds in diverged.items()
        if rate not in rows
    ]
    labels = [_LABELS[name] for name in names]
    return Table("By learning rate", ("lr", *behaviours, *labels, "diverged"), cells)
