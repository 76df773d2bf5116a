"""What the sparsifying methods share: options given per member, and rescaling of what is left.

Which elements are dropped is each method's own affair (`ties`, `dare`, `della`, `breadcrumbs`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from tvc.merging import elections
from tvc.merging.options import Choice, Number
from tvc.merging.passes import Options, Part, Pass, Scope, Statistics
from tvc.merging.reductions import absolute_sum

__all__ = ["Density", "Rescale", "Sizes", "dropped", "per_member", "rows_of", "size_ratios"]

Density = Annotated[
    float | tuple[float, ...],
    Number("share of elements that each member keeps", minimum=0, maximum=1, per_member=True),
]
Rescale = Annotated[
    str,
    Choice(
        "divide what is kept by its probability (density), restore the sum of magnitudes (l1), "
        "or leave it (none)",
        ("density", "l1", "none"),
    ),
]

_NEGLIGIBLE = 1e-7
"""Sums of magnitudes below this are not rescaled to, as in mergekit: the ratio is noise."""


def per_member(option: float | tuple[float, ...], members: int) -> tuple[float, ...]:
    """Return one number for each member.

    Args:
        option: One number for all, or one for each.
        members: k.
    """
    return option if isinstance(option, tuple) else (option,) * members


def dropped(
    delta: Float[Tensor, "*shape"],
    draws: Float32[Tensor, "*shape"],
    chances: Float[Tensor, "*shape"] | float,
    *,
    rescale: str,
    ratio: float,
) -> Float[Tensor, "*shape"]:
    """Drop the elements whose draw is not below their chance, and make up for them.

    Args:
        delta: The member.
        draws: In [0, 1).
        chances: With which each element is kept, in [0, 1].
        rescale: "density" (what is left is divided by its chance), "l1" or "none".
        ratio: For "l1", by what the size shrank.
    """
    flat = delta.reshape(-1).contiguous().numpy()
    each = torch.as_tensor(chances, dtype=delta.dtype).expand(delta.shape).reshape(-1).contiguous()
    uniforms = draws.reshape(-1).contiguous().numpy()
    left = elections.drop(flat, uniforms, each.numpy(), divide=rescale == "density")
    kept = torch.from_numpy(left).reshape(delta.shape)  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial
    return kept * ratio if rescale == "l1" else kept


class Sizes(Pass):
    """Sums of magnitudes of members, before and after they are made sparse: (k, 2) float64."""

    name = "sizes"

    @abstractmethod
    def kept(self, deltas: Tensor, supplies: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what is left of each member, of one block."""

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say whether sizes are restored."""
        return "tensor" if options["rescale"] == "l1" else None

    def part(self) -> Part:
        """Return what is to observe the tensor."""
        return _Sizes(self)

    def add(self, part: Part) -> None:
        """Keep what was seen of the tensor."""
        assert isinstance(part, _Sizes)
        self._totals = part.totals

    def result(self) -> Tensor:
        """Return the sums, (k, 2) float64."""
        return torch.tensor(self._totals, dtype=torch.float64)


class _Sizes(Part):
    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self.totals = [[0.0, 0.0] for _ in range(sizes.members)]

    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        left = self._sizes.kept(deltas, supplies)
        for total, before, after in zip(self.totals, deltas, left, strict=True):
            total[:] = absolute_sum(before, total[0]), absolute_sum(after, total[1])


def size_ratios(statistics: Statistics, members: int) -> list[float]:
    """Return by what each member's size shrank; 1 where it was not asked for, or is noise."""
    if Sizes.name not in statistics:
        return [1.0] * members
    sums: list[list[float]] = statistics[Sizes.name].tolist()  # pyright: ignore[reportUnknownVariableType]  # torch does not say
    return [before / after if min(before, after) >= _NEGLIGIBLE else 1.0 for before, after in sums]


def rows_of(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "rows n"]:
    """View a tensor as rows: one for each index of its first axis; a vector is one row."""
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)
    return tensor.reshape(tensor.shape[0], -1) if tensor.numel() else tensor.reshape(0, 1)
