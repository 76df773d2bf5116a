"""How far two recipes are apart in weights: which share of them differs, bit by bit."""

from collections.abc import Callable
from dataclasses import dataclass

from tvc.domain.planning import plan
from tvc.domain.recipe import Recipe
from tvc.evaluation.bits import changed_elements
from tvc.evaluation.engine import Evaluator, run_each
from tvc.repository.objects import Objects

__all__ = ["ModelChange", "measure_change"]


@dataclass(frozen=True, slots=True)
class ModelChange:
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
    on_plan: Callable[[int], Callable[[int], None]],
) -> ModelChange:
    """Compare the models that two recipes give; tensors planned alike are not looked at.

    Args:
        objects: Where weights come from; its library knows the vectors of both.
        before: In normal form.
        after: In normal form.
        workers: Tensors at a time.
        on_plan: Called with the bytes to be compared; returns the function told of progress.
    """
    old, new = plan(before, objects.library), plan(after, objects.library)
    specs = new.specs()
    differing = [name for name in new.actions if old.actions.get(name) != new.actions[name]]
    evaluators = [
        Evaluator(objects, each, workers=workers, cache=objects.cache) for each in (old, new)
    ]
    counts: dict[str, int] = {}
    if differing:
        for evaluator in evaluators:
            evaluator.prepare()
    on_bytes = on_plan(sum(specs[name].nbytes for name in differing))

    def compare(name: str) -> None:
        if name not in old.actions:
            counts[name] = specs[name].numel
        else:
            (spec, data), (other_spec, other) = (each.tensor(name) for each in evaluators[::-1])
            counts[name] = changed_elements(spec, data, other_spec, other)
        on_bytes(specs[name].nbytes)

    run_each(compare, differing, workers=workers)
    return ModelChange(
        sum(counts.values()),
        sum(spec.numel for spec in specs.values()),
        sum(1 for count in counts.values() if count),
        len(specs),
    )
