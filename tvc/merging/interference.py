"""How much task vectors are in each other's way, before they are merged.

Measured one tensor at a time (`measure`), then combined for a layer or for all (`combined`,
`by_group`). Counts are integers and sums of floats are rounded once (`math.fsum`), so neither the
order of tensors nor the threads that measured them matter. Which tensor belongs to which layer is
not known here: groups are labels that the caller gives.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from tvc.merging.reductions import dot
from tvc.merging.selection import kth_largest, magnitudes, share_of

__all__ = ["Interference", "PairCounts", "by_group", "combined", "measure"]


@dataclass(frozen=True, slots=True)
class PairCounts:
    """What two members have in common, summed over elements; all fields add.

    Args:
        dot: Sum of products.
        both: Elements that neither left at zero.
        conflicts: Those of `both` that have opposite signs.
        large_both: Elements that are large in both.
    """

    dot: float
    both: int
    conflicts: int
    large_both: int


@dataclass(frozen=True, slots=True)
class Interference:
    """Interference of k members over some tensors; valid once built.

    Args:
        numel: Elements of one member.
        squares: Each member's sum of squares.
        changed: Each member's number of elements that are not zero.
        large: Each member's number of large elements: of each tensor, the share `density` of
            largest magnitude, with equal magnitudes, without zeros.
        pairs: By (i, j), i < j.
    """

    numel: int
    squares: tuple[float, ...]
    changed: tuple[int, ...]
    large: tuple[int, ...]
    pairs: Mapping[tuple[int, int], PairCounts]

    def norm(self, member: int) -> float:
        """Return a member's Euclidean norm."""
        return math.sqrt(self.squares[member])

    def cosine(self, i: int, j: int) -> float:
        """Return the cosine between two members; 0 where one of them is zero."""
        lengths = math.sqrt(self.squares[i] * self.squares[j])
        return self._pair(i, j).dot / lengths if lengths else 0.0

    def conflict_share(self, i: int, j: int) -> float:
        """Return the share of opposite signs, among elements that both changed; 0 without any."""
        pair = self._pair(i, j)
        return pair.conflicts / pair.both if pair.both else 0.0

    def overlap(self, i: int, j: int) -> float:
        """Return the Jaccard index of large elements, shared of all either has; 0 without any."""
        shared = self._pair(i, j).large_both
        union = self.large[i] + self.large[j] - shared
        return shared / union if union else 0.0

    def _pair(self, i: int, j: int) -> PairCounts:
        return self.pairs[min(i, j), max(i, j)]


def measure(deltas: Float[Tensor, "k *shape"], *, density: float = 0.2) -> Interference:
    """Measure one tensor.

    Args:
        deltas: (k, *shape), float32 or float64.
        density: Share of elements that counts as large, in [0, 1], at least one element.
    """
    signs = [_signs(delta) for delta in deltas]
    large = [_large(delta, density) for delta in deltas]
    pairs: dict[tuple[int, int], PairCounts] = {}
    for i, j in combinations(range(len(deltas)), 2):
        agreement = signs[i] * signs[j]
        pairs[i, j] = PairCounts(
            dot=dot(deltas[i], deltas[j]),
            both=_count(agreement),
            conflicts=_count(agreement < 0),
            large_both=_count(large[i] & large[j]),
        )
    return Interference(
        numel=deltas[0].numel(),
        squares=tuple(dot(delta, delta) for delta in deltas),
        changed=tuple(_count(delta) for delta in deltas),
        large=tuple(_count(mask) for mask in large),
        pairs=pairs,
    )


def combined(parts: Iterable[Interference]) -> Interference:
    """Add up the interference of several tensors.

    Combine what was measured, not what was combined: a float is rounded at each combination.

    Args:
        parts: At least one, all of the same members.
    """
    found = list(parts)
    members = range(len(found[0].squares))
    return Interference(
        numel=sum(part.numel for part in found),
        squares=tuple(_sum(part.squares[i] for part in found) for i in members),
        changed=tuple(sum(part.changed[i] for part in found) for i in members),
        large=tuple(sum(part.large[i] for part in found) for i in members),
        pairs={pair: _add([part.pairs[pair] for part in found]) for pair in found[0].pairs},
    )


def by_group(parts: Iterable[tuple[str, Interference]]) -> dict[str, Interference]:
    """Combine what has the same label, such as the layer of a tensor.

    Args:
        parts: Label and interference of each tensor.

    Returns:
        By label, in the order in which labels first occur.
    """
    groups: dict[str, list[Interference]] = {}
    for label, part in parts:
        groups.setdefault(label, []).append(part)
    return {label: combined(group) for label, group in groups.items()}


def _add(pairs: list[PairCounts]) -> PairCounts:
    return PairCounts(
        dot=_sum(pair.dot for pair in pairs),
        both=sum(pair.both for pair in pairs),
        conflicts=sum(pair.conflicts for pair in pairs),
        large_both=sum(pair.large_both for pair in pairs),
    )


def _sum(values: Iterable[float]) -> float:
    """Return the sum, rounded once; NaN where infinities or overflow leave none."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan


def _signs(delta: Tensor) -> Int8[Tensor, "*shape"]:
    """Return -1, 0 or 1; the product of two small numbers may vanish, that of signs does not."""
    return (delta > 0).to(torch.int8) - (delta < 0).to(torch.int8)


def _large(delta: Tensor, density: float) -> Bool[Tensor, "*shape"]:
    values = magnitudes(delta)
    count = min(values.numel(), max(1, share_of(density, values.numel())))
    return (values >= kth_largest(values, count)) & (values > 0)


def _count(tensor: Tensor) -> int:
    return int(torch.count_nonzero(tensor))
