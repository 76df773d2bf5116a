"""Which heads did a training change, in their weights and in what they say?

The control is random changes of equal length, tensor by tensor: what is changed as much by those is
changed by any training of that size. Absent: reading options.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, median
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tvc.dialogues.example import Example
from tvc.lab.changes import moved, random_change
from tvc.lab.heads import HeadLayer, added, head_layers, listening, relative_changes
from tvc.lab.intervals import percentiles, resampled
from tvc.lab.plotting import Grid, draw_grids
from tvc.lab.report import Report, Table, format_interval, interval_facts
from tvc.optimizers.readings import Interval
from tvc.training.modes import evaluating
from tvc.training.tiers import Tier, decision_logits

__all__ = ["Head", "Listener", "compare_heads", "which_heads"]

_ROWS: Final = 4
_KINDS: Final = ("q", "k", "v", "o")
"""Of weights that every kind of head has."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a change did to one head.

    Args:
        layer: Of which layer.
        head: Its number.
        change: Length of the change of what it adds over the length of that, mean over examples.
        controls: The same of each random change.
        ratio: Change over the mean of the controls; bootstrap over examples and seeds. NaN where
            neither changes anything.
    """

    layer: HeadLayer
    head: int
    change: Interval
    controls: tuple[float, ...]
    ratio: Interval

    @property
    def is_chosen(self) -> bool:
        """Whether it changed more than under every random change, beyond chance."""
        return self.ratio.low > 1 and self.change.mean > max(self.controls)


def _heard(
    model: PreTrainedModel,
    layers: list[HeadLayer],
    examples: Sequence[Example],
    pad: int,
    on_row: Callable[[], None],
) -> list[Tensor]:
    """Return what heads say where decisions are predicted: per layer (tokens, heads * width)."""
    parts: list[list[Tensor]] = [[] for _ in layers]
    for start in range(0, len(examples), _ROWS):
        rows, said = examples[start : start + _ROWS], dict[int, Tensor]()
        with torch.no_grad(), evaluating(model), listening(layers, said.__setitem__):
            decision_logits(model, rows, tier=Tier.FULL, pad=pad)
        # Rows are padded on the left, and lack the last token of their decision.
        sizes = [len(decision) for row in rows for decision in row.decisions]
        for place, kept in enumerate(parts):
            kept += [each[-size:] for each, size in zip(said[place], sizes, strict=True)]
        for _ in rows:
            on_row()
    return [torch.cat(each) for each in parts]


class Listener:
    """Measures what changes of the weights change in what heads say.

    Args:
        model: Before any change, in float32.
        examples: It is measured where their decisions are predicted.
        pad: Id of any token.
        on_row: Told of each example, for each change and once before.

    Raises:
        NoHeads: The model has no heads that are known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[Example],
        *,
        pad: int,
        on_row: Callable[[], None] = lambda: None,
    ) -> None:
        self.layers = head_layers(model)
        self._model, self._examples, self._pad, self._on_row = model, examples, pad, on_row
        self._weights = {name: each.detach() for name, each in model.named_parameters()}
        self._said = _heard(model, self.layers, examples, pad, on_row)
        self._mixing = [layer.output.weight.detach().clone() for layer in self.layers]

    def outputs(self, change: Mapping[str, Tensor]) -> list[Tensor]:
        """Return how much a change of the weights changes what each head adds to the stream.

        Args:
            change: Differences by name of parameter.

        Returns:
            For each layer, (examples, heads), float64: the length of the change over the places of
            an example, over that of what the head added before; 0 where it adds nothing.
        """
        tokens = [sum(map(len, each.decisions)) for each in self._examples]
        found: list[Tensor] = []
        with moved(self._model, change):
            after = _heard(self._model, self.layers, self._examples, self._pad, self._on_row)
            for place, layer in enumerate(self.layers):
                mixing = self._mixing[place], layer.output.weight.detach()
                old: tuple[Tensor, ...] = torch.split(self._said[place], tokens)
                new: tuple[Tensor, ...] = torch.split(after[place], tokens)
                pairs = zip(old, new, strict=True)
                found.append(torch.stack([_relative(pair, mixing, layer.heads) for pair in pairs]))
        return found

    def slices(self, change: Mapping[str, Tensor]) -> list[dict[str, list[float]]]:
        """Return how much each head's weights changed, by kind, for each layer."""
        return [relative_changes(layer, self._weights, change) for layer in self.layers]


