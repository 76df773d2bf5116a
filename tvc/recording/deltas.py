"""Takes in the difference that a training kept, beside the tuned weights that are a rounding of it.

Tensors are stored as they are: nothing in the store resembles them. One that is zero throughout is
left out.
"""

from collections.abc import Callable, Mapping

import numpy as np

from tvc.domain.plan import FLOATING
from tvc.domain.snapshot import Snapshot, TensorRef
from tvc.evaluation.numbers import compute_dtype, to_numbers
from tvc.models.directory import ModelDirectory
from tvc.recording.matching import Mismatch
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId
from tvc_store.local import Store
from tvc_store.publishing import Publisher

__all__ = ["record_deltas"]


def record_deltas(
    store: Store,
    deltas: ModelDirectory,
    tuned: Mapping[str, TensorRef],
    *,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> tuple[ObjectId, int]:
    """Store trained differences.

    Args:
        store: Where they go.
        deltas: A folder with them, under the names of the tuned tensors.
        tuned: The tuned tensors, by name.
        on_bytes: Called with the size of every tensor done.

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
            on_bytes(entry.spec.nbytes)
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
