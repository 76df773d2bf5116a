"""Takes in the difference that a training kept, beside the tuned weights that are a rounding of it.

Tensors are stored as they are: nothing in the store resembles them. One that is zero throughout is
left out.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np

from tvc.domain.names import printable
from tvc.domain.plan import FLOATING
from tvc.domain.snapshot import Snapshot, TensorRef
from tvc.evaluation.numbers import compute_dtype, to_numbers
from tvc.merging.loops import Floats
from tvc.models.directory import ModelDirectory
from tvc.recording.matching import Mismatch
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements
from tvc_store.ids import ObjectId
from tvc_store.local import Store
from tvc_store.publishing import Publisher

__all__ = ["check_deltas", "record_deltas"]

_STEPS: Final = {
    "BF16": (2.0**-7, 2.0**-133),
    "F16": (2.0**-10, 2.0**-24),
    "F32": (2.0**-22, 2.0**-149),
    "F64": (2.0**-51, 2.0**-1074),
}
"""Type → the most by which rounding moves a number, as a share of it, and at least."""
_KEPT_STEP: Final = 2.0**-7
"""What the difference itself may have lost, when it is kept in bfloat16."""


def check_deltas(
    deltas: ModelDirectory,
    model: ModelDirectory,
    sources: Mapping[str, str | None],
    parents: Mapping[str, TensorSpec],
    blocks: Callable[[str], Iterator[ByteArray]],
) -> None:
    """Check that tuned weights are what differences made of the parent's, but for rounding.

    Otherwise a vector would be one behaviour at coefficient 1 and another at any other.

    Args:
        deltas: A folder with differences, under the names of the parent's tensors.
        model: The tuned model's folder.
        sources: The parent's name of a tensor → its name in that folder.
        parents: Type and shape of the parent's tensors.
        blocks: Yields the bytes of a parent's tensor in order.

    Raises:
        Mismatch: A weight was not made by its difference.
    """
    for name, entry in deltas.entries.items():
        source = sources.get(name)
        if source is None:
            continue
        specs = (parents[name], model.entries[source].spec, entry.spec)
        comparable = all(spec.dtype in _STEPS and spec.shape == entry.spec.shape for spec in specs)
        with model.opened(source) as tuned, deltas.opened(name) as delta:
            if comparable and not _agree(blocks(name), tuned, delta, *specs):
                raise Mismatch(
                    f"the tuned {printable(name)} is not the model that was trained from plus the "
                    "difference that is kept of it",
                    hint="commit without the folder delta to record the weights alone",
                )


def _agree(
    blocks: Iterator[ByteArray],
    tuned: Elements,
    delta: Elements,
    parent_spec: TensorSpec,
    tuned_spec: TensorSpec,
    delta_spec: TensorSpec,
) -> bool:
    step, least = _STEPS[tuned_spec.dtype]
    start = 0
    for block in blocks:
        stop = start + block.size // parent_spec.itemsize
        parent = to_numbers(block, parent_spec.dtype, np.float64)
        found = _numbers(tuned, tuned_spec, start, stop)
        added = _numbers(delta, delta_spec, start, stop)
        allowed = np.abs(found) * step + np.abs(added) * _KEPT_STEP + least
        with np.errstate(invalid="ignore"):  # what is no number agrees with everything
            if (np.abs(parent + added - found) > allowed).any():
                return False
        start = stop
    return True


def _numbers(content: Elements, spec: TensorSpec, start: int, stop: int) -> Floats:
    data = np.empty((stop - start) * spec.itemsize, np.uint8)
    content.read(start * spec.itemsize, data)
    return to_numbers(data, spec.dtype, np.float64)


def record_deltas(
    store: Store,
    deltas: ModelDirectory,
    tuned: Mapping[str, TensorRef],
) -> tuple[ObjectId, int]:
    """Store trained differences.

    Args:
        store: Where they go.
        deltas: A folder with them, under the names of the tuned tensors.
        tuned: The tuned tensors, by name.

    Returns:
        The id of their list, and the bytes that they take in the store.

    Raises:
        Mismatch: One belongs to no tuned tensor, has another shape, is not floating or not finite.
    """
    kept: dict[str, TensorRef] = {}
    with Publisher(store.path) as publisher:
        for name, entry in deltas.entries.items():
            _check_fits(name, entry.spec, tuned)
            seen = _Seen(entry.spec)
            with deltas.opened(name) as content:
                identity = store.put_elements(
                    entry.spec, content, on_frame=seen.see, publisher=publisher
                )
            if not seen.finite:
                raise Mismatch(f"the difference of {name} is not finite throughout")
            if not seen.zero:
                kept[name] = TensorRef(identity, entry.spec)
    size = sum(store.stored_size(identity) for identity in {ref.id for ref in kept.values()})
    return store.put_blob(Snapshot(dict(sorted(kept.items())), {}).to_bytes()), size


class _Seen:
    """Whether a tensor that is being stored is zero throughout, in all bits, and finite."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self.zero = self.finite = True

    def see(self, _at: int, frame: ByteArray, _base: ByteArray | None) -> None:
        """Look at one frame, which has whole elements."""
        self.zero = self.zero and not frame.any()
        values = to_numbers(frame, self._spec.dtype, compute_dtype(self._spec))
        self.finite = self.finite and bool(np.isfinite(values).all())


def _check_fits(name: str, spec: TensorSpec, tuned: Mapping[str, TensorRef]) -> None:
    if name not in tuned:
        raise Mismatch(f"there is a difference of {name}, but no such tuned tensor")
    if spec.shape != tuned[name].spec.shape or spec.dtype not in FLOATING:
        raise Mismatch(
            f"the difference of {name} is {spec.dtype} {list(spec.shape)}, the tuned tensor "
            f"{tuned[name].spec.dtype} {list(tuned[name].spec.shape)}"
        )
