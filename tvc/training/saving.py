"""Writes what a training made: the tuned model, and the difference that was trained.

The difference goes through transformers' own writing, which gives tensors the names and shapes of
checkpoints (experts apart, tied weights once). The tuned weights are computed from it and the
base's files, with the very rounding of training; what was not trained is the base's, byte for byte.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from tvc.dialogues.loading import quiet
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.evaluation.numbers import compute_dtype, from_numbers, to_numbers
from tvc.models.directory import ModelDirectory
from tvc.models.ties import tied_names
from tvc.models.writer import SHARD_BYTES, ModelWriter, plan_shards
from tvc.optimizers.differences import Differences
from tvc.recording.trained import DELTA
from tvc.training.processes import whole
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import make_folder, write_durably, write_errors

__all__ = ["CannotSave", "Weight", "check_saving", "current_weights", "gathered", "write_result"]

_PIECE: Final = 1 << 20
"""Elements that are computed at a time."""
_NAMES: Final = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
}


class CannotSave(InputError):
    """A model's weights are not those of its folder, one to one."""


class Weight(NamedTuple):
    """A weight as it is now.

    Args:
        name: That of checkpoints.
        spec: Type and shape.
        content: Its bytes, on the CPU; where it is there already, no copy, and true until the next
            step.
    """

    name: str
    spec: TensorSpec
    content: ByteArray


def current_weights(model: PreTrainedModel) -> Iterator[Weight]:
    """Yield a model's weights as they are now, under all names that checkpoints have for them.

    Args:
        model: Whole, in one process.
    """
    inside = {name: each.detach() for name, each in model.named_parameters(remove_duplicate=False)}
    with torch.no_grad():
        named = cast("dict[str, Tensor]", revert_weight_conversion(model, inside))
    for name, tensor in named.items():
        spec = TensorSpec(_NAMES[tensor.dtype], tuple(tensor.shape))
        plain = tensor.contiguous().cpu().reshape(-1)
        yield Weight(name, spec, plain.view(torch.uint8).numpy())


def gathered(model: PreTrainedModel, differences: Differences) -> dict[str, Tensor]:
    """Return the differences whole, on the CPU, under all names of the model's parameters.

    Args:
        model: Whose parameters they are.
        differences: Perhaps sharded: every process of the training has to call this.
    """
    full = {name: whole(each).cpu() for name, each in differences.state_dict().items()}
    return _under_all_names(model, full)


def check_saving(model: PreTrainedModel, base: Path, folder: Path) -> None:
    """Check that every weight has its place in the base's files, before it is trained.

    Args:
        model: As it was loaded, not sharded yet.
        base: The folder that it was loaded from.
        folder: Where a byte for each weight can be written meanwhile.

    Raises:
        CannotSave: One has none.
        WriteFailed: The system refused.
    """
    zeros = {
        name: torch.zeros(parameter.shape, dtype=torch.int8)
        for name, parameter in model.named_parameters()
    }
    try:
        _save(model, _under_all_names(model, zeros), folder)
        _matched(ModelDirectory.open(folder), ModelDirectory.open(base))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_result(
    model: PreTrainedModel,
    deltas: Mapping[str, Tensor],
    *,
    base: Path,
    target: Path,
    keep_delta: str,
) -> None:
    """Write the tuned model's folder.

    Args:
        model: Says how its weights are named in files.
        deltas: What `gathered` returned, float32.
        base: The model that was trained from.
        target: A new folder; with `keep_delta` it has the differences in a folder of its own.
        keep_delta: `float32`, `bfloat16` or `none`.

    Raises:
        CannotSave: A weight has no place in the base's files, or is no longer finite.
        WriteFailed: The system refused.
    """
    broken = [name for name, delta in deltas.items() if not bool(delta.isfinite().all())]
    if broken:
        raise CannotSave(
            f"the difference of {printable(broken[0])} is no longer finite",
            hint="begin anew with --discard and a lower --lr",
        )
    make_folder(target)
    wide = target / f"{DELTA}-float32"
    _save(model, deltas, wide)
    origin, differences = ModelDirectory.open(base), ModelDirectory.open(wide)
    _write_tuned(origin, differences, target)
    for path in origin.files:
        place = target / path
        make_folder(place.parent)
        write_durably(place, [origin.read_file(path)])
    if keep_delta != "none":
        _keep(differences, target / DELTA, keep_delta)
    shutil.rmtree(wide)


