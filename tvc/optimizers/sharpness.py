"""Directional sharpness: how the loss curves along the step that an optimizer would make.

v^T H v for the unit vector v of an optimizer's update (Pan and Li, arXiv:2306.00204; table 10 of
arXiv:2412.05270), by exact Hessian-vector products or, from forward passes only, by second
differences of the loss. Beside it the slope g.v, and slope^2 / (2 v^T H v), by which the loss would
fall at the best length of that step: the flattest direction need not be the best one.

How optimizers are compared: all see the gradients of one AdamW trajectory, so that each has the
moments that it would have there, and all directions at one point are measured on one batch that
none of them has seen. So their differences are taken batch by batch, and the confidence is over
batches.

Where a model has experts, the exact figure is that of fixed routing. The loss itself jumps when a
token goes to another expert, which the estimate sees and no derivative does: on random models of
that kind the two have nothing in common. On smooth ones they agree to some tenths of a percent.

The order of the paper's table, SGD > Adam > Apollo > Apollo-Mini, does not show on small problems
(tests/optimizers/test_paper_order.py): there SGD > Apollo-Mini > Apollo > AdamW, because AdamW's
momentum averages over batches; without momentum it is as sharp as Apollo. And the flattest, AdamW,
has the smallest decrease.

Absent: the model and its data (they are a function of a batch), and weights other than those given.
"""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from tvc.domain.errors import InputError
from tvc.optimizers.building import make_optimizer
from tvc.optimizers.readings import Reading

__all__ = [
    "NoSecondDerivative",
    "directional_sharpness",
    "estimate_sharpness",
    "exact_attention",
    "measure_sharpness",
]

Batch = TypeVar("Batch")
Vector = Sequence[Tensor]
"""A tensor for each weight, of its shape."""

MakeOptimizer = Callable[[Iterable[tuple[str, Tensor]]], Optimizer]

_FIRST, _LONGEST, _TRIES, _TARGET = 2e-4, 0.05, 4, 1e-4


class NoSecondDerivative(InputError):
    """The loss goes through an operation that can be differentiated once only."""


