"""The training loop: the same in one process and in each of several.

Weights are the base plus a float32 difference, which is what the optimizer changes; so a step
depends on nothing but the difference, the optimizer's state and its own number, and a training that
was killed goes on from its last checkpoint to the same weights. Absent: where data come from, and
what is done with the result.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import optimization

from tvc.dialogues.example import Example
from tvc.dialogues.loading import load_model
from tvc.domain.errors import StateError
from tvc.optimizers.building import make_optimizer
from tvc.optimizers.differences import Differences
from tvc.recording.trained import write_training
from tvc.training.checkpoints import load_checkpoint, save_checkpoint
from tvc.training.gradients import GradientReport
from tvc.training.processes import Group, joined
from tvc.training.provenance import measured, provenance_after
from tvc.training.run import Run
from tvc.training.saving import Weight, check_saving, current_weights, gathered, write_result
from tvc.training.settings import Settings
from tvc.training.support import verify_support
from tvc.training.tiers import Tier, decision_loss
from tvc_store.durable import sync_folder, write_errors

__all__ = ["Diverged", "OnWeights", "Step", "train"]

OnWeights = Callable[[int, Callable[[], Iterator[Weight]]], None]
"""Called with a number of steps, and what yields the weights after them."""

_APART: Final = 1 << 32
_SHOWN: Final = 4


class Diverged(StateError):
    """The loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step was.

    Args:
        step: Its number, from 1.
        loss: Mean negative log likelihood of the decisions' tokens before it, in nats.
        lr: Learning rate.
        tokens: Trained tokens.
        context_tokens: Tokens of their contexts.
        seconds: How long it took.
        gradient: Squared length of the gradient by kind of weight.
    """

    step: int
    loss: float
    lr: float
    tokens: int
    context_tokens: int
    seconds: float
    gradient: Mapping[str, float]


def train(
    run: Run,
    *,
    on_step: Callable[[Step], None] = lambda _: None,
    on_weights: OnWeights | None = None,
) -> None:
    """Train what a run says, from its last checkpoint on, and write the result into its folder.

    Called by every process of the training; the first one writes the log and calls `on_step`.

    Args:
        run: Prepared.
        on_step: Called after every step.
        on_weights: Called before the first step that is made, and after every step; in a training
            of one process only, since among several nobody has all weights.

    Raises:
        Diverged: The loss is no longer a number.
        UnsupportedModel: The tier cannot be had for this model.
        CannotSave: The model's weights are not those of its folder.
        WriteFailed: The system refused; the last checkpoint is whole.
    """
    settings = run.task().settings
    if settings.device == "cpu":
        torch.set_num_threads(settings.threads)
    with joined(settings.processes, settings.device) as group:
        assert on_weights is None or group.size == 1, "nobody has all weights"
        _Training(run, settings, group).run(on_step, on_weights or (lambda _step, _weights: None))


class _Training:
    """One process's part of a training."""

    def __init__(self, run: Run, settings: Settings, group: Group) -> None:
        self._run = run
        self._settings = settings
        self._group = group
        self._examples, self._order = run.data()
        self._tier = Tier(settings.tier)
        loaded = load_model(run.base)
        self._pad = cast("int", loaded.tokenizer.pad_token_id)
        model = loaded.model
        if group.is_first:
            check_saving(model, run.base, run.path / "saving")
        self._model = group.share(model)
        verify_support(self._model, tier=self._tier, pad=self._pad)
        self._model.train()
        self._differences = Differences(self._model.named_parameters())
        self._optimizer = make_optimizer(
            settings.optimizer,
            self._differences.named_parameters(),
            lr=settings.lr,
            rank=settings.rank,
            seed=settings.seed,
            weight_decay=settings.weight_decay,
            multiplier=settings.multiplier,
        )

    def run(self, on_step: Callable[[Step], None], on_weights: OnWeights) -> None:
        """Make all steps that are left, and write the result."""
        settings = self._settings
        start = load_checkpoint(self._run.checkpoints, self._differences, self._optimizer)
        if self._group.is_first:
            self._run.rewind(start)
        schedule = _schedule(self._optimizer, settings, start)
        on_weights(start, lambda: current_weights(self._model))
        for number in range(start, settings.steps):
            began = time.monotonic()
            rate = float(schedule.get_last_lr()[0])
            loss, tokens, context = self._step(number)
            gradient = self._update()
            schedule.step()
            seconds = time.monotonic() - began
            made = Step(number + 1, loss, rate, tokens, context, seconds, gradient)
            if self._group.is_first:
                self._run.say(asdict(made))
                on_step(made)
            on_weights(made.step, lambda: current_weights(self._model))
            every = settings.checkpoint_every
            if every and made.step % every == 0 and made.step < settings.steps:
                save_checkpoint(
                    self._run.checkpoints, made.step, self._differences, self._optimizer
                )
        deltas = gathered(self._model, self._differences)
        if self._group.is_first:
            self._write(deltas)

    def _write(self, deltas: Mapping[str, Tensor]) -> None:
        """Write the result, which is there whole or not at all."""
        run, task = self._run, self._run.task()
        unfinished = run.path / "model.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_result(
            self._model,
            deltas,
            base=run.base,
            target=unfinished,
            keep_delta=self._settings.keep_delta,
        )
        log = run.said()
        write_training(
            unfinished,
            recipe=task.recipe,
            provenance={**task.provenance, **provenance_after(log)},
            measured=measured(log),
        )
        with write_errors(run.model):
            sync_folder(unfinished)
            unfinished.rename(run.model)
            sync_folder(run.path)

    def _step(self, number: int) -> tuple[float, int, int]:
        """Collect the gradient of one step; return its loss, its tokens and the contexts'."""
        settings, group = self._settings, self._group
        torch.manual_seed(settings.seed * _APART + number)  # of dropout, where a model has it
        # By length, so that little is padded; the same rows in every process's order.
        rows = sorted(
            (self._examples[row] for row in self._order[number]), key=lambda each: each.length
        )
        tokens = sum(len(decision) for each in rows for decision in each.decisions)
        total = 0.0
        for part in _parts(rows[group.rank :: group.size], settings.micro_batch):
            loss = decision_loss(
                self._model,
                part,
                tier=self._tier,
                pad=self._pad,
                checkpoint_decisions=settings.checkpoint_decisions,
            ).total
            total += float(loss.detach())
            # FSDP averages over processes; what is wanted is the mean over tokens.
            (loss * (group.size / tokens)).backward()
            self._differences.collect_gradients()
        mean = group.summed(total) / tokens
        if not isfinite(mean):
            raise Diverged(
                f"the loss of step {number + 1} is {mean}: rows {', '.join(_sources(rows))}",
                hint="look at these rows, or begin anew with --discard and a lower --lr",
            )
        return mean, tokens, sum(len(each.context) for each in rows)

    def _update(self) -> dict[str, float]:
        """Change the weights, and return where the gradient went."""
        report = GradientReport()
        report.add(self._differences.named_parameters())
        deltas = [delta for _, delta in self._differences.named_parameters()]
        if self._settings.clip:
            torch.nn.utils.clip_grad_norm_(deltas, self._settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._differences.write_weights()
        return {kind: found["squared_norm"] for kind, found in report.to_json()["kinds"].items()}


def _schedule(optimizer: Optimizer, settings: Settings, start: int) -> Any:
    """Return the schedule of the learning rate, as it is after `start` steps."""
    for group in optimizer.param_groups:
        group["initial_lr"] = settings.lr
    warmup, last = settings.warmup, start - 1
    if settings.schedule == "constant":
        return optimization.get_constant_schedule_with_warmup(optimizer, warmup, last_epoch=last)
    if settings.schedule == "cosine":
        return optimization.get_cosine_schedule_with_warmup(
            optimizer, warmup, settings.steps, last_epoch=last
        )
    return optimization.get_linear_schedule_with_warmup(
        optimizer, warmup, settings.steps, last_epoch=last
    )


def _parts(rows: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _sources(rows: Sequence[Example]) -> list[str]:
    found = sorted({each.source for each in rows})
    return [*found[:_SHOWN], "…"] if len(found) > _SHOWN else found
