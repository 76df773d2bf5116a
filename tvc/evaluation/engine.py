"""Runs a plan: reads tensors by content id, and computes those that are not there as they are.

One tensor is computed by one thread, and tensors beside each other: a sum inside a tensor is then
always made in the same order, so that the number of threads does not change a bit of the result.
Not here: files, git, names of vectors, and where tensors come from or go to.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from tvc.domain.plan import (
    Action,
    Combine,
    Delta,
    Difference,
    LowRank,
    Merged,
    Plan,
    Scaled,
)
from tvc.domain.snapshot import TensorRef
from tvc.domain.vector import Factors
from tvc.evaluation.draws import draw_uniforms
from tvc.evaluation.numbers import compute_dtype, from_stored, grow, to_stored
from tvc.merging.method import Method, Pass, Statistics
from tvc.merging.options import OptionValue
from tvc.merging.registry import find_method
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError
from tvc_store.ids import ObjectId

__all__ = ["Evaluator", "Reader", "WrongSpec", "run_each"]

Item = TypeVar("Item")

Reader = Callable[[ObjectId], tuple[TensorSpec, ByteArray]]
"""Returns a tensor by its content id, verified."""


class WrongSpec(IntegrityError):
    """A stored tensor has another type or shape than the list that names it says."""


@contextmanager
def _one_thread_each() -> Generator[None]:
    """Make torch compute with one thread per caller while the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_each(work: Callable[[Item], None], items: Iterable[Item], *, workers: int) -> None:
    """Call `work` for every item, `workers` at a time, and stop at the first error.

    Raises:
        Exception: What `work` raised first; items not yet begun are left undone.
    """
    with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
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


class _Merge:
    """A merge's method, its options, and the statistics of its whole vector."""

    def __init__(self, merge: Merged) -> None:
        self.method: Method = find_method(merge.method)
        self.options: dict[str, OptionValue] = self.method.check_options(dict(merge.options))
        self.method.check_members(len(merge.members), self.options)
        self.weights = torch.tensor([float(member.weight) for member in merge.members]).double()
        self.statistics: dict[str, Tensor] = {}

    @property
    def passes(self) -> tuple[type[Pass], ...]:
        return self.method.passes_for(self.options)


