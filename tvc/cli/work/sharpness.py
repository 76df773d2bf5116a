"""What tvc sharpness does."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from tvc.checkout.temporary import checked_out
from tvc.cli.progress import step_progress
from tvc.cli.session import Session
from tvc.cli.work.devices import chosen_device
from tvc.dialogues.example import Example
from tvc.dialogues.loading import load_model
from tvc.dialogues.mixing import parse_mix
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.optimizers.apollo import is_projected
from tvc.optimizers.building import make_optimizer
from tvc.optimizers.readings import Interval, Reading, compare_sharpness, summarize
from tvc.optimizers.sharpness import measure_sharpness
from tvc.training.preparing import Data, prepare_data, step_order
from tvc.training.support import verify_support
from tvc.training.tiers import Tier, decision_loss

__all__ = ["sharpness"]

_PAPER: Final = ("sgd", "adamw", "apollo", "apollo-mini")
"""From the sharpest to the flattest, arXiv:2412.05270, table 10."""

Readings = Mapping[str, Sequence[Reading]]


def sharpness(session: Session, *, revision: str, as_json: bool, **options: Any) -> None:
    """Do what `tvc sharpness` says; its options are the command's."""
    repository = session.repository()
    commit = repository.git.resolve(revision)
    with checked_out(repository.layout, repository.state_at(commit), commit=commit) as folder:
        batches, rows = _batches(folder, options)
        loaded = load_model(folder, dtype=torch.float32)
    pad = loaded.tokenizer.pad_token_id
    assert isinstance(pad, int)  # a loaded tokenizer has one
    found = _measured(session, loaded.model, batches, pad, options)
    fresh = rows >= len(batches) * options["batch"]
    if as_json:
        click.echo(json.dumps(_facts(found, commit, options, fresh=fresh), indent=2))
        return
    kind = "estimated" if options["estimate"] else "exact"
    steps = f"after {options['warmup']} AdamW steps at lr {options['lr']:g}"
    name = f"{printable(revision)} ({commit[:7]})"
    lines = [f"directional sharpness of {name}, {kind}: {options['batches']} batches {steps}"]
    lines += [_table(found), *_conclusions(found)]
    if not fresh:
        lines.append(f"{rows} rows are seen more than once: batches are not independent")
    session.show("\n".join(lines))


def _batches(folder: Path, options: dict[str, Any]) -> tuple[list[list[Example]], int]:
    """Return as many batches as are asked for, and how many rows the main data have."""
    mixes = [(Path(file), share) for file, share in map(parse_mix, options["mixes"])]
    seed = options["seed"]
    data = Data(options["data"], tuple(mixes), None, options["window"])
    prepared = prepare_data(data, folder, seed=seed)
    order = step_order(
        prepared,
        [share for _, share in mixes],
        seed=seed,
        batch=options["batch"],
        epochs=1,
        steps=options["warmup"] + options["batches"] + 1,
    )
    batches = [[prepared.examples[row] for row in rows] for rows in order]
    return batches, prepared.sizes[0] if not mixes else sum(prepared.sizes)


def _measured(
    session: Session,
    model: PreTrainedModel,
    batches: Sequence[Sequence[Example]],
    pad: int,
    options: dict[str, Any],
) -> dict[str, list[Reading]]:
    device = chosen_device(options["device"])
    verify_support(model.to(device), tier=Tier.FULL, pad=pad)  # pyright: ignore[reportArgumentType]  # a decorator of transformers hides its type
    named = _matrices(model)
    done = 0

    def loss(batch: Sequence[Example]) -> Tensor:
        found = decision_loss(model, batch, tier=Tier.FULL, pad=pad)
        return found.total / found.tokens

    with step_progress(session, "measuring", len(batches) - 1) as tell:

        def on_step() -> None:
            nonlocal done
            done += 1
            tell(done, "")

        return measure_sharpness(
            loss,
            named,
            batches,
            optimizers={
                name: partial(make_optimizer, name, lr=1.0, rank=options["rank"])
                for name in options["optimizers"]
            },
            warmup=options["warmup"],
            lr=options["lr"],
            estimate=options["estimate"],
            on_step=on_step,
        )