@contextmanager
def exact_attention() -> Generator[None]:
    """Use the attention kernel that has a second derivative: torch's fused ones have none."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def directional_sharpness(
    loss: Tensor, weights: Vector, directions: Iterable[Vector]
) -> list[Reading]:
    """Measure slope and curvature along directions, by one double backward each.

    Args:
        loss: A scalar with its graph, computed under `exact_attention`.
        weights: What it depends on; float32 or float64.
        directions: Each a tensor for each weight; they are measured at length 1.

    Raises:
        InputError: A direction is zero or not finite.
        NoSecondDerivative: An operation has none.
    """
    gradient = torch.autograd.grad(
        loss, weights, create_graph=True, allow_unused=True, materialize_grads=True
    )
    found: list[Reading] = []
    for direction in directions:
        unit = _unit(direction)
        slope = _dot(gradient, unit)
        product = _product(slope, weights)
        found.append(Reading(slope.item(), _dot(product, unit).item()))
    return found


def _product(slope: Tensor, weights: Vector) -> Vector:
    """Return H v, which is the gradient of g.v."""
    if not slope.requires_grad:  # the loss is linear in all weights
        return [torch.zeros_like(each) for each in weights]
    try:
        return torch.autograd.grad(
            slope, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise NoSecondDerivative(
            f"the model cannot be differentiated twice: {str(error).splitlines()[0]}",
            hint="estimate its sharpness from forward passes instead",
        ) from error


@torch.no_grad()
def estimate_sharpness(
    loss: Callable[[], Tensor], weights: Vector, directions: Iterable[Vector]
) -> list[Reading]:
    """Estimate slope and curvature along directions from losses alone.

    Central differences: (L(+h) - L(-h)) / 2h and (L(+h) - 2 L(0) + L(-h)) / h^2. Their error is of
    the order h^2 from higher derivatives, and of the loss's own rounding divided by h and by h^2;
    so h is sought, in at most four tries of two losses each, at which the second difference is
    1e-4 of the loss, and at most .05 of the norm of the weights. The slope, which needs no
    such distance, is that of the shortest try. Weights narrower than float32 give no usable
    estimate.

    Args:
        loss: Computes the loss of the weights as they are.
        weights: Float32 or float64; they are moved, and have their values again afterwards.
        directions: As of `directional_sharpness`.

    Raises:
        InputError: A direction is zero or not finite.
    """
    kept = [each.clone() for each in weights]

    def at(distance: float, direction: Vector) -> float:
        for weight, start, way in zip(weights, kept, direction, strict=True):
            weight.copy_(start + distance * way)
        return loss().double().item()

    size, here = _norm(weights), loss().double().item()
    try:
        return [
            _second_difference(partial(at, direction=_unit(direction)), here, size)
            for direction in directions
        ]
    finally:
        for weight, start in zip(weights, kept, strict=True):
            weight.copy_(start)


def _second_difference(at: Callable[[float], float], here: float, size: float) -> Reading:
    """Read off slope and curvature at 0.

    Args:
        at: The loss at a distance.
        here: That at 0.
        size: The norm of the weights, which the distance is a small share of.
    """
    length = _FIRST * size
    shortest, slope, curvature = math.inf, 0.0, 0.0
    for _ in range(_TRIES):
        ahead, behind = at(length), at(-length)
        second = ahead - 2 * here + behind
        curvature = second / length**2
        if length < shortest:
            shortest, slope = length, (ahead - behind) / (2 * length)
        share = abs(second) / (_TARGET * abs(here) or 1)
        better = min(length * min(max(share, 1 / 64) ** -0.5, 8), _LONGEST * size)
        if 0.25 <= share <= 4 or better == length:
            break
        length = better
    return Reading(slope, curvature)


def measure_sharpness(
    loss: Callable[[Batch], Tensor],
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    batches: Sequence[Batch],
    *,
    optimizers: Mapping[str, MakeOptimizer],
    warmup: int,
    lr: float,
    estimate: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, list[Reading]]:
    """Measure the directions of optimizers along one trajectory.

    Every batch but the last makes one AdamW step of the weights. After `warmup` of them, the
    directions that follow from a batch are measured before its step is made, on the next batch. The
    weights are left where the trajectory ends.

    Args:
        loss: Computes the mean loss of a batch, a scalar with its graph.
        named_parameters: The weights that are moved and measured; float32 or float64.
        batches: `warmup`, and one more than there are to be readings.
        optimizers: By name, what makes each; at a learning rate of 1 and without weight decay.
        warmup: Steps before the first reading.
        lr: Of the trajectory.
        estimate: Use `estimate_sharpness` instead of exact products.
        on_step: Called after every step of the trajectory.

    Returns:
        For each optimizer its readings, in the order of the batches.

    Raises:
        InputError: There are too few batches, `lr` is no rate, or a loss is not finite.
    """
    if warmup < 0 or len(batches) < warmup + 2:
        raise InputError(f"{len(batches)} batches are too few for {warmup} steps and one reading")
    named = list(named_parameters)
    weights, probe = [weight for _, weight in named], _Probe(named, optimizers)
    trajectory = make_optimizer("adamw", named, lr=lr)
    found: dict[str, list[Reading]] = {name: [] for name in optimizers}
    for number, (batch, unseen) in enumerate(pairwise(batches)):
        gradient = _gradient(loss(batch), weights, number)
        directions = probe.directions(gradient)
        if number >= warmup:
            measured = _measure(loss, unseen, weights, directions.values(), estimate=estimate)
            for name, reading in zip(directions, measured, strict=True):
                found[name].append(reading)
        _step(trajectory, weights, gradient)
        on_step()
    return found


class _Probe:
    """Optimizers that see gradients and move nothing but weights of their own, which are zero.

    Without decay, no step depends on where the weights are.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        optimizers: Mapping[str, MakeOptimizer],
    ) -> None:
        shadows = [(name, nn.Parameter(torch.zeros_like(weight))) for name, weight in named]
        self._shadows = [shadow for _, shadow in shadows]
        self._optimizers = {name: make(shadows) for name, make in optimizers.items()}

    def directions(self, gradient: Vector) -> dict[str, list[Tensor]]:
        """Return the step that each makes from a gradient."""
        found: dict[str, list[Tensor]] = {}
        for name, optimizer in self._optimizers.items():
            for shadow in self._shadows:
                shadow.detach().zero_()
            _step(optimizer, self._shadows, gradient)
            found[name] = [shadow.detach().clone() for shadow in self._shadows]
        return found


def _step(optimizer: Optimizer, weights: Sequence[nn.Parameter], gradient: Vector) -> None:
    for weight, grad in zip(weights, gradient, strict=True):
        weight.grad = grad.clone()
    optimizer.step()
    optimizer.zero_grad()


def _measure(
    loss: Callable[[Batch], Tensor],
    batch: Batch,
    weights: Vector,
    directions: Iterable[Vector],
    *,
    estimate: bool,
) -> list[Reading]:
    if estimate:
        return estimate_sharpness(lambda: loss(batch), weights, directions)
    with exact_attention():
        return directional_sharpness(loss(batch), weights, directions)


def _gradient(loss: Tensor, weights: Vector, number: int) -> Vector:
    if not loss.isfinite():
        raise InputError(
            f"the loss of batch {number + 1} is {loss.item()}", hint="try a lower learning rate"
        )
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def _unit(direction: Vector) -> list[Tensor]:
    norm = _norm(direction)
    if not 0 < norm < math.inf:
        raise InputError(f"a direction of length {norm} has no sharpness")
    return [each / norm for each in direction]


def _norm(vector: Vector) -> float:
    return math.sqrt(sum(each.double().square().sum().item() for each in vector))


def _dot(one: Vector, other: Vector) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
