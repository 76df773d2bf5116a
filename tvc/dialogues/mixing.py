"""In which order rows of several files are trained on: shares kept in every window, seeded.

Absent: reading the files, and what a row is.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice, repeat
from math import lcm
from typing import NamedTuple

from tvc.domain.errors import InputError
from tvc.domain.grammar import parse_number

__all__ = ["BadMix", "Pick", "mixed_order", "parse_mix", "rows_for"]


class BadMix(InputError):
    """Shares of a mix that cannot be kept."""


class Pick(NamedTuple):
    """One row.

    Args:
        file: Which file: 0 is the main data.
        row: Which of its rows.
    """

    file: int
    row: int


def parse_mix(text: str) -> tuple[str, Fraction]:
    """Return file and share of `FILE:SHARE`, such as `general.jsonl:0.25`.

    Raises:
        BadMix: It is something else, or the share is not between 0 and 1.
    """
    file, _, share = text.rpartition(":")
    if not file:
        raise BadMix(f"'{text}' is not FILE:SHARE", hint="write general.jsonl:0.25")
    found = parse_number(share)
    if not 0 < found < 1:
        raise BadMix(f"the share {share} of {file} is not between 0 and 1")
    return file, found


def rows_for(main: int, shares: Sequence[Fraction], *, epochs: int = 1) -> int:
    """Return how many rows it takes until the main data were seen whole.

    Args:
        main: Rows of the main data.
        shares: Of the files that are mixed in.
        epochs: How often.

    Raises:
        BadMix: Nothing is left for the main data.
    """
    left = _left(shares)
    return -(-main * epochs * left.denominator // left.numerator)


def mixed_order(
    sizes: Sequence[int], shares: Sequence[Fraction], *, seed: int, rows: int
) -> list[Pick]:
    """Return which row is trained on when.

    With two files, in any stretch of the order, however short and wherever it begins, each has its
    share of the rows to less than one row. With more, no order can promise that (balanced words
    exist for few shares): it is less than one row in every stretch from the beginning, and less
    than two in any other. Each file is gone through whole, in an order drawn anew each time.

    Args:
        sizes: Rows of each file, the main data first.
        shares: Of the other files, each more than 0, together less than 1.
        seed: What orders are drawn from.
        rows: How many are wanted.

    Raises:
        BadMix: The shares leave nothing for the main data, or a file has no rows.
    """
    left = _left(shares)
    if len(sizes) != len(shares) + 1 or min(sizes) < 1:
        raise BadMix("a file of the mix has no rows")
    turns = [_turns(size, seed, file) for file, size in enumerate(sizes)]
    return [Pick(file, next(turns[file])) for file in islice(_files([left, *shares]), rows)]


def _left(shares: Sequence[Fraction]) -> Fraction:
    left = 1 - sum(shares, Fraction())
    if any(share <= 0 for share in shares) or left <= 0:
        raise BadMix(
            f"the mixed-in shares are {', '.join(map(str, shares))}: nothing is left for the data",
            hint="shares are more than 0, and less than 1 together",
        )
    return left


def _files(shares: Sequence[Fraction]) -> Iterator[int]:
    """Yield files so that each keeps its share: chairman assignment, by Tijdeman's algorithm.

    R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980), section 2: with
    k files, after every row each has at most 1 - 1 / (2k - 2) rows more or less than its share.
    """
    if len(shares) == 1:
        yield from repeat(0)
    whole = lcm(*(share.denominator for share in shares))
    parts = [int(share * whole) for share in shares]
    # Everything in units of 1 / (whole (2k - 2)) rows, so that it is exact.
    scale = 2 * len(shares) - 2
    owed = [0] * len(shares)
    while True:
        owed = [debt + scale * part for debt, part in zip(owed, parts, strict=True)]
        due = [file for file, debt in enumerate(owed) if debt >= whole]
        # The one whose debt would first grow beyond the bound, if it were not paid.
        file = min(due, key=lambda f: (Fraction((scale - 1) * whole - owed[f], parts[f]), f))
        owed[file] -= scale * whole
        yield file


def _turns(size: int, seed: int, file: int) -> Iterator[int]:
    """Yield rows of a file, in a new order each time round."""
    turn = 0
    while True:
        key = hashlib.sha256(f"tvc order {seed} {file} {turn}".encode()).digest()
        order = list(range(size))
        random.Random(key).shuffle(order)  # noqa: S311 -- an order, no secret
        yield from order
        turn += 1
