"""Apollo and Apollo-Mini: AdamW's step size learned in a small random projection of the gradient.

Zhu et al., arXiv:2412.05270, Algorithm 1. A weight is seen as an m x n matrix with m <= n, turned
where it is tall. Its update is its own gradient, scaled column by column ("channel-wise"; for rank
1, Apollo-Mini, by one number, "tensor-wise"), and the scale is what AdamW would have given to the
gradient's projection on r random directions:

    step 1   P ~ N(0, 1/r) (r x m), new every T steps;  R = P G                          (r x n)
    step 2   M, V = AdamW's moments of R;  R~ = M^ / (sqrt(V^) + eps)
    step 3   s_j = |R~[:, j]| / |R[:, j]|;  U = alpha G diag(s);  W = W - lr U - lr lambda W

with alpha = sqrt(m/r), since the scale learned in r directions is sqrt(r/m) of the whole one
(Theorem 4.2), and the norm-growth limiter that it takes over from Fira (arXiv:2410.01623):
|U_t| <= gamma |U_(t-1)|.

Where this goes beyond the paper, each with the value that takes it away again:

- **The denominator of s_j has a floor** (`floor=0`): |R[:, j]| counts for at least .5 of its own
  running size |sqrt(V^[:, j])|. Otherwise a gradient of a 1e-5th of the usual size, which is noise,
  is scaled up to a whole step, since the momentum in R~ does not shrink with it.
- **The limiter's reference falls by at most 1 % a step** (`keep=0`). Otherwise one small gradient
  (an idle expert, a batch that was masked) holds a matrix back for hundreds of steps, and a zero
  one for ever. The floor needs this: it makes tiny steps, which the limiter would hold on to.
- A projection is drawn again at every step from (seed, name, refresh) and never stored, so that
  neither the order of parameters nor the device means anything.
- No rank exceeds m: there the state is AdamW's.

Loss after 300 steps at lr 1e-2 of a Qwen3 of 0.1 M parameters, mean of two seeds (they are apart by
up to .3 at rank 1, by up to .25 at rank 8 without disturbance), rank 8 and rank 1, 2026-11:

    gradients                         paper        floor alone  keep alone   both
    as they are                       1.43, 1.50   1.43, 1.50   1.45, 1.42   1.43, 1.42
    1 in 7 is noise of 1e-7           1.36, 1.60   3.12, 3.11   1.35, 1.66   1.33, 1.54
    1 in 7 is a 1e-5th of itself      1.38, 1.40   3.12, 3.12   1.39, 1.49   1.33, 1.57
    1 in 7 is zero                    1.34, 1.53   1.33, 1.52   1.33, 1.54   1.33, 1.57

So they cost nothing that would show, and on average gain little: what they prevent are single steps
and standstills (tests/optimizers). A reference of zero counts as none.

AdamW itself updates what has no two sides to project: vectors, scalars, depthwise convolutions;
and, as in the paper, which projects the matrices of attention and MLP, the embedding and the output
head. They are known by name.

Weights sharded by FSDP2 take the same steps: tvc/optimizers/layout.py says who needs what.

Absent: schedules (torch's work, by `group["lr"]`), clipping, and how weights in bfloat16 keep small
steps (tvc/optimizers/differences.py).
"""

import math
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from tvc.domain.errors import InputError
from tvc.optimizers.layout import Layout, gradient_of, local, norm_of

__all__ = ["Apollo", "draw_projection", "is_projected"]

_TABLES = frozenset({"lm_head", "wpe", "wte"})
_TINY = 1e-30
"""Keeps 0 / 0 from the scale of a channel that never had a gradient."""


def is_projected(name: str, shape: Iterable[int]) -> bool:
    """Say whether Apollo's own rule updates this parameter; AdamW does where it does not.

    Args:
        name: The parameter's name, such as `model.layers.0.mlp.up_proj.weight`.
        shape: A matrix (rows, columns), or the matrices of experts (experts, rows, columns).
    """
    sizes = tuple(shape)
    if len(sizes) not in {2, 3} or min(sizes[-2:]) < 2:
        return False
    return not any("embed" in part or part in _TABLES for part in name.split("."))