class Evaluator:
    """Computes the tensors of one plan.

    Args:
        read: Where tensors come from.
        plan: What is computed.
        workers: Tensors computed at a time.

    Raises:
        InputError: A merge names a method or an option that there is not.
    """

    def __init__(self, read: Reader, plan: Plan, *, workers: int = 2) -> None:
        self._read = read
        self._plan = plan
        self._workers = workers
        self._merges = {
            key: _Merge(next(iter(tensors.values())))
            for key, tensors in plan.merges.items()
            if tensors
        }

    @property
    def passes(self) -> int:
        """How many times merged tensors are read before they are computed."""
        return sum(len(merge.passes) for merge in self._merges.values())

    def prepare(self, *, on_tensor: Callable[[int], None] = lambda _: None) -> None:
        """Take the statistics of whole vectors that merges need.

        Args:
            on_tensor: Called with the bytes of every tensor seen, for progress.
        """
        for key, tensors in self._plan.merges.items():
            if key in self._merges:
                for kind in self._merges[key].passes:
                    self._take(self._merges[key], kind, tensors, on_tensor)

    def _take(
        self,
        merge: _Merge,
        kind: type[Pass],
        tensors: Mapping[str, Merged],
        on_tensor: Callable[[int], None],
    ) -> None:
        counting = kind(
            members=len(merge.weights),
            numel=self._plan.numel,
            options=merge.options,
            earlier=dict(merge.statistics),
        )

        def observe(name: str) -> None:
            spec = tensors[name].spec
            counting.observe(self._deltas(name, tensors[name], spec), weights=merge.weights)
            on_tensor(spec.nbytes)

        run_each(observe, tensors, workers=self._workers)
        merge.statistics[kind.name] = counting.result()

    def run(
        self,
        consume: Callable[[str, TensorSpec, ByteArray], None],
        names: Iterable[str] | None = None,
    ) -> None:
        """Compute tensors and hand each to `consume`, from several threads.

        Args:
            consume: Takes a tensor's name, type and shape, and bytes.
            names: Which; all of the plan where None.
        """

        def work(name: str) -> None:
            consume(name, *self.tensor(name))

        run_each(work, self._plan.actions if names is None else names, workers=self._workers)

    def known(self, name: str) -> TensorRef | None:
        """Return what a tensor is where no arithmetic is needed to tell, otherwise None."""
        action = self._plan.actions[name]
        return None if isinstance(action, Combine) else action.tensor

    def tensor(self, name: str) -> tuple[TensorSpec, ByteArray]:
        """Return one tensor of the plan: its type and shape, and its bytes."""
        return self._evaluate(name, self._plan.actions[name])

    def difference(self, name: str) -> Tensor:
        """Return the sum of a combined tensor's terms, without the base.

        Args:
            name: A tensor that the plan combines.

        Returns:
            In the shape of the result, and the type that it is computed in.
        """
        action = self._plan.actions[name]
        assert isinstance(action, Combine), "differences are asked of plan_difference's plans"
        return self._sum(name, action.terms, action.spec)

    def _evaluate(self, name: str, action: Action) -> tuple[TensorSpec, ByteArray]:
        if not isinstance(action, Combine):
            return action.tensor.spec, self._load(action.tensor)
        total = self._sum(name, action.terms, action.spec)
        total.add_(self._stored(action.base, action.spec))
        return action.spec, to_stored(total, action.spec)

    def _load(self, ref: TensorRef) -> ByteArray:
        """Return a stored tensor's bytes, once it is what the list of tensors says."""
        spec, data = self._read(ref.id)
        if spec != ref.spec:
            raise WrongSpec(
                f"object {ref.id} is {spec.dtype} {list(spec.shape)}, but the list of tensors "
                f"says {ref.spec.dtype} {list(ref.spec.shape)}",
                hint="`tvc fsck` says which vectors have that list",
            )
        return data

    def _stored(self, ref: TensorRef, spec: TensorSpec) -> Tensor:
        """Return a stored tensor as numbers, in the type and with the rows of `spec`."""
        numbers = from_stored(ref.spec, self._load(ref), compute_dtype(spec))
        return grow(numbers, spec.shape)

    def _sum(self, name: str, terms: tuple[Scaled, ...], spec: TensorSpec) -> Tensor:
        total = torch.zeros(spec.shape, dtype=compute_dtype(spec))
        for term in terms:
            delta = self._delta(name, term.delta, spec)
            # Multiplied and added in two steps: a fused one rounds differently in the scalar tail.
            total.add_(_scaled(delta, term.coefficient))
        return total

    def _delta(self, name: str, delta: Delta, spec: TensorSpec) -> Tensor:
        match delta:
            case Difference(tuned, parent):
                before_spec, before = self._evaluate(name, parent)
                numbers = from_stored(before_spec, before, compute_dtype(spec))
                return self._stored(tuned, spec).sub_(grow(numbers, spec.shape))
            case LowRank(factors):
                return self._product(factors, spec)
            case Merged():
                return self._merge(name, delta, spec)

    def _product(self, factors: Factors, spec: TensorSpec) -> Tensor:
        """Return `scale * up @ down`, summed in float64 and rounded once."""
        up, down = (
            from_stored(ref.spec, self._load(ref), torch.float64)
            for ref in (factors.up, factors.down)
        )
        product = (up @ down).mul_(float(factors.scale))
        shaped = product.T if factors.transposed else product
        return grow(shaped.to(compute_dtype(spec)).contiguous(), spec.shape)

    def _deltas(self, name: str, merged: Merged, spec: TensorSpec) -> Tensor:
        """Return the members' differences as the method takes them, (k, *shape)."""
        wants_weights = "weights" in self._merges[merged.key].method.wants
        deltas = torch.empty((len(merged.members), *spec.shape), dtype=compute_dtype(spec))
        for index, member in enumerate(merged.members):
            total = self._sum(name, member.terms, spec)
            deltas[index] = total if wants_weights else _scaled(total, member.weight)
        return deltas

    def _merge(self, name: str, merged: Merged, spec: TensorSpec) -> Tensor:
        merge = self._merges[merged.key]
        supplies: dict[str, Callable[[], Tensor | Statistics]] = {
            "weights": lambda: merge.weights,
            "statistics": lambda: merge.statistics,
            "base": partial(self._stored, merged.base, spec),
            "uniforms": partial(_uniforms, name, merged, merge.options, spec),
        }
        deltas = self._deltas(name, merged, spec)
        wanted = {want: supplies[want]() for want in sorted(merge.method.wants)}
        return merge.method.merge(deltas, options=merge.options, **wanted)


def _scaled(delta: Tensor, coefficient: Fraction) -> Tensor:
    return delta if coefficient == 1 else delta * float(coefficient)


def _uniforms(
    name: str, merged: Merged, options: Mapping[str, OptionValue], spec: TensorSpec
) -> Tensor:
    seed = options["seed"]
    assert isinstance(seed, int)
    members = [member.key for member in merged.members]
    return draw_uniforms(seed=seed, tensor=name, members=members, shape=spec.shape)