def _relative(said: tuple[Tensor, Tensor], mixing: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """Return how much what heads add changed in one example: (heads,), float64."""
    before, after = (added(*each, heads).double() for each in zip(said, mixing, strict=True))
    change, whole = ((each.square().sum((0, 2))).sqrt() for each in (after - before, before))
    return torch.where(whole > 0, change / whole, 0.0).cpu()


def compare_heads(
    layer: HeadLayer, found: Tensor, controls: Sequence[Tensor], *, seed: int
) -> list[Head]:
    """Return what a change did to a layer's heads, against random changes.

    Args:
        layer: Which.
        found: (examples, heads), float64.
        controls: The same of each random change, at least one.
        seed: Of the bootstrap.
    """
    counts = resampled(len(found), seed=seed) / len(found)
    draws, others = counts @ found, torch.stack([counts @ each for each in controls])
    weights = resampled(len(controls), seed=seed + 1) / len(controls)
    ratios = draws / torch.einsum("rs,srh->rh", weights, others)
    plain = torch.stack([each.mean(0) for each in controls])
    means, ratio = found.mean(0), found.mean(0) / plain.mean(0)
    return [
        Head(
            layer=layer,
            head=head,
            change=percentiles(float(means[head]), draws[:, head]),
            controls=tuple(float(each[head]) for each in plain),
            ratio=percentiles(float(ratio[head]), ratios[:, head]),
        )
        for head in range(layer.heads)
    ]


def which_heads(
    listener: Listener,
    change: Mapping[str, Tensor],
    *,
    seeds: Sequence[int],
    top: int,
    settings: Mapping[str, Any],
) -> Report:
    """Report which heads a change of the weights changed most, against random changes.

    Args:
        listener: With the model before the change.
        change: Differences by name of parameter.
        seeds: Of the random changes, at least one; the first is the bootstrap's too.
        top: Heads to list.
        settings: What was asked for, for the report.
    """
    layers = listener.layers
    found, measured = listener.outputs(change), listener.slices(change)
    outputs: list[list[Tensor]] = []
    sizes: list[list[dict[str, list[float]]]] = []
    for seed in seeds:
        other = random_change(change, seed=seed)
        outputs.append(listener.outputs(other))
        sizes.append(listener.slices(other))
    heads = [
        head
        for place, layer in enumerate(layers)
        for head in compare_heads(
            layer, found[place], [each[place] for each in outputs], seed=seeds[0]
        )
    ]
    slices = [
        _slices(each, [control[place] for control in sizes]) for place, each in enumerate(measured)
    ]
    return _report(layers, heads, slices, len(found[0]), seeds, top, settings)


_Slices = Mapping[str, Sequence[tuple[float, float]]]
"""For each kind of weight, of each head: its relative change, and the mean of the controls'."""


def _slices(
    found: Mapping[str, Sequence[float]], controls: Sequence[Mapping[str, Sequence[float]]]
) -> _Slices:
    return {
        kind: [
            (value, fmean(each[kind][head] for each in controls))
            for head, value in enumerate(values)
        ]
        for kind, values in found.items()
    }


def _report(
    layers: Sequence[HeadLayer],
    heads: Sequence[Head],
    slices: Sequence[_Slices],
    examples: int,
    seeds: Sequence[int],
    top: int,
    settings: Mapping[str, Any],
) -> Report:
    # Layers below all that changed have nothing to compare: 0 / 0.
    there = [each for each in heads if isfinite(each.ratio.mean)]
    ranked = sorted(there, key=lambda each: -each.ratio.mean)
    facts = {
        "seeds": list(seeds),
        "examples": examples,
        "heads": [_head_facts(each) for each in heads],
        "weights": [
            {"layer": layer.layer, "kind": layer.kind, "of": kind, "head": head}
            | {"change": change, "control": control}
            for layer, found in zip(layers, slices, strict=True)
            for kind, several in found.items()
            for head, (change, control) in enumerate(several)
        ],
    }
    return Report(
        name="which-heads",
        question="Which heads did the training change, in their weights and in what they say?",
        found=_sentences(ranked, len(heads)),
        method=_method(examples, seeds),
        limits=[
            "What a head says changes with its weights and with all that comes before it; its "
            "weights' change tells the two apart.",
            "Intervals are for each head alone; the first of many is first in part by chance.",
            "A training may do more than a random change of the same norm in all heads alike: "
            "which heads it chose is said by their order, not by ratios above 1.",
            "A head that changed is not shown to matter: nothing was taken out.",
        ],
        settings=settings,
        facts=facts,
        tables=[_top_table(ranked[:top]), _weights_table(layers, slices)],
        plots={"heads.png": draw_grids(_grids(layers, heads, slices))},
    )


def _method(examples: int, seeds: Sequence[int]) -> list[str]:
    return [
        f"Where the decisions of {examples} examples are predicted, what each head adds to the "
        "stream is compared before and after: length of the change over that of what was added, "
        "mean over examples.",
        "Weights: for each head's slices of q, k, v and o (of gated delta nets also z, b, a, "
        "convolution, A_log and dt_bias), length of the change over that of the slice.",
        f"Control: {len(seeds)} random changes of the same tensors, each tensor's of the same "
        "norm. The ratio is the change over the mean of the controls'.",
        "95 % intervals: of a change, a bootstrap over examples; of a ratio, over examples and "
        "seeds.",
        "A head is said to be changed more than by chance where the interval of its ratio lies "
        "above 1 and no random change changes it as much.",
    ]


def _sentences(ranked: Sequence[Head], count: int) -> list[str]:
    if not ranked:
        return [f"None of {count} heads says anything changed: what changed lies behind them."]
    chosen = sum(each.is_chosen for each in ranked)
    first, last = ranked[0], ranked[-1]
    return [
        f"{chosen} of {count} heads say something more changed than under random changes of equal "
        "norm.",
        f"Most changed against the control: {_named(first)}, {format_interval(first.ratio)} times; "
        f"least: {_named(last)}, {format_interval(last.ratio)} times; the median head "
        f"{median(each.ratio.mean for each in ranked):.3g} times.",
    ]


def _named(head: Head) -> str:
    return f"layer {head.layer.layer}, {head.layer.kind}, head {head.head}"


def _top_table(ranked: Sequence[Head]) -> Table:
    rows = [
        [
            str(each.layer.layer),
            each.layer.kind,
            str(each.head),
            format_interval(each.change),
            f"{fmean(each.controls):.3g} ({min(each.controls):.3g} to {max(each.controls):.3g})",
            format_interval(each.ratio),
            "yes" if each.is_chosen else "no",
        ]
        for each in ranked
    ]
    columns = ("layer", "kind", "head", "change", "random, each seed", "ratio", "beyond chance")
    return Table("Change of what heads say: the first, by ratio", columns, rows)


def _weights_table(layers: Sequence[HeadLayer], slices: Sequence[_Slices]) -> Table:
    rows: list[list[str]] = []
    for layer, found in zip(layers, slices, strict=True):
        for kind, several in found.items():
            changes = [change for change, _ in several]
            most = max(range(len(several)), key=lambda head: changes[head])
            control = fmean(each for _, each in several)
            cells = (
                f"{fmean(changes):.3g}",
                f"{changes[most]:.3g} (head {most})",
                f"{control:.3g}",
            )
            rows.append([str(layer.layer), layer.kind, kind, *cells])
    columns = ("layer", "kind", "weights", "mean change", "most", "random, mean")
    return Table("Relative change of weights, over heads", columns, rows)


def _grids(
    layers: Sequence[HeadLayer], heads: Sequence[Head], slices: Sequence[_Slices]
) -> list[Grid]:
    labels = [layer.label for layer in layers]
    ratios = [[each.ratio.mean for each in heads if each.layer is layer] for layer in layers]
    grids = [Grid("what heads say: change over that of random changes", labels, ratios)]
    for kind in _KINDS:
        shown = [place for place, found in enumerate(slices) if kind in found]
        values = [[change for change, _ in slices[place][kind]] for place in shown]
        grids.append(
            Grid(f"relative change of {kind} weights", [labels[place] for place in shown], values)
        )
    return grids


def _head_facts(head: Head) -> dict[str, Any]:
    return {
        "layer": head.layer.layer,
        "kind": head.layer.kind,
        "head": head.head,
        "change": interval_facts(head.change),
        "control_seeds": list(head.controls),
        "ratio": interval_facts(head.ratio),
        "beyond_chance": head.is_chosen,
    }
