"""Does a later vector change what an earlier one taught, and help what a later one will?

Behaviours are trained one on another. Controls: the same behaviours in other orders, and as many
trainings on general data alone, which show what training itself does. Absent: reading options.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from tvc.behaviours.intervals import Estimate
from tvc.behaviours.results import Measured
from tvc.behaviours.transfer import Transfer, transfer_of
from tvc.dialogues.example import Example
from tvc.domain.errors import InputError
from tvc.lab.examples_needed import order_of
from tvc.lab.intervals import over_estimates
from tvc.lab.plotting import Panel, draw_panels
from tvc.lab.report import Report, Table, format_interval, interval_facts
from tvc.lab.trials import Trials, check_behaviours, drawn_order, measured_facts, rate_of
from tvc.optimizers.readings import Interval

__all__ = ["LEAST", "Stage", "backward_transfer", "check_stages", "other_order"]

LEAST: Final = 3
"""Stages of a chain."""
_MEASURES: Final = {
    "average": "ACC, mean rate at the end",
    "backward": "BWT, later stages to earlier behaviours",
    "forward": "FWT, earlier stages to later behaviours",
    "forgetting": "below the best before the end",
}
_GIVEN, _SHUFFLED, _GENERAL = "this order", "other orders", "general data only"


@dataclass(frozen=True, slots=True)
class Stage:
    """A behaviour that is trained in a chain.

    Args:
        name: The suite's.
        examples: What it is trained on.
    """

    name: str
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class _Chain:
    """What came of one chain.

    Args:
        seed: Its.
        names: Of its stages, in their order.
        measured: After each of them.
        transfer: How they hang together.
    """

    seed: int
    names: tuple[str, ...]
    measured: tuple[Measured, ...]
    transfer: Transfer


_Chains = Mapping[str, Sequence[_Chain]]


def check_stages(names: Sequence[str]) -> None:
    """Refuse names that make no chain.

    Raises:
        InputError: They are too few, or one comes twice.
    """
    if len(names) < LEAST or len(set(names)) < len(names):
        raise InputError(
            f"{len(set(names))} different stages are named, and {LEAST} are needed",
            hint="give --stage NAME=FILE for each, in order",
        )


def other_order(count: int, *, seed: int) -> list[int]:
    """Return numbers below `count`, at least 2, in a drawn order that is not their own."""
    tries = (drawn_order(count, seed=seed + (n << 32)) for n in range(1 << 20))
    return next(order for order in tries if order != list(range(count)))


def backward_transfer(
    trials: Trials,
    stages: Sequence[Stage],
    general: Sequence[Example],
    *,
    share: Fraction,
    settings: Mapping[str, Any],
) -> Report:
    """Train behaviours one on another, and report what each did to the others.

    Args:
        trials: Where and how.
        stages: In their order, each name once.
        general: What is mixed in, and what the control is trained on; at least one.
        share: Of the rows that are general.
        settings: What was asked for, for the report.

    Raises:
        InputError: There are too few stages, or the suite lacks one.
    """
    names = [stage.name for stage in stages]
    check_stages(names)
    check_behaviours(trials.suite, names)
    untrained = trials.measured(trials.base)
    found: dict[str, list[_Chain]] = {_GIVEN: [], _SHUFFLED: [], _GENERAL: []}
    for seed in trials.seeds:
        shuffled = [stages[n] for n in other_order(len(stages), seed=seed)]
        alone = [Stage(name, ()) for name in names]
        for kind, several in ((_GIVEN, stages), (_SHUFFLED, shuffled), (_GENERAL, alone)):
            measured = _measured(trials, kind, several, general, share=share, seed=seed)
            order = tuple(stage.name for stage in several)
            chain = list(zip(order, measured, strict=True))
            transfer = transfer_of(untrained, chain, order)
            found[kind].append(_Chain(seed, order, tuple(measured), transfer))
    return _report(trials, untrained, found, settings)


def _measured(
    trials: Trials,
    kind: str,
    stages: Sequence[Stage],
    general: Sequence[Example],
    *,
    share: Fraction,
    seed: int,
) -> list[Measured]:
    """Train a chain, and return what it does after each stage."""
    steps, batch = trials.settings.steps, trials.settings.batch
    found: list[Measured] = []
    model = trials.base
    with ExitStack() as stack:
        for stage in stages:
            every = [*stage.examples, *general]
            chosen, rest = range(len(stage.examples)), range(len(stage.examples), len(every))
            order = order_of(chosen, rest, share, seed=seed, steps=steps, batch=batch)
            label = f"{kind}: {stage.name}, seed {seed}"
            training = trials.trained(label, every, order, base=model, seed=seed)
            model = stack.enter_context(training)
            found.append(trials.measured(model))
    return found


def _over(chains: Sequence[_Chain], measure: str) -> Interval:
    return over_estimates([getattr(chain.transfer, measure) for chain in chains])


def _against(chains: Sequence[_Chain], control: Sequence[_Chain], measure: str) -> Interval:
    """Return by how much chains differ from those of a control, seed by seed."""
    pairs = [
        (getattr(one.transfer, measure), getattr(other.transfer, measure))
        for one, other in zip(chains, control, strict=True)
    ]
    return over_estimates(
        [Estimate(a.value - b.value, (a.error**2 + b.error**2) ** 0.5) for a, b in pairs]
    )


def _report(
    trials: Trials, untrained: Measured, found: _Chains, settings: Mapping[str, Any]
) -> Report:
    names = found[_GIVEN][0].names
    tables = [_summary(found)]
    tables += [
        _matrix(f"Rates, {kind}", names, untrained, found[kind]) for kind in (_GIVEN, _GENERAL)
    ]
    return Report(
        name="backward-transfer",
        question=f"What do {', '.join(names)}, trained one on another, do to each other?",
        found=[
            _sentence("backward", found, "what earlier stages taught"),
            _sentence("forward", found, "behaviours that are not trained yet"),
        ],
        method=_method(trials),
        limits=[
            "It holds for these behaviours, steps and this learning rate; three stages are few.",
            "An interval of no width says that nothing varied here, not that nothing can.",
            "Intervals of differences take chains as independent, which makes them wider.",
            "Stages are trained one on another; vectors that are trained apart and added are "
            "another matter (tvc eval --recipe).",
        ],
        settings=settings,
        facts={
            "seeds": list(trials.seeds),
            "untrained": measured_facts(untrained),
            "measures": _measures_facts(found),
            "chains": [
                _chain_facts(kind, chain) for kind, chains in found.items() for chain in chains
            ],
        },
        tables=tables,
        plots={"rates.png": _plot(names, untrained, found)},
    )


def _method(trials: Trials) -> list[str]:
    return [
        f"Each stage makes {trials.settings.steps} steps of {trials.settings.batch} rows on the "
        f"model of the stage before; {trials.repeated} seeds.",
        "Control: general data alone, as many stages with the same steps, once for each seed.",
        "Control: the same stages in another order, drawn for each seed.",
        "ACC, BWT and FWT after arXiv:1706.08840, forgetting after arXiv:1801.10112, with rates "
        "on the suite's prompts for accuracies.",
        "95 % intervals: over seeds (Student's t) and prompts, added in squares; of rates, two-way "
        "clustered, never narrower than Wilson's for one answer to each prompt.",
    ]


def _sentence(measure: str, found: _Chains, whom: str) -> str:
    value, drift = _over(found[_GIVEN], measure), _against(found[_GIVEN], found[_GENERAL], measure)
    shown = format_interval(value, percent=True, signed=True)
    beside = format_interval(drift, percent=True, signed=True)
    if not drift.excludes_zero:
        verb = "cannot be told from what general data alone do to"
    else:
        verb = "raises" if drift.mean > 0 else "lowers"
    label = "Backward transfer" if measure == "backward" else "Forward transfer"
    return f"{label} {verb} {whom}: {shown}; {beside} against the control."


def _summary(found: _Chains) -> Table:
    rows: list[list[str]] = []
    for measure, label in _MEASURES.items():
        values = [_over(chains, measure) for chains in found.values()]
        values += [
            _against(found[_GIVEN], found[control], measure) for control in (_GENERAL, _SHUFFLED)
        ]
        rows.append([label, *(format_interval(v, percent=True, signed=True) for v in values)])
    heads = ("", *found, f"against {_GENERAL}", f"against {_SHUFFLED}")
    return Table("Transfer", heads, rows)


def _matrix(
    title: str, names: Sequence[str], untrained: Measured, chains: Sequence[_Chain]
) -> Table:
    def cells(several: Sequence[Measured]) -> list[str]:
        return [format_interval(rate_of(several, name), percent=True) for name in names]

    rows = [["before", *cells([untrained])]]
    rows += [
        [f"after {stage}", *cells([chain.measured[n] for chain in chains])]
        for n, stage in enumerate(names)
    ]
    return Table(title, ("", *names), rows)


def _plot(names: Sequence[str], untrained: Measured, found: _Chains) -> bytes:
    def line(chains: Sequence[_Chain], behaviour: str) -> list[Interval]:
        after = [[chain.measured[n] for chain in chains] for n in range(len(names))]
        return [rate_of(several, behaviour) for several in ([untrained], *after)]

    panels = [
        Panel(f"rate of {name}", {kind: line(found[kind], name) for kind in (_GIVEN, _GENERAL)})
        for name in names
    ]
    return draw_panels(panels, ["before", *names], across="after stage")


def _measures_facts(found: _Chains) -> dict[str, Any]:
    return {
        measure: {
            **{kind: interval_facts(_over(chains, measure)) for kind, chains in found.items()},
            **{
                f"against {control}": interval_facts(
                    _against(found[_GIVEN], found[control], measure)
                )
                for control in (_GENERAL, _SHUFFLED)
            },
        }
        for measure in _MEASURES
    }


def _chain_facts(kind: str, chain: _Chain) -> dict[str, Any]:
    transfer = chain.transfer
    measures = {name: getattr(transfer, name) for name in _MEASURES}
    return {
        "kind": kind,
        "seed": chain.seed,
        "order": list(chain.names),
        "stages": [measured_facts(each) for each in chain.measured],
        "rates": [[rate.value for rate in row] for row in transfer.rates],
        **{name: {"value": each.value, "error": each.error} for name, each in measures.items()},
    }
