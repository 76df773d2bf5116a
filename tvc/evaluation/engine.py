"""Runs a plan: reads tensors by content id, and computes those that are not there as they are.

Everything goes window by window, so that a tensor may be larger than the memory. One tensor is
computed by one thread, and tensors beside each other: a sum inside a tensor is then always made in
the same order, so that the number of threads does not change a bit of the result. Torch is loaded
with the first merge, not before. Not here: files, git, names of vectors, and where tensors come
from or go to.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from tvc.domain.plan import Action, Combine, Merged, Plan, leaves
from tvc.domain.snapshot import TensorRef
from tvc.evaluation.leaves import KEPT_BYTES, Source, WrongSpec, check_spec
from tvc.evaluation.memory import MemberMemory
from tvc.evaluation.tensors import ComputedTensor, merges_of
from tvc.merging.loops import Floats
from tvc.merging.runner import merge_runner
from tvc_store.arrays import ByteArray
from tvc_store.cache import Cache
from tvc_store.dtypes import TensorSpec
from tvc_store.header import FRAME_BYTES
from tvc_store.ordered import DEPTH
from tvc_store.scratch import Scratch

if TYPE_CHECKING:
    from tvc.merging.arrays import ArrayMerge, Found
    from tvc.merging.passes import Pass

__all__ = ["Evaluator", "Source", "WrongSpec", "run_each"]

Item = TypeVar("Item")

_WORK: Final = 48 << 20
"""Bytes that a worker holds besides tensors: windows, tables of counts, frames being decoded."""


def run_each(work: Callable[[Item], None], items: Iterable[Item], *, workers: int) -> None:
    """Call `work` for every item, `workers` at a time, and stop at the first error.

    Raises:
        Exception: What `work` raised first; items not yet begun are left undone.
    """
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[None]] = set()
        try:
            for item in items:
                if len(running) >= workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    _raise_first(done)
                running.add(pool.submit(work, item))
            _raise_first(running)
        finally:
            pool.shutdown(cancel_futures=True)


def _raise_first(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        future.result()


class Evaluator:
    """Computes the tensors of one plan.

    Args:
        source: Where tensors come from.
        plan: What is computed.
        workers: Tensors computed at a time.
        cache: Where passes over vectors keep what they have counted; None for nowhere.

    Raises:
        InputError: A merge names a method or an option that there is not.
    """

    def __init__(
        self, source: Source, plan: Plan, *, workers: int = 2, cache: Cache | None = None
    ) -> None:
        self._source = source
        self._cache = cache
        self._plan = plan
        self._workers = workers
        self._scratch = Scratch(KEPT_BYTES)
        self._merges: dict[str, ArrayMerge] = {
            key: _runner(next(iter(tensors.values())))
            for key, tensors in plan.merges.items()
            if tensors
        }
        self._found: dict[str, Found] = {key: {} for key in self._merges}

    @property
    def passes(self) -> int:
        """How many passes are made over whole vectors before tensors are computed."""
        return sum(len(merge.passes("vector")) for merge in self._merges.values())

    @property
    def tensor_passes(self) -> int:
        """How many passes are made, at most, over a tensor before it is computed."""
        merges = self._merges
        return max(
            (
                sum(len(merges[each.key].passes("tensor")) for each in merges_of(action.terms))
                for action in self._plan.actions.values()
                if isinstance(action, Combine)
            ),
            default=0,
        )

    @property
    def peak_bytes(self) -> int:
        """About how much memory tensors take at most while they are computed."""
        held = sorted(self._held(action) for action in self._plan.actions.values())
        return sum(held[-self._workers :])

    def prepare(self, *, on_tensor: Callable[[int], None] = lambda _: None) -> None:
        """Take the statistics of whole vectors that merges need.

        Args:
            on_tensor: Called with the bytes of every tensor seen, for progress.
        """
        for key, merge in self._merges.items():
            for kind in merge.passes("vector"):
                counting = merge.counting(kind, numel=self._plan.numel, earlier=self._found[key])
                tensors = self._plan.merges[key]
                memory = MemberMemory(
                    self._cache,
                    tensors,
                    self._plan.numel,
                    kind=f"{kind.__module__}.{kind.__qualname__}",
                    weighted=not merge.takes_weights,
                )
                again = counting.begin(memory)
                if again:
                    self._observe_samples(tensors, kind, counting)
                while again:
                    self._observe(tensors, kind, counting)
                    again = counting.more()
                for merged in tensors.values():
                    on_tensor(merged.spec.nbytes)
                self._found[key][kind.name] = counting.result()

    def _observe_samples(
        self, tensors: Mapping[str, Merged], kind: "type[Pass]", counting: "Pass"
    ) -> None:
        """Show a pass over a vector samples of its tensors, if it has a use for them."""
        if counting.sample(1) is None:
            return
        lock = threading.Lock()

        def observe(name: str) -> None:
            with lock:
                part = counting.sample(tensors[name].spec.numel)
            if part and self._computed(name).observe_sample(tensors[name], kind, part):
                with lock:
                    counting.add(part)

        run_each(observe, tensors, workers=self._workers)

    def _observe(self, tensors: Mapping[str, Merged], kind: "type[Pass]", counting: "Pass") -> None:
        """Show a pass over a vector all its tensors once."""
        lock = threading.Lock()

        def observe(name: str) -> None:
            with lock:
                part = counting.part()
            self._computed(name).observe(tensors[name], kind, part)
            with lock:
                counting.add(part)

        run_each(observe, tensors, workers=self._workers)

    def known(self, name: str) -> TensorRef | None:
        """Return what a tensor is where no arithmetic is needed to tell, otherwise None."""
        action = self._plan.actions[name]
        return None if isinstance(action, Combine) else action.tensor

    def blocks(self, name: str) -> Generator[ByteArray]:
        """Yield the bytes of a tensor in order, each piece overwritten by the next.

        Raises:
            IntegrityError: After the last piece, where something that was read is damaged.
        """
        action = self._plan.actions[name]
        if isinstance(action, Combine):
            yield from self._computed(name).blocks(action)
            return
        check_spec(self._source, action.tensor)
        for (frame,) in self._source.stream_tensors([action.tensor.id]):
            yield frame

    def tensor(self, name: str) -> tuple[TensorSpec, ByteArray]:
        """Return one tensor of the plan: its type and shape, and its bytes."""
        action = self._plan.actions[name]
        spec = action.spec if isinstance(action, Combine) else action.tensor.spec
        whole = np.empty(spec.nbytes, np.uint8)
        done = 0
        for block in self.blocks(name):
            whole[done : done + block.size] = block
            done += block.size
        return spec, whole

    def difference(self, name: str) -> Floats:
        """Return the sum of a combined tensor's terms, without the base.

        Args:
            name: A tensor that the plan combines.

        Returns:
            In the shape of the result, and the type that it is computed in.
        """
        action = self._plan.actions[name]
        assert isinstance(action, Combine), "differences are asked of plan_difference's plans"
        return self._computed(name).difference(action)

    def _computed(self, name: str) -> ComputedTensor:
        return ComputedTensor(self._source, self._scratch, name, self._merges, self._found)

    def _held(self, action: Action) -> int:
        """Return about how many bytes computing a tensor holds."""
        if not isinstance(action, Combine):
            # Its frames and its base's, those that are read ahead.
            return 2 * min(DEPTH * FRAME_BYTES, action.tensor.spec.nbytes)
        merges = [self._merges[each.key] for each in merges_of(action.terms)]
        refs = {ref.id: ref.spec.nbytes for ref in leaves(action)}
        kept = sum(refs.values())
        if any(merge.unit == "tensor" for merge in merges):
            members = max(len(each.members) for each in merges_of(action.terms))
            wide = 8 if action.spec.dtype == "F64" else 4
            return kept + action.spec.numel * wide * (4 + 2 * members)
        if kept <= KEPT_BYTES and any(merge.passes("tensor") for merge in merges):
            return kept + _WORK
        return min(kept, 2 * len(refs) * FRAME_BYTES) + _WORK


def _runner(merged: Merged) -> "ArrayMerge":
    weights = [float(member.weight) for member in merged.members]
    return merge_runner()(merged.method, dict(merged.options), weights)
