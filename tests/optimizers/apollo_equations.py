"""Algorithm 1 of arXiv:2412.05270 written plainly in float64, for one matrix."""

import math

import torch
from torch import Tensor


def train(
    weight: Tensor,
    gradients: list[Tensor],
    draw,
    *,
    lr: float,
    rank: int,
    betas=(0.9, 0.999),
    eps=1e-8,
    decay=0.0,
    refresh=200,
    limit=1.01,
    keep=0.99,
    floor=0.5,
) -> Tensor:
    """Return the weight after one step for each gradient; `draw(refresh, rank, size)` is P."""
    tall = weight.shape[0] >= weight.shape[1]
    w = (weight.T if tall else weight).double()
    m = w.shape[0]
    r = min(rank, m)
    first = second = torch.zeros(r, w.shape[1]).double()
    before = None
    for t, gradient in enumerate(gradients, start=1):
        g = (gradient.T if tall else gradient).double()
        projected = draw((t - 1) // refresh, r, m).double() @ g
        first = betas[0] * first + (1 - betas[0]) * projected
        second = betas[1] * second + (1 - betas[1]) * projected**2
        root = (second / (1 - betas[1] ** t)).sqrt()
        adapted = first / (1 - betas[0] ** t) / (root + eps)
        if rank == 1:
            scale = adapted.norm() / max(projected.norm(), floor * root.norm())
        else:
            least = torch.maximum(projected.norm(dim=0), floor * root.norm(dim=0))
            scale = adapted.norm(dim=0) / least
        update = math.sqrt(m / r) * g @ torch.diag(torch.ones(w.shape[1]).double() * scale)
        size = update.norm()
        if before is None:
            before = size
        else:
            allowed = min(size, limit * before)
            update = update * allowed / size
            before = max(allowed, keep * before)
        w = w - lr * update - lr * decay * w
    return w.T if tall else w