def _matrices(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """Return the weights that Apollo would project; the others keep still."""
    found: list[tuple[str, nn.Parameter]] = []
    for name, weight in model.named_parameters():
        weight.requires_grad_(is_projected(name, weight.shape))
        if weight.requires_grad:
            found.append((name, weight))
    if not found:
        raise InputError("the model has no matrices to measure")
    return found


def _table(found: Readings) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("optimizer")
    for heading in ("sharpness v'Hv", "slope g.v", "best decrease"):
        table.add_column(heading, justify="right")
    for name, readings in found.items():
        summary = summarize(readings)
        cells = (summary.curvature, summary.slope, summary.decrease)
        table.add_row(name, *map(_cell, cells))
    text = StringIO()
    Console(file=text, width=100, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def _cell(value: Interval) -> str:
    if not math.isfinite(value.mean):
        return "no end"
    if not math.isfinite(value.high):
        return f"{value.mean:.3g}"
    return f"{value.mean:.3g} [{value.low:.3g}, {value.high:.3g}]"


def _conclusions(found: Readings) -> list[str]:
    """Say in which order optimizers stand, and whether the paper's is confirmed."""
    order = sorted(found, key=lambda name: -summarize(found[name]).curvature.mean)
    words = [order[0]]
    for one, other in pairwise(order):
        apart = compare_sharpness(found[one], found[other]).excludes_zero
        words += [">" if apart else "~", other]
    lines = [f"sharpest to flattest: {' '.join(words)}"]
    if "~" in words:
        lines.append("  ~: over these batches they cannot be told apart")
    verdict = _verdict(found)
    if verdict:
        paper = " > ".join(name for name in _PAPER if name in found)
        lines.append(f"the order of arXiv:2412.05270, table 10 ({paper}): {verdict}")
    return lines


def _verdict(found: Readings) -> str:
    """Say whether the paper's order is confirmed; empty where one optimizer alone was measured."""
    pairs = list(pairwise(name for name in _PAPER if name in found))
    differences = {pair: compare_sharpness(found[pair[0]], found[pair[1]]) for pair in pairs}
    against = [" < ".join(pair) for pair, found in differences.items() if found.high < 0]
    if against:
        return f"contradicted here, {', '.join(against)}"
    if not all(difference.low > 0 for difference in differences.values()):
        return "neither confirmed nor contradicted here"
    return "confirmed here" if pairs else ""


def _facts(
    found: Readings, commit: str, options: dict[str, Any], *, fresh: bool
) -> dict[str, object]:
    """Return all that was measured as values for JSON."""
    numbers = ("batches", "warmup", "batch", "lr", "rank", "seed")
    return {
        "commit": commit,
        "kind": "estimate" if options["estimate"] else "exact",
        **{key: options[key] for key in numbers},
        "batches_are_independent": fresh,
        "optimizers": {name: _facts_of(readings) for name, readings in found.items()},
        "differences": [
            {"of": [one, other], **_bounds(compare_sharpness(found[one], found[other]))}
            for number, one in enumerate(found)
            for other in list(found)[number + 1 :]
        ],
        "paper_order": _verdict(found),
    }


def _facts_of(readings: Sequence[Reading]) -> dict[str, object]:
    summary = summarize(readings)
    return {
        "sharpness": _bounds(summary.curvature),
        "slope": _bounds(summary.slope),
        "decrease": _bounds(summary.decrease),
        "readings": [{"sharpness": r.curvature, "slope": r.slope} for r in readings],
    }


def _bounds(value: Interval) -> dict[str, float | None]:
    """Return an interval for JSON, which has no infinity."""
    fields = {"mean": value.mean, "low": value.low, "high": value.high}
    return {key: each if math.isfinite(each) else None for key, each in fields.items()}
