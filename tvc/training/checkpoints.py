"""The state of a training after a step, whole or not at all, by torch's distributed checkpoints.

Everything that the next step depends on: the float32 difference, the optimizer's state, and the
number of the step; weights, learning rate and random numbers follow from these. Each process writes
its own shards. The newest two are kept. Its metadata are pickles of this machine's own making: a
checkpoint is read from the run's private folder only.
"""

import shutil
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.optim import Optimizer

from tvc.domain.errors import StateError
from tvc.domain.names import printable
from tvc.optimizers.differences import Differences
from tvc_store.durable import make_folder, sync_folder, write_errors

__all__ = ["CheckpointFailed", "load_checkpoint", "save_checkpoint"]

_KEPT: Final = 2
_UNFINISHED: Final = ".unfinished"


class CheckpointFailed(StateError):
    """The state of a training could not be written."""


def save_checkpoint(
    folder: Path, step: int, differences: Differences, optimizer: Optimizer
) -> None:
    """Write a checkpoint; every process of the training calls this.

    Args:
        folder: Of all checkpoints.
        step: How many steps have been made.
        differences: What is trained.
        optimizer: Over the deltas, with names.

    Raises:
        WriteFailed: The system refused.
        CheckpointFailed: So did torch.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    place = folder / f"{step:08d}"
    unfinished = place.with_suffix(_UNFINISHED)
    if first:
        make_folder(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
    state = _state(differences, optimizer)
    with write_errors(folder), _alone() as alone:
        try:
            state_dict_saver.save(state, checkpoint_id=unfinished, no_dist=alone)
        except CheckpointException as error:
            _raise_cause(error)
    if first:
        with write_errors(folder):
            sync_folder(unfinished)
            shutil.rmtree(place, ignore_errors=True)
            unfinished.rename(place)
            sync_folder(folder)
        for old in _finished(folder)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, differences: Differences, optimizer: Optimizer) -> int:
    """Take the newest checkpoint over, if there is one.

    Args:
        folder: Of all checkpoints.
        differences: Fresh ones; the weights follow.
        optimizer: A fresh one.

    Returns:
        How many steps had been made; 0 where there is no checkpoint.
    """
    found = _finished(folder)
    if not found:
        return 0
    newest = found[-1]
    _make_state(differences, optimizer)
    state = _state(differences, optimizer)
    reader: Any = FileSystemReader(newest)
    saved: set[str] = set(reader.read_metadata().state_dict_metadata)
    for key in state.keys() - saved:  # a weight that had never had a gradient
        del state[key]
        name, _ = key.removeprefix("optimizer.").rsplit(".", 1)
        optimizer.state.pop(_parameters(optimizer)[name], None)
    with _alone() as alone:
        state_dict_loader.load(state, checkpoint_id=newest, no_dist=alone)
    differences.write_weights()
    return int(newest.name)


def _finished(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.name.isdigit())


def _raise_cause(error: CheckpointException) -> NoReturn:
    """Raise what went wrong in one of the processes, which torch wraps."""
    causes = [cause for cause, _ in error.failures.values()]
    for cause in causes:
        if isinstance(cause, OSError):
            raise cause from None
    words = printable(str(causes[0]).strip().partition("\n")[0], limit=300)
    raise CheckpointFailed(
        f"a checkpoint cannot be written: {words}", hint="the last one is whole; --resume goes on"
    ) from error


@contextmanager
def _alone() -> Generator[bool]:
    """Yield whether this is the only process; torch's warning that it is says nothing new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield not dist.is_initialized()


def _state(differences: Differences, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return everything, by a name that says what it is; the tensors are not copies."""
    state = {f"delta.{name}": delta for name, delta in differences.state_dict().items()}
    for name, parameter in _parameters(optimizer).items():
        held: Mapping[str, Any] = optimizer.state.get(parameter, {})
        for key, value in held.items():
            assert isinstance(value, Tensor), f"{key} of {name} is no tensor"
            state[f"optimizer.{name}.{key}"] = value
    return state


def _parameters(optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


@torch.no_grad()
def _make_state(differences: Differences, optimizer: Optimizer) -> None:
    """Have the optimizer make its state, by a step of length zero along no gradient."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for _, delta in differences.named_parameters():
        delta.grad = torch.zeros_like(delta)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad()
