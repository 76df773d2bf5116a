"""How much differences of recipes are in each other's way, in total and per layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tvc.domain.parts import layer_of, natural_key
from tvc.domain.plan import Plan
from tvc.domain.planning import plan_difference
from tvc.domain.recipe import Recipe, Sum
from tvc.evaluation.engine import Evaluator, run_each
from tvc.merging.interference import Interference, by_group, combined, measure
from tvc.repository.objects import Objects

__all__ = ["Clashes", "measure_interference"]


@dataclass(frozen=True, slots=True)
class Clashes:
    """Interference of several differences.

    Args:
        names: What the differences are called, in order.
        total: Over all tensors.
        layers: By layer, in the order of the model's numbers.
    """

    names: tuple[str, ...]
    total: Interference
    layers: dict[str, Interference]


def measure_interference(
    objects: Objects,
    base: str,
    differences: Sequence[tuple[str, Sum]],
    *,
    density: float,
    workers: int = 2,
    on_plan: Callable[[int], Callable[[int], None]],
) -> Clashes | None:
    """Compare differences of recipes pairwise; None where no floating tensor is changed by any.

    Args:
        objects: Where weights come from; its library knows all vectors.
        base: Id of the base that the differences stand on.
        differences: Name and terms in normal form.
        density: Share of each tensor that counts as large.
        workers: Tensors at a time.
        on_plan: Called with the bytes to be compared; returns the function told of progress.
    """
    plans = [plan_difference(Recipe(base, terms), objects.library) for _, terms in differences]
    evaluators = [Evaluator(objects, each, workers=workers, cache=objects.cache) for each in plans]
    names = sorted({name for each in plans for name in each.actions}, key=natural_key)
    if not names:
        return None
    for evaluator in evaluators:
        evaluator.prepare()
    shapes = {name: _shape(plans, name) for name in names}
    found: dict[str, Interference] = {}
    sizes = {name: 4 * math.prod(shapes[name]) for name in names}
    on_bytes = on_plan(sum(sizes.values()))

    def compare(name: str) -> None:
        stacked = torch.zeros((len(plans), *shapes[name]))
        for index, each in enumerate(plans):
            if name in each.actions:
                # A vocabulary that grew in one difference only has no rows in the others.
                delta = torch.from_numpy(evaluators[index].difference(name))  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial
                rows = slice(delta.shape[0]) if delta.dim() else ...
                stacked[index][rows] = delta
        found[name] = measure(stacked, density=density)
        on_bytes(sizes[name])

    run_each(compare, names, workers=workers)
    parts = [(layer_of(name), found[name]) for name in names]
    labels = tuple(label for label, _ in differences)
    return Clashes(labels, combined(found[name] for name in names), by_group(parts))


def _shape(plans: Sequence[Plan], name: str) -> tuple[int, ...]:
    shapes = [each.specs()[name].shape for each in plans if name in each.actions]
    return max(shapes, key=lambda shape: shape[0] if shape else 0)
