"""How far two recipes are apart in weights: which share of them differs, bit by bit."""

from collections.abc import Callable
from dataclasses import dataclass

from tvc.domain.plan import plan
from tvc.domain.recipe import Recipe
from tvc.evaluation.bits import changed_elements
from tvc.evaluation.engine import Evaluator, run_each
from tvc.repository.objects import Objects

__all__ = ["Change", "differing_bytes", "measure_change"]


@dataclass(frozen=True, slots=True)
class Change:
    """How far two models are apart.

    Args:
        elements: Number of elements that differ in a bit.
        of: Number of elements.
        tensors: Number of tensors that differ.
        of_tensors: Number of tensors.
    """

    elements: int
    of: int
    tensors: int
    of_tensors: int

    @property
    def share(self) -> float:
        """Share of the elements that differ, 0 to 1."""
        return self.elements / max(self.of, 1)


def measure_change(
    objects: Objects,
    before: Recipe,
    after: Recipe,
    *,
    workers: int = 2,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Change:
    """Compare the models that two recipes give; tensors planned alike are not looked at.

    Args:
        objects: Where weights come from; its library knows the vectors of both.
        before: In normal form.
        after: In normal form.
        workers: Tensors at a time.
        on_bytes: Called with the size of every tensor compared.
    """
    old, new = plan(before, objects.library), plan(after, objects.library)
    evaluators = [Evaluator(objects.read_tensor, each, workers=workers) for each in (old, new)]
    for evaluator in evaluators:
        evaluator.prepare()
    counts: dict[str, int] = {}

    def compare(name: str) -> None:
        if name not in old.actions:
            counts[name] = new.specs()[name].numel
            return
        (spec, data), (other_spec, other) = (each.tensor(name) for each in reversed(evaluators))
        counts[name] = changed_elements(spec, data, other_spec, other)
        on_bytes(spec.nbytes)

    differing = [name for name in new.actions if old.actions.get(name) != new.actions[name]]
    run_each(compare, differing, workers=workers)
    specs = new.specs()
    return Change(
        sum(counts.values()),
        sum(spec.numel for spec in specs.values()),
        sum(1 for count in counts.values() if count),
        len(specs),
    )


def differing_bytes(objects: Objects, before: Recipe, after: Recipe) -> int:
    """Return the bytes that `measure_change` will report, for its progress."""
    old, new = plan(before, objects.library), plan(after, objects.library)
    specs = new.specs()
    return sum(specs[n].nbytes for n in new.actions if old.actions.get(n) != new.actions[n])
