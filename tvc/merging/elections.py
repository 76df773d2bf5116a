"""The loops over the elements of several members: bounds, drops, elections of signs, variances.

Compiled or plain as in `tvc.merging.kernels`, with the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tvc.merging.loops import Floats, compiled

__all__ = ["Election", "Vote", "bound", "drop", "elect", "spread"]

Vote = Literal["none", "mass", "count"]

_VOTES: Final[dict[str, int]] = {"none": 0, "mass": 1, "count": 2}


@dataclass(frozen=True, slots=True)
class Election:
    """How members are bounded, elect a sign for each element, and are merged; k members.

    Args:
        lower: Magnitudes below count as zero; one for each member.
        upper: Magnitudes above count as zero.
        votes: What a member's vote is multiplied by.
        weights: What a member is multiplied by.
        vote: What elects: the sum of values ("mass"), of signs ("count"), or nothing.
        zero_positive: What a sum of zero elects.
        divide: Whether the sum is divided by how many agree, or by their weights.
        by_weights: By their weights.
    """

    lower: Sequence[float]
    upper: Sequence[float]
    votes: Sequence[float]
    weights: Sequence[float]
    vote: Vote = "mass"
    zero_positive: bool = True
    divide: bool = True
    by_weights: bool = False


def bound(values: Floats, sizes: Floats, lower: float, upper: float) -> Floats:
    """Return values with zeros where a magnitude lies outside of bounds; NaN lies within.

    Args:
        values: (n,).
        sizes: Whose magnitudes are compared, in float32: the values, or others, (n,).
        lower: Least.
        upper: Greatest.
    """
    loops = compiled(values)
    if loops and sizes.dtype == np.float32:
        out = np.empty_like(values)
        loops.bound(out, values, sizes, lower, upper)
        return out
    # In float32 also where numbers are float64: thresholds are found among float32 magnitudes.
    compared = np.abs(sizes).astype(np.float32, copy=False)
    outside = (compared < np.float32(lower)) | (compared > np.float32(upper))
    return np.where(outside, values.dtype.type(0), values)


def drop(
    values: Floats, draws: npt.NDArray[np.float32], chances: Floats, *, divide: bool
) -> Floats:
    """Return values with zeros where the draw is not below the chance.

    Args:
        values: (n,).
        draws: float32 (n,), in [0, 1).
        chances: (n,), of the type of the values, in [0, 1].
        divide: Divide what is left by its chance.
    """
    out = np.empty_like(values)
    if loops := compiled(values):
        loops.drop(out, values, draws, chances, divide)
        return out
    with np.errstate(over="ignore", under="ignore"):
        out[:] = np.where(draws >= chances, values.dtype.type(0), values)
        if divide:
            out /= np.where(chances == 0, values.dtype.type(1), chances)
    return out


def spread(members: Sequence[Floats], out: Floats) -> None:
    """Fill `out` with the sum, over members, of squared distances from their mean.

    Args:
        members: k times (n,), k at least 1.
        out: (n,), of the same type.
    """
    if loops := compiled(out):
        loops.spread(out, list(members))
        return
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        mean = np.zeros_like(out)
        for member in members:
            mean += member
        mean /= out.dtype.type(len(members))
        out[:] = 0
        for member in members:
            distance = member - mean
            out += distance * distance


def elect(members: Sequence[Floats], how: Election, out: Floats) -> None:
    """Bound members, elect a sign for each element, and merge those that have it.

    NaN agrees with either sign, zero with none; without an election all but zeros agree.

    Args:
        members: k times (n,).
        how: For k members.
        out: (n,), of the same type.
    """
    if loops := compiled(out):
        numbers = np.array([how.lower, how.upper, how.votes, how.weights], np.float32)
        loops.elect(
            out,
            list(members),
            numbers,
            _VOTES[how.vote],
            how.zero_positive,
            how.divide,
            how.by_weights,
        )
        return
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        _elect(members, how, out)


def _elect(members: Sequence[Floats], how: Election, out: Floats) -> None:
    kind = out.dtype.type
    bounds = zip(members, how.lower, how.upper, strict=True)
    kept = [bound(member, member, lower, upper) for member, lower, upper in bounds]
    votes = [member * kind(vote) for member, vote in zip(kept, how.votes, strict=True)]
    positive = _positive(votes, how, out)
    out[:] = 0
    divisor = np.zeros_like(out)
    for member, vote, weight in zip(kept, votes, how.weights, strict=True):
        against = vote == 0 if positive is None else np.where(positive, vote <= 0, vote >= 0)
        agrees = ~against
        out += np.where(agrees, member * kind(weight), kind(0))
        divisor += np.where(agrees, kind(weight if how.by_weights else 1), kind(0))
    if how.divide:
        out /= np.where(divisor == 0, kind(1), divisor)


def _positive(votes: Sequence[Floats], how: Election, out: Floats) -> npt.NDArray[np.bool_] | None:
    if how.vote == "none":
        return None
    tally = np.zeros_like(out)
    for vote in votes:
        one = out.dtype.type(1)
        signs = (vote > 0) * one - (vote < 0) * one
        tally += signs if how.vote == "count" else vote
    return tally >= 0 if how.zero_positive else tally > 0
