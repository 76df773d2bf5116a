"""`dare` and `dare_ties`: random dropping of elements. The draws themselves are the engine's."""

from collections.abc import Mapping
from typing import cast

from jaxtyping import Float, Float32
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import (
    Election,
    Normalize,
    WeightsAfterElection,
    merge_elected,
    weighted_sum,
)
from tvc.merging.passes import Statistics
from tvc.merging.sparsifying import Density, Rescale, Sizes, dropped, per_member, size_ratios

__all__ = ["dare", "dare_ties"]


def drop(
    deltas: Float[Tensor, "k *shape"],
    uniforms: Float32[Tensor, "k *shape"],
    *,
    density: float | tuple[float, ...],
    rescale: str,
    statistics: Statistics,
) -> list[Tensor]:
    """Drop elements at random and rescale the rest (DARE, equation 2).

    Args:
        deltas: (k, *shape).
        uniforms: (k, *shape), in [0, 1); an element is kept where its draw is below the density.
        density: Probability with which elements are kept.
        rescale: "density" (the paper's 1 / (1 - p)), "l1" or "none".
        statistics: For "l1", the result of `DroppedSizes`.
    """
    shares = per_member(density, len(deltas))
    ratios = size_ratios(statistics, len(deltas))
    return [
        dropped(delta, draws, share, rescale=rescale, ratio=ratio)
        for delta, draws, share, ratio in zip(deltas, uniforms, shares, ratios, strict=True)
    ]


class DroppedSizes(Sizes):
    """Sizes of members, and of what the draws leave of them."""

    wants = frozenset({"uniforms"})

    def kept(self, deltas: Tensor, supplies: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what is left of each member."""
        shares = per_member(cast("float | tuple[float, ...]", self.options["density"]), len(deltas))
        draws = supplies["uniforms"]
        return [
            dropped(delta, draw, share, rescale="none", ratio=1)
            for delta, draw, share in zip(deltas, draws, shares, strict=True)
        ]


@merge_method(
    "dare",
    summary="Sum of vectors with random elements dropped and the rest rescaled.",
    paper="arXiv:2311.03099",
    passes=(DroppedSizes,),
    unit="element",
)
def dare(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    uniforms: Float32[Tensor, "k *shape"],
    statistics: Statistics,
    density: Density = 0.5,
    rescale: Rescale = "density",
) -> Float[Tensor, "*shape"]:
    """Drop and rescale, then add, Yu et al., section 3.2.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        uniforms: (k, *shape), in [0, 1).
        statistics: The results of the passes.
        density: Probability with which an element is kept, 1 - p in the paper.
        rescale: How the sum is kept in expectation.
    """
    return weighted_sum(
        drop(deltas, uniforms, density=density, rescale=rescale, statistics=statistics), weights
    )


@merge_method(
    "dare_ties",
    summary="DARE's random dropping, then TIES' election of signs.",
    paper="arXiv:2311.03099",
    passes=(DroppedSizes,),
    unit="element",
)
def dare_ties(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    uniforms: Float32[Tensor, "k *shape"],
    statistics: Statistics,
    density: Density = 0.5,
    rescale: Rescale = "density",
    election: Election = "mass",
    normalize: Normalize = "count",
    weights_after_election: WeightsAfterElection = False,
) -> Float[Tensor, "*shape"]:
    """Drop and rescale in place of TIES' trim, Yu et al., section 4.3; then elect and merge.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        uniforms: (k, *shape), in [0, 1).
        statistics: The results of the passes.
        density: Probability with which an element is kept.
        rescale: How the sum is kept in expectation.
        election: What elects signs.
        normalize: The divisor.
        weights_after_election: Whether the election is unweighted.
    """
    return merge_elected(
        drop(deltas, uniforms, density=density, rescale=rescale, statistics=statistics),
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
    )
