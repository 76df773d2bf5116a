"""Do states of gated delta nets become direction-shaped where a behaviour was trained?

The state after a context is changed by a training; where these changes point the same way whatever
the context, the behaviour is a direction of the state. Some likeness comes of any change of the
weights, so the control is random changes of equal length, tensor by tensor. Absent: options.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tvc.lab.changes import moved, random_change
from tvc.lab.intervals import over_seeds, percentiles, resampled
from tvc.lab.plotting import Panel, draw_panels
from tvc.lab.report import Report, Table, format_interval, interval_facts
from tvc.lab.states import cosines, mean_cosine, states_after
from tvc.optimizers.readings import Interval

__all__ = ["Layer", "compare_layers", "state_direction"]


@dataclass(frozen=True, slots=True)
class Layer:
    """How alike the changes of one layer's state are.

    Args:
        layer: Its number.
        cosine: Mean over pairs of contexts, -1 to 1, with its bootstrap over contexts; NaN where
            no state changed.
        size: Mean length of the change over that of the state.
        controls: The mean cosine of each random change.
        control_sizes: Their sizes.
        control: Mean of the controls, over seeds.
        excess: `cosine` less the control, with its bootstrap over contexts and seeds.
    """

    layer: int
    cosine: Interval
    size: float
    controls: tuple[float, ...]
    control_sizes: tuple[float, ...]
    control: Interval
    excess: Interval

    @property
    def is_directed(self) -> bool:
        """Whether the changes are more alike than those of every random change, beyond chance."""
        return self.excess.low > 0 and self.cosine.mean > max(self.controls)


def state_direction(
    model: PreTrainedModel,
    change: Mapping[str, Tensor],
    contexts: Sequence[tuple[int, ...]],
    *,
    pad: int,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    on_row: Callable[[], None] = lambda: None,
) -> Report:
    """Report how alike a change makes the states after contexts, against random changes.

    Args:
        model: Before the change, in float32.
        change: Differences by name of parameter.
        contexts: Token ids, at least two.
        pad: Id of any token.
        seeds: Of the random changes, at least one; the first is the bootstrap's too.
        settings: What was asked for, for the report.
        on_row: Told of each context of each model.

    Raises:
        NoDeltaNets: The model has no such layers.
    """
    before = states_after(model, contexts, pad=pad, on_row=on_row)

    def changed(by: Mapping[str, Tensor]) -> dict[int, Tensor]:
        with moved(model, by):
            after = states_after(model, contexts, pad=pad, on_row=on_row)
        return {layer: after[layer] - state for layer, state in before.items()}

    found = _summary(before, changed(change))
    # One after the other: all states of all seeds would not fit.
    controls = [_summary(before, changed(random_change(change, seed=seed))) for seed in seeds]
    layers = [
        compare_layers(layer, found[layer], [each[layer] for each in controls], seed=seeds[0])
        for layer in before
    ]
    return _report(layers, contexts, seeds, settings)


_Summary = tuple[Tensor, float]
"""Cosines, (contexts, contexts), and the relative size of the changes."""


def _summary(before: Mapping[int, Tensor], changes: Mapping[int, Tensor]) -> dict[int, _Summary]:
    found: dict[int, _Summary] = {}
    for layer, state in before.items():
        sizes = changes[layer].square().sum(1) / state.square().sum(1)
        found[layer] = cosines(changes[layer]), float(sizes.sqrt().mean())
    return found


def compare_layers(
    layer: int, found: _Summary, controls: Sequence[_Summary], *, seed: int
) -> Layer:
    """Return how alike changes of one layer are, against those of random changes.

    Args:
        layer: Its number.
        found: Cosines, (contexts, contexts), float64, and the relative size.
        controls: Those of each random change, at least one.
        seed: Of the bootstrap.
    """
    same, size = found
    counts = resampled(len(same), seed=seed)
    draws, mean = mean_cosine(same, counts), float(mean_cosine(same))
    others = torch.stack([mean_cosine(each, counts) for each, _ in controls])
    plain = [float(mean_cosine(each)) for each, _ in controls]
    # Contexts are drawn for both alike; seeds besides.
    weights = resampled(len(controls), seed=seed + 1) / len(controls)
    excess = draws - (weights.T * others).sum(0)
    return Layer(
        layer=layer,
        cosine=percentiles(mean, draws),
        size=size,
        controls=tuple(plain),
        control_sizes=tuple(each for _, each in controls),
        control=over_seeds(plain),
        excess=percentiles(mean - fmean(plain), excess),
    )


def _report(
    layers: Sequence[Layer],
    contexts: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
) -> Report:
    lines = {
        "this change": [each.cosine for each in layers],
        "random changes of equal norm": [each.control for each in layers],
    }
    panels = [Panel("cosine of state changes", lines)]
    return Report(
        name="state-direction",
        question="Do the states of gated-delta-net layers change in one direction, whatever the "
        "context, where a behaviour was trained?",
        found=_sentences(layers),
        method=[
            f"The recurrent state of each layer after each of {len(contexts)} contexts, before and "
            "after the change, all heads as one vector; the cosine of the changes of every two "
            "contexts; its mean.",
            f"Control: {len(seeds)} random changes of the same tensors, each tensor's of the same "
            "norm; the same contexts.",
            "95 % intervals: of the cosine, a bootstrap over contexts; of the control, over seeds "
            "(Student's t); of the difference, a bootstrap over contexts and seeds.",
            "A layer is called direction-shaped where the interval of the difference lies above 0 "
            "and no random change is as alike.",
        ],
        limits=[
            "A random change spreads over all directions of a matrix; a training may change few, "
            "and with the same norm do more: compare the sizes of the changes.",
            "Contexts that end alike have states that are alike, and so have their changes; this "
            "is in the control too.",
            "Intervals are for each layer alone; of many layers some exceed theirs by chance.",
        ],
        settings=settings,
        facts={
            "seeds": list(seeds),
            "contexts": len(contexts),
            "directed_layers": [each.layer for each in layers if each.is_directed],
            "layers": [_facts(each) for each in layers],
        },
        tables=[_table(layers)],
        plots={"cosines.png": draw_panels(panels, [str(e.layer) for e in layers], across="layer")},
    )


def _sentences(layers: Sequence[Layer]) -> list[str]:
    changed = [each for each in layers if isfinite(each.excess.mean)]
    if not changed:
        return ["No state changed: what changed lies behind these layers."]
    directed = [str(each.layer) for each in layers if each.is_directed]
    best = max(changed, key=lambda each: each.excess.mean)
    answer = (
        f"In {len(directed)} of {len(layers)} layers the changes are more alike than under every "
        f"random change: {', '.join(directed)}."
        if directed
        else f"In none of {len(layers)} layers are the changes measurably more alike than under "
        "random changes."
    )
    return [
        answer,
        f"Most in layer {best.layer}: cosine {format_interval(best.cosine)}, random "
        f"{format_interval(best.control)}, difference {format_interval(best.excess, signed=True)}.",
    ]


def _table(layers: Sequence[Layer]) -> Table:
    rows = [
        [
            str(each.layer),
            format_interval(each.cosine),
            format_interval(each.control),
            f"{min(each.controls):.3g} to {max(each.controls):.3g}",
            format_interval(each.excess, signed=True),
            "yes" if each.is_directed else "no",
            f"{each.size:.3g}",
            f"{fmean(each.control_sizes):.3g}",
        ]
        for each in layers
    ]
    columns = (
        "layer",
        "cosine",
        "random",
        "random, each seed",
        "difference",
        "direction-shaped",
        "size of change",
        "size, random",
    )
    return Table("Mean cosine of state changes between contexts", columns, rows)


def _facts(layer: Layer) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "cosine": interval_facts(layer.cosine),
        "control": interval_facts(layer.control),
        "control_seeds": list(layer.controls),
        "difference": interval_facts(layer.excess),
        "directed": layer.is_directed,
        "size": layer.size,
        "control_sizes": list(layer.control_sizes),
    }
