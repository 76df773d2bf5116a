"""`sce`: select what differs most, calculate weights from energies, erase the minority."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging import elections
from tvc.merging.method import merge_method
from tvc.merging.mixing import merge_elected
from tvc.merging.options import Number
from tvc.merging.passes import Options, Scope, Statistics
from tvc.merging.ranks import Ranks
from tvc.merging.reductions import Products
from tvc.merging.selection import share_of

__all__ = ["sce"]


class Variances(Ranks):
    """Finds the least variance that is selected, (1, 1) float32; of those that are not zero."""

    name = "variances"
    needs_nonzero = True

    @classmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say whether not all is selected."""
        return "tensor" if cast("float", options["select_topk"]) < 1 else None

    def ranked_rows(self) -> int:
        """Return 1: the members have one variance."""
        return 1

    def values(self, deltas: Tensor) -> Sequence[npt.NDArray[np.float32]]:
        """Return the variance of each element over members."""
        return [_flat_variance(deltas)]

    def ranks(self, row: int, nonzero: int) -> Sequence[int]:
        """Return how many are selected."""
        del row
        return [share_of(cast("float", self.options["select_topk"]), nonzero)]


class Energies(Products):
    """Sums of squares of what is selected of each member, on the diagonal."""

    name = "energies"

    def vectors(self, deltas: Tensor, supplies: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what is selected of each member."""
        del supplies
        return selected(deltas, self.earlier)


@merge_method(
    "sce",
    summary="Merge the elements of highest variance, members weighted by their squared size.",
    paper="arXiv:2408.07990",
    passes=(Variances, Energies),
    unit="element",
)
def sce(
    deltas: Float[Tensor, "k *shape"],
    *,
    statistics: Statistics,
    select_topk: Annotated[  # noqa: ARG001 -- says which passes are made
        float,
        Number("share of elements, of those whose variance is not zero, that is merged", 0, 1),
    ] = 1.0,
) -> Float[Tensor, "*shape"]:
    """Select, calculate, erase, Wan et al. (FuseChat), section 3.3.

    Args:
        deltas: (k, *shape), float32 or float64.
        statistics: The results of the passes.
        select_topk: Share of elements merged, by their variance over members. 1 selects all,
            those without variance too. Equal variances are selected together.
    """
    energies = statistics[Energies.name].diagonal()
    total = energies.sum()
    # Without any energy all weights are equal, and there is nothing to weight.
    weights = energies / total if total > 0 else torch.ones_like(energies)
    return merge_elected(
        selected(deltas, statistics),
        weights,
        election="mass",
        normalize="weights",
        weights_after_election=True,
    )


def selected(deltas: Tensor, statistics: Statistics) -> list[Tensor]:
    """Return the members with zeros where the variance is below the selected ones."""
    if Variances.name not in statistics:
        return list(deltas)
    threshold = float(statistics[Variances.name])
    variances = _flat_variance(deltas)
    flat = (delta.reshape(-1).contiguous().numpy() for delta in deltas)
    kept = (elections.bound(each, variances, threshold, math.inf) for each in flat)
    return [torch.from_numpy(each).reshape(deltas.shape[1:]) for each in kept]  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial


def _flat_variance(deltas: Tensor) -> npt.NDArray[np.float32]:
    """Return the sum of squared distances from the mean of the members, (n,)."""
    flat = [delta.reshape(-1).contiguous().numpy() for delta in deltas]
    variance = np.empty_like(flat[0])
    elections.spread(flat, variance)
    return variance.astype(np.float32, copy=False)