def draw_projection(
    *, seed: int, name: str, refresh: int, rank: int, size: int, expert: int | None = None
) -> Tensor:
    """Draw P of Algorithm 1: (rank, size), float32 on the CPU, of N(0, 1/rank).

    Args:
        seed: Of the training.
        name: The parameter's; every parameter has projections of its own.
        refresh: How many times it was drawn anew, from 0.
        rank: r, its rows.
        size: m, its columns.
        expert: Which matrix of a stack of experts.
    """
    key = f"{seed}\0{name}\0{refresh}\0{'' if expert is None else expert}"
    digest = blake2b(key.encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(rank, size, generator=generator).div_(math.sqrt(rank))


class Apollo(Optimizer):
    """Apollo (rank > 1) and Apollo-Mini (rank 1); see the module for its equations.

    State, float32: moments of r x n for each matrix, the limiter's reference, and for what AdamW
    updates its two moments. The step counts per parameter, so one that had no gradient waits.

    Args:
        named_parameters: `(name, parameter)` pairs, or parameter groups of such pairs.
        lr: Learning rate.
        rank: r; 1 is Apollo-Mini.
        multiplier: Of sqrt(m/r), a free factor on matrices.
        betas: Decay of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled, lambda in Algorithm 1.
        refresh: T, steps between two projections.
        limit: gamma of the norm-growth limiter; infinite for none.
        keep: The least that the limiter's reference keeps of itself in a step; 0 is the paper.
        floor: The least that a channel's gradient counts for in the denominator of its scale, as
            a share of its running size; 0 is the paper.
        seed: Of the projections.

    Raises:
        TypeError: Parameters have no names.
        InputError: A number is out of its range, or a weight is sharded in several dimensions.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        *,
        lr: float,
        rank: int = 256,
        multiplier: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        refresh: int = 200,
        limit: float = 1.01,
        keep: float = 0.99,
        floor: float = 0.5,
        seed: int = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "rank": rank,
            "multiplier": multiplier,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "refresh": refresh,
            "limit": limit,
            "keep": keep,
            "floor": floor,
            "seed": seed,
        }
        super().__init__(named_parameters, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own, which are checked."""
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        if "param_names" not in added:
            raise TypeError("Apollo needs named parameters: pass model.named_parameters()")
        _check(added)
        for name, weight in _pairs(added):
            if is_projected(name, weight.shape):
                Layout.of(name, weight)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient.

        Args:
            closure: Computes the loss again, as for every optimizer of torch.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for name, weight in _pairs(group):
                if weight.grad is None:
                    continue
                if is_projected(name, weight.shape):
                    _update_matrix(name, weight, self.state[weight], group)
                else:
                    _update_by_adamw(weight, self.state[weight], group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, in float32 whatever the type of the weights.

        Args:
            state_dict: What `state_dict` of an optimizer over the same parameters returned.

        Raises:
            InputError: Its parameters have other names, or stand in another order.
        """
        names = [[*group["param_names"]] for group in self.param_groups]
        if [[*group.get("param_names", ())] for group in state_dict["param_groups"]] != names:
            raise InputError("the state is of an optimizer over other parameters")
        super().load_state_dict(state_dict)
        # torch casts state to the type of the weight, which would round the moments of bfloat16.
        weights = [weight for group in self.param_groups for weight in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, weight in zip(numbers, weights, strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                place = torch.device("cpu") if key == "step" else weight.device
                self.state[weight][key] = value.to(place, torch.float32, copy=True)


def _pairs(group: dict[str, Any]) -> Iterable[tuple[str, Tensor]]:
    return zip(group["param_names"], group["params"], strict=True)


def _check(group: dict[str, Any]) -> None:
    one, two = group["betas"]
    allowed = {
        "lr": (0 <= group["lr"] < math.inf, "a number from 0"),
        "rank": (isinstance(group["rank"], int) and group["rank"] >= 1, "a whole number from 1"),
        "multiplier": (0 < group["multiplier"] < math.inf, "a number above 0"),
        "betas": (0 <= one < 1 and 0 <= two < 1, "two numbers from 0 to below 1"),
        "eps": (0 < group["eps"] < math.inf, "a number above 0"),
        "weight_decay": (0 <= group["weight_decay"] < math.inf, "a number from 0"),
        "refresh": (group["refresh"] >= 1, "a whole number from 1"),
        "limit": (group["limit"] >= 1, "a number from 1"),
        "keep": (0 <= group["keep"] <= 1, "a number from 0 to 1"),
        "floor": (0 <= group["floor"] <= 1, "a number from 0 to 1"),
    }
    for option, (fits, range_) in allowed.items():
        if not fits:
            raise InputError(f"{option} cannot be {group[option]}", hint=f"it is {range_}")


def _project(
    name: str, grad: Tensor, layout: Layout, refresh: int, group: dict[str, Any]
) -> Tensor:
    """Step 1: R = P G, (…, r, n) float32; summed where a part of the rows is here.

    Args:
        name: Of the weight.
        grad: (…, m, n) float32, what is here of it.
        layout: Of the weight.
        refresh: How many times projections were drawn anew.
        group: Its options.
    """
    rank = min(group["rank"], layout.small)
    projection = grad.new_empty(*grad.shape[:-2], rank, grad.shape[-2])
    for place, expert in zip(
        projection.reshape(-1, *projection.shape[-2:]), layout.experts, strict=True
    ):
        drawn = draw_projection(
            seed=group["seed"],
            name=name,
            refresh=refresh,
            rank=rank,
            size=layout.small,
            expert=expert,
        )
        place.copy_(drawn[:, layout.rows])
    return layout.total(projection @ grad, shared=layout.sums)


def _update_matrix(
    name: str, weight: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    """Make one step of Algorithm 1."""
    layout = Layout.of(name, weight)
    if not state:
        rank = min(group["rank"], layout.small)
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = layout.moment(rank), layout.moment(rank)
        state["reference"] = layout.numbers()
    state["step"] += 1
    step = int(state["step"])
    grad = layout.view(gradient_of(weight)).float()
    # Step 1.
    projected = _project(name, grad, layout, (step - 1) // group["refresh"], group)
    # Step 2.
    adapted, running = _adapt(projected, state, step, group)
    # Step 3: a scale for each channel, or of rank 1 one for all.
    over = (-2, -1) if group["rank"] == 1 else (-2,)
    shared = layout.spread and group["rank"] == 1
    above, below, usual = (
        layout.norm(each, over=over, shared=shared) for each in (adapted, projected, running)
    )
    below = torch.maximum(below, group["floor"] * usual).clamp_min_(_TINY)
    alpha = group["multiplier"] * math.sqrt(layout.small / projected.shape[-2])
    scale = alpha * above / below
    # The norm of G diag(s), by channels: the product is never made.
    channels = norm_of(grad, over=over) * scale
    norm = layout.norm(channels, over=(-2, -1), shared=layout.spread or layout.sums)
    scale *= _limit(norm, local(state["reference"]), group)
    _change(
        layout.view(local(weight)),
        group,
        lambda wide: wide.addcmul_(grad, scale, value=-group["lr"]),
    )


def _adapt(
    grad: Tensor, state: dict[str, Tensor], step: int, group: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Step 2: update AdamW's moments; return M^ / (sqrt(V^) + eps), and sqrt(V^)."""
    one, two = group["betas"]
    mean, square = local(state["exp_avg"]), local(state["exp_avg_sq"])
    mean.lerp_(grad, 1 - one)
    square.mul_(two).addcmul_(grad, grad, value=1 - two)
    running = square.sqrt().div_(math.sqrt(1 - two**step))
    return (mean / (running + group["eps"])).div_(1 - one**step), running


def _limit(norm: Tensor, reference: Tensor, group: dict[str, Any]) -> Tensor:
    """Return what the norm-growth limiter leaves of an update, and move its reference.

    Args:
        norm: Of the update, (…, 1, 1).
        reference: Of the updates before, (…, 1, 1); 0 before the first one. Changed in place.
        group: gamma is `limit`; `keep` is what the reference keeps at least.
    """
    allowed = (group["limit"] * reference / norm).clamp_(max=1)
    left = torch.where(reference > 0, allowed, 1.0)
    torch.maximum(norm * left, group["keep"] * reference, out=reference)
    return left


def _change(weight: Tensor, group: dict[str, Any], update: Callable[[Tensor], object]) -> None:
    """Decay a weight and update it, rounding once where its type is narrower than float32."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if group["weight_decay"]:
        wide.mul_(1 - group["lr"] * group["weight_decay"])
    update(wide)
    if wide is not weight:
        weight.copy_(wide)


def _update_by_adamw(weight: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """Update what is not projected: AdamW, Loshchilov and Hutter, arXiv:1711.05101."""
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"] = torch.zeros_like(weight, dtype=torch.float32)
        state["exp_avg_sq"] = torch.zeros_like(weight, dtype=torch.float32)
    state["step"] += 1
    step, grad, here = int(state["step"]), gradient_of(weight).float(), local(weight)
    if here.dtype == torch.float32 and here.device.type in {"cpu", "cuda"}:
        _update_by_fused_adamw(here, grad, state, step, group)
    else:
        adapted, _ = _adapt(grad, state, step, group)
        _change(here, group, lambda wide: wide.add_(adapted, alpha=-group["lr"]))


def _update_by_fused_adamw(
    weight: Tensor, grad: Tensor, state: dict[str, Tensor], step: int, group: dict[str, Any]
) -> None:
    """Use torch's own kernel: embeddings are large, and it is 20 times as fast as the equations."""
    adamw(
        [weight],
        [grad],
        [local(state["exp_avg"])],
        [local(state["exp_avg_sq"])],
        [],
        [torch.tensor(float(step - 1), device=weight.device)],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