def _under_all_names(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by all names of their parameters: one tensor for tied ones."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        alias: tensors[first[id(parameter)]]
        for alias, parameter in model.named_parameters(remove_duplicate=False)
        if first[id(parameter)] in tensors
    }


def _save(model: PreTrainedModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors, named as the model's parameters, under the names of its checkpoints."""
    saving: Any = model  # its signature is a decorator's
    with quiet(), write_errors(folder):
        saving.save_pretrained(folder, state_dict=dict(tensors), max_shard_size=SHARD_BYTES)


def _matched(differences: ModelDirectory, base: ModelDirectory) -> dict[str, str]:
    """Return the base's tensor → the difference that is its, tied ones included.

    Raises:
        CannotSave: A difference belongs to none, or has another shape.
    """
    found = {name: name for name in differences.entries}
    for name, source in tied_names(base.config, base.entries).items():
        if source in found:
            found[name] = source
    for name, source in found.items():
        shape = differences.entries[source].spec.shape
        if name not in base.entries or base.entries[name].spec.shape != shape:
            raise CannotSave(
                f"the model's weight {printable(name)} {list(shape)} is not a tensor of the folder "
                "that it was loaded from",
                hint="transformers loads this architecture under other names than it saves",
            )
    return found


def _write_tuned(base: ModelDirectory, differences: ModelDirectory, target: Path) -> None:
    """Write base plus difference, rounded once, and everything else as it is."""
    specs = {name: entry.spec for name, entry in base.entries.items()}
    writer = ModelWriter(target, plan_shards(specs, shard_size=SHARD_BYTES), specs)
    matched = _matched(differences, base)
    for name, spec in specs.items():
        at = 0
        for start, stop in _pieces(spec):
            data = _read(base, name, start, stop)
            if name in matched:
                delta = differences.entries[matched[name]].spec
                added = _read(differences, matched[name], start, stop)
                data = _sum(data, spec, added, delta)
            writer.write_at(name, at, data)
            at += data.nbytes
    writer.finish()


def _sum(data: ByteArray, spec: TensorSpec, added: ByteArray, delta: TensorSpec) -> ByteArray:
    wide = compute_dtype(spec)
    change = to_numbers(added, delta.dtype, wide)
    if not change.any():
        return data
    total = to_numbers(data, spec.dtype, wide) + change
    # Where nothing was added the bits stay, those of a NaN too.
    moved = np.repeat(change != 0, spec.itemsize)
    return np.where(moved, from_numbers(total, spec.dtype), data)


def _keep(differences: ModelDirectory, folder: Path, kind: str) -> None:
    """Write the differences in the type in which the vector is to keep them."""
    dtype = {"float32": "F32", "bfloat16": "BF16"}[kind]
    specs = {
        name: TensorSpec(dtype, entry.spec.shape) for name, entry in differences.entries.items()
    }
    make_folder(folder)
    writer = ModelWriter(folder, plan_shards(specs, shard_size=SHARD_BYTES), specs)
    for name, entry in differences.entries.items():
        at = 0
        for start, stop in _pieces(entry.spec):
            wide = to_numbers(_read(differences, name, start, stop), entry.spec.dtype, np.float32)
            data = from_numbers(wide, dtype)
            writer.write_at(name, at, data)
            at += data.nbytes
    writer.finish()
    write_durably(folder / "config.json", [differences.read_file("config.json")])


def _pieces(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """Yield ranges of elements."""
    for start in range(0, spec.numel, _PIECE):
        yield start, min(start + _PIECE, spec.numel)


def _read(model: ModelDirectory, name: str, start: int, stop: int) -> ByteArray:
    width = model.entries[name].spec.itemsize
    data = np.empty((stop - start) * width, np.uint8)
    with model.opened(name) as content:
        content.read(start * width, data)
    return data
