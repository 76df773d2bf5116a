"""`della` and `della_linear`: random dropping that favours large elements."""

from collections.abc import Mapping
from typing import Annotated, cast

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from tvc.merging.kernels import row_order
from tvc.merging.method import merge_method
from tvc.merging.mixing import (
    Election,
    Normalize,
    WeightsAfterElection,
    merge_elected,
    weighted_sum,
)
from tvc.merging.options import Number, OptionError
from tvc.merging.passes import Statistics
from tvc.merging.selection import magnitudes
from tvc.merging.sparsifying import (
    Density,
    Rescale,
    Sizes,
    dropped,
    per_member,
    rows_of,
    size_ratios,
)

__all__ = ["della", "della_linear"]

Epsilon = Annotated[
    float | tuple[float, ...],
    Number(
        "half the range of the probabilities: the smallest element of a row is kept with "
        "density - epsilon, the largest with density + epsilon",
        minimum=0,
        maximum=0.5,
        per_member=True,
    ),
]


def keep_probabilities(
    delta: Float[Tensor, "*shape"], density: float, epsilon: float
) -> Float[Tensor, "*shape"]:
    """Return with what probability each element is kept (DELLA, section 3.1, equation 3).

    It rises with the rank of the element's magnitude within its row, in equal steps. Equal
    magnitudes have ranks in the order of their places. A row of one element has the density.

    Args:
        delta: (*shape).
        density: Mean probability.
        epsilon: Half the range.

    Raises:
        OptionError: A probability would be below 0 or above 1.
    """
    low, high = density - epsilon, density + epsilon
    if low < 0 or high > 1:
        raise OptionError(
            f"density {density:g} ± epsilon {epsilon:g} is no probability: {low:g} to {high:g}",
            hint="choose a smaller epsilon",
        )
    rows = rows_of(magnitudes(delta))
    steps = rows.shape[1] - 1
    order = torch.from_numpy(row_order(rows.contiguous().numpy()).view(np.int32))  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial
    # By the place in the order: what the smallest, the next, … element is kept with.
    place = torch.arange(rows.shape[1], dtype=delta.dtype) / max(1, steps)
    ladder = low + place * (2 * epsilon) if steps > 0 else torch.full_like(place, density)
    chances = torch.empty(rows.shape, dtype=delta.dtype)
    chances.scatter_(1, order.long(), ladder.expand(rows.shape))
    return chances.reshape(delta.shape)


def drop_small(
    deltas: Float[Tensor, "k *shape"],
    uniforms: Float32[Tensor, "k *shape"],
    *,
    density: float | tuple[float, ...],
    epsilon: float | tuple[float, ...],
    rescale: str,
    statistics: Statistics,
) -> list[Tensor]:
    """Drop elements at random, small ones more often, and rescale the rest (section 3.1).

    Args:
        deltas: (k, *shape).
        uniforms: (k, *shape), in [0, 1).
        statistics: The results of the passes.
        density: Mean probability with which elements are kept.
        epsilon: Half the range of the probabilities.
        rescale: "density" (the paper's 1 / (1 - pᵢ), element by element), "l1" or "none".
        statistics: For "l1", the result of `DroppedSizes`.
    """
    ratios = size_ratios(statistics, len(deltas))
    kept: list[Tensor] = []
    shares, ranges = per_member(density, len(deltas)), per_member(epsilon, len(deltas))
    members = zip(deltas, uniforms, shares, ranges, ratios, strict=True)
    for delta, draws, share, half, ratio in members:
        chances = keep_probabilities(delta, share, half)
        kept.append(dropped(delta, draws, chances, rescale=rescale, ratio=ratio))
    return kept


class DroppedSizes(Sizes):
    """Sizes of members, and of what the draws leave of them."""

    wants = frozenset({"uniforms"})

    def kept(self, deltas: Tensor, supplies: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what is left of each member."""
        options = self.options
        return drop_small(
            deltas,
            supplies["uniforms"],
            density=cast("float | tuple[float, ...]", options["density"]),
            epsilon=cast("float | tuple[float, ...]", options["epsilon"]),
            rescale="none",
            statistics={},
        )


@merge_method(
    "della",
    summary="Random dropping that favours large elements, then TIES' election of signs.",
    paper="arXiv:2406.11617",
    passes=(DroppedSizes,),
    unit="row",
)
def della(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    uniforms: Float32[Tensor, "k *shape"],
    statistics: Statistics,
    density: Density = 0.5,
    epsilon: Epsilon = 0.15,
    rescale: Rescale = "density",
    election: Election = "mass",
    normalize: Normalize = "count",
    weights_after_election: WeightsAfterElection = False,
) -> Float[Tensor, "*shape"]:
    """Drop, elect, fuse, Deep et al., section 3.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        uniforms: (k, *shape), in [0, 1).
        statistics: The results of the passes.
        density: Mean probability with which an element is kept.
        epsilon: Half the range of the probabilities.
        rescale: How the sum is kept in expectation.
        election: What elects signs.
        normalize: The divisor.
        weights_after_election: Whether the election is unweighted.

    Raises:
        OptionError: A probability would be below 0 or above 1.
    """
    return merge_elected(
        drop_small(
            deltas,
            uniforms,
            density=density,
            epsilon=epsilon,
            rescale=rescale,
            statistics=statistics,
        ),
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
    )


@merge_method(
    "della_linear",
    summary="Sum of vectors with random elements dropped, large ones less often.",
    paper="arXiv:2406.11617",
    passes=(DroppedSizes,),
    unit="row",
)
def della_linear(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    uniforms: Float32[Tensor, "k *shape"],
    statistics: Statistics,
    density: Density = 0.5,
    epsilon: Epsilon = 0.15,
    rescale: Rescale = "density",
) -> Float[Tensor, "*shape"]:
    """Drop as DELLA does (section 3.1), then add.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        uniforms: (k, *shape), in [0, 1).
        statistics: The results of the passes.
        density: Mean probability with which an element is kept.
        epsilon: Half the range of the probabilities.
        rescale: How the sum is kept in expectation.

    Raises:
        OptionError: A probability would be below 0 or above 1.
    """
    left = drop_small(
        deltas,
        uniforms,
        density=density,
        epsilon=epsilon,
        rescale=rescale,
        statistics=statistics,
    )
    return weighted_sum(left, weights)
