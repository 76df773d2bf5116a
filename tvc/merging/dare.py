"""`dare` and `dare_ties`: random dropping of elements. The draws themselves are the engine's."""

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
from tvc.merging.sparsifying import Density, Rescale, per_member, rescaled

__all__ = ["dare", "dare_ties"]


def drop(
    deltas: Float[Tensor, "k *shape"],
    uniforms: Float32[Tensor, "k *shape"],
    *,
    density: float | tuple[float, ...],
    rescale: str,
) -> list[Tensor]:
    """Drop elements at random and rescale the rest (DARE, equation 2).

    Args:
        deltas: (k, *shape).
        uniforms: (k, *shape), in [0, 1); an element is kept where its draw is below the density.
        density: Probability with which elements are kept.
        rescale: "density" (the paper's 1 / (1 - p)), "l1" or "none".
    """
    return [
        rescaled(delta.masked_fill(draws >= share, 0), delta, share, rescale=rescale)
        for delta, draws, share in zip(
            deltas, uniforms, per_member(density, len(deltas)), strict=True
        )
    ]


@merge_method(
    "dare",
    summary="Sum of vectors with random elements dropped and the rest rescaled.",
    paper="arXiv:2311.03099",
)
def dare(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    uniforms: Float32[Tensor, "k *shape"],
    density: Density = 0.5,
    rescale: Rescale = "density",
) -> Float[Tensor, "*shape"]:
    """Drop and rescale, then add, Yu et al., section 3.2.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        uniforms: (k, *shape), in [0, 1).
        density: Probability with which an element is kept, 1 - p in the paper.
        rescale: How the sum is kept in expectation.
    """
    return weighted_sum(drop(deltas, uniforms, density=density, rescale=rescale), weights)


@merge_method(
    "dare_ties",
    summary="DARE's random dropping, then TIES' election of signs.",
    paper="arXiv:2311.03099",
)
def dare_ties(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    uniforms: Float32[Tensor, "k *shape"],
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
        density: Probability with which an element is kept.
        rescale: How the sum is kept in expectation.
        election: What elects signs.
        normalize: The divisor.
        weights_after_election: Whether the election is unweighted.
    """
    return merge_elected(
        drop(deltas, uniforms, density=density, rescale=rescale),
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=weights_after_election,
    )
