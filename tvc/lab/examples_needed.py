"""How many examples does a change of behaviour take?

The same number of steps is trained on 0, 1, 2, … examples of a behaviour, with general data mixed
in; with 0 there is nothing but general data, which is the control. Absent: reading options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from tvc.behaviours.intervals import Rate, paired_p
from tvc.behaviours.results import Measured
from tvc.dialogues.example import Example
from tvc.dialogues.mixing import mixed_order
from tvc.domain.errors import InputError
from tvc.lab.intervals import crossed, over_seeds
from tvc.lab.plotting import Panel, draw_panels
from tvc.lab.report import Report, Table, format_interval, interval_facts
from tvc.lab.trials import (
    Trials,
    answers_facts,
    check_behaviours,
    drawn_order,
    measured_facts,
    rate_of,
)
from tvc.optimizers.readings import Interval

__all__ = [
    "ALWAYS",
    "COUNTS",
    "Effect",
    "effects_of",
    "examples_needed",
    "first_measurable",
    "order_of",
]

ALWAYS: Final = (0, 1, 2)
"""Counts that no experiment is without."""
COUNTS: Final = (*ALWAYS, 5, 10, 20, 50)
_LEVEL: Final = 0.05


@dataclass(frozen=True, slots=True)
class Effect:
    """What a number of examples did, against none.

    Args:
        count: Of examples.
        rate: Over seeds and prompts, 0 to 1.
        change: Of the rate against the control, over seeds and prompts; its confidence allows for
            all counts that are compared.
        paired: For each seed, McNemar's p against the control of that seed.
    """

    count: int
    rate: Interval
    change: Interval
    paired: tuple[float, ...]

    @property
    def is_measurable(self) -> bool:
        """Whether it differs from the control by both tests.

        The interval alone would take two prompts that agree for certain; the exact test does not.
        """
        agreed = sum(p < _LEVEL for p in self.paired)
        return self.change.excludes_zero and 2 * agreed > len(self.paired)


def first_measurable(effects: Sequence[Effect]) -> int | None:
    """Return the first count whose effect is measurable; None for none."""
    return next((each.count for each in effects if each.count and each.is_measurable), None)


def order_of(
    chosen: Sequence[int],
    general: Sequence[int],
    share: Fraction,
    *,
    seed: int,
    steps: int,
    batch: int,
) -> list[list[int]]:
    """Return the numbers of the examples of each step.

    Args:
        chosen: Numbers of the behaviour's examples; where there are none, all are general.
        general: Numbers of the general data's.
        share: Of the general data.
        seed: Of the order.
        steps: How many.
        batch: Rows of each.
    """
    files = [list(chosen), list(general)] if chosen else [list(general)]
    shares = [share] if chosen else []
    picks = mixed_order([len(each) for each in files], shares, seed=seed, rows=steps * batch)
    rows = [files[pick.file][pick.row] for pick in picks]
    return [rows[at : at + batch] for at in range(0, len(rows), batch)]


def examples_needed(
    trials: Trials,
    main: Sequence[Example],
    general: Sequence[Example],
    *,
    share: Fraction,
    behaviour: str,
    counts: Sequence[int],
    settings: Mapping[str, Any],
) -> Report:
    """Train on several numbers of examples, and report the first that measurably does something.

    Args:
        trials: Where and how.
        main: Examples of the behaviour.
        general: What is mixed in, at least one.
        share: Of the rows that are general.
        behaviour: Of the suite.
        counts: Numbers of examples; 0, 1 and 2 are added.
        settings: What was asked for, for the report.

    Raises:
        InputError: There are too few examples, or no such behaviour.
    """
    check_behaviours(trials.suite, [behaviour])
    counts = sorted({*counts, *ALWAYS})
    if counts[-1] > len(main):
        raise InputError(
            f"{counts[-1]} examples are asked for, and the data have {len(main)}",
            hint="name lower --counts, or bring more data",
        )
    untrained = trials.measured(trials.base)
    found = _trained(trials, main, general, share=share, counts=counts)
    return _report(trials, untrained, found, behaviour, settings)


def _trained(
    trials: Trials,
    main: Sequence[Example],
    general: Sequence[Example],
    *,
    share: Fraction,
    counts: Sequence[int],
) -> dict[int, list[Measured]]:
    """Return what models do that were trained on so many examples, seed after seed."""
    found = {count: list[Measured]() for count in counts}
    every, steps, batch = [*main, *general], trials.settings.steps, trials.settings.batch
    rest = range(len(main), len(every))
    for seed in trials.seeds:
        drawn = drawn_order(len(main), seed=seed)
        for count in counts:
            order = order_of(drawn[:count], rest, share, seed=seed, steps=steps, batch=batch)
            label = f"{count} examples, seed {seed}"
            with trials.trained(label, every, order, seed=seed) as model:
                found[count].append(trials.measured(model))
    return found


def _verdicts(measured: Measured, behaviour: str) -> tuple[bool, ...]:
    return measured.behaviours[behaviour].alone.verdicts


def effects_of(found: Mapping[int, Sequence[Measured]], behaviour: str) -> list[Effect]:
    """Return what each number of examples did.

    Args:
        found: For each count, what was measured, seed after seed; 0 is there.
        behaviour: Which.
    """
    level = 1 - _LEVEL / (len(found) - 1)
    effects: list[Effect] = []
    for count, several in found.items():
        pairs = [
            (_verdicts(old, behaviour), _verdicts(new, behaviour))
            for old, new in zip(found[0], several, strict=True)
        ]
        gains = [[int(b) - int(a) for a, b in zip(*pair, strict=True)] for pair in pairs]
        effects.append(
            Effect(
                count,
                rate_of(several, behaviour),
                crossed(gains, level=level),
                tuple(paired_p(*pair) for pair in pairs),
            )
        )
    return effects


def _report(
    trials: Trials,
    untrained: Measured,
    found: Mapping[int, Sequence[Measured]],
    behaviour: str,
    settings: Mapping[str, Any],
) -> Report:
    effects = effects_of(found, behaviour)
    first = first_measurable(effects)
    counts = [str(each.count) for each in effects]
    panels = [Panel(f"rate of {behaviour}", {"over seeds": [each.rate for each in effects]})]
    if untrained.loss is not None:
        panels.append(Panel("general loss", {"over seeds": [_loss(m) for m in found.values()]}))
    rate = untrained.behaviours[behaviour].alone.rate
    return Report(
        name="examples-needed",
        question=f"How many examples does a measurable change of '{behaviour}' take?",
        found=_sentences(effects, first, rate),
        method=_method(trials, len(effects) - 1),
        limits=[
            "It holds for this model, these steps and this learning rate.",
            "With examples the share of general data is lower than in the control, which has "
            "nothing else; the model before any training stands beside both.",
        ],
        settings=settings,
        facts={
            "first_measurable": first,
            "seeds": list(trials.seeds),
            "untrained": measured_facts(untrained),
            "counts": [
                _effect_facts(each, found[each.count], trials.seeds, behaviour) for each in effects
            ],
        },
        tables=[_table(effects, found, behaviour), _seeds_table(found, trials.seeds, behaviour)],
        plots={"rates.png": draw_panels(panels, counts, across="examples")},
    )


def _method(trials: Trials, compared: int) -> list[str]:
    return [
        f"Every training makes {trials.settings.steps} steps of {trials.settings.batch} rows; "
        "with few examples they come often.",
        "Control: 0 examples, the same steps on general data alone, once for each seed.",
        f"Each of {trials.repeated} seeds draws its own examples, and what is more contains "
        "what is less; order of rows and projections are of the seed too.",
        "A change is measurable where its interval over seeds and prompts (two-way clustered, "
        f"for all {compared} counts together at 95 %, by Bonferroni) excludes 0, and "
        "McNemar's exact test on the same prompts has p < 0.05 in more than half of the seeds.",
        "Rates have 95 % intervals over seeds and prompts, never narrower than Wilson's for "
        "one answer to each prompt; those of losses are over seeds, by Student's t.",
    ]


def _loss(several: Sequence[Measured]) -> Interval:
    return over_seeds([each.loss.value for each in several if each.loss is not None])


def _sentences(effects: Sequence[Effect], first: int | None, untrained: Rate) -> list[str]:
    if first is None:
        answer = "No number of examples that was tried changes the rate measurably."
    else:
        change = next(each.change for each in effects if each.count == first)
        shown = format_interval(change, percent=True, signed=True)
        examples = "example" if first == 1 else "examples"
        answer = f"The first measurable change is with {first} {examples}: {shown} vs the control."
    lost = [str(e.count) for e in effects if first and e.count > first and not e.is_measurable]
    more = [f"Not measurable with {', '.join(lost)}, although they are more."] if lost else []
    low, high = untrained.interval
    return [
        answer,
        *more,
        f"Before any training the rate is {untrained.value:.0%} [{low:.0%}, {high:.0%}]; after "
        f"the control's {format_interval(effects[0].rate, percent=True)}.",
    ]


def _table(
    effects: Sequence[Effect], found: Mapping[int, Sequence[Measured]], behaviour: str
) -> Table:
    rows: list[list[str]] = []
    for each in effects:
        several = found[each.count]
        agreed = sum(p < _LEVEL for p in each.paired)
        compared = (
            format_interval(each.change, percent=True, signed=True),
            f"{agreed} of {len(each.paired)}",
            "yes" if each.is_measurable else "no",
        )
        loss = format_interval(_loss(several)) if several[0].loss else "not asked"
        rows.append(
            [
                str(each.count),
                format_interval(each.rate, percent=True),
                *(compared if each.count else ("control", "", "")),
                loss,
            ]
        )
    columns = ("examples", "rate", "change", "p < 0.05 in seeds", "measurable", "general loss")
    return Table(f"Rates of '{behaviour}'", columns, rows)


def _seeds_table(
    found: Mapping[int, Sequence[Measured]], seeds: Sequence[int], behaviour: str
) -> Table:
    rows: list[list[str]] = []
    for count, several in found.items():
        rates = [each.behaviours[behaviour].alone.rate for each in several]
        cells = [
            f"{rate.value:.0%} [{rate.interval[0]:.0%}, {rate.interval[1]:.0%}]" for rate in rates
        ]
        rows.append([str(count), *cells])
    columns = ("examples", *(f"seed {seed}" for seed in seeds))
    return Table("Each seed, with intervals over prompts (Wilson)", columns, rows)


def _effect_facts(
    effect: Effect, several: Sequence[Measured], seeds: Sequence[int], behaviour: str
) -> dict[str, Any]:
    return {
        "examples": effect.count,
        "rate": interval_facts(effect.rate),
        "change": interval_facts(effect.change) if effect.count else None,
        "measurable": effect.is_measurable if effect.count else None,
        "mcnemar_p": list(effect.paired) if effect.count else None,
        "seeds": [
            {
                "seed": seed,
                **answers_facts(each.behaviours[behaviour].alone),
                "loss": each.loss.value if each.loss else None,
            }
            for seed, each in zip(seeds, several, strict=True)
        ],
    }
