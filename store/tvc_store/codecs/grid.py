"""How the elements of a tensor lie, and what of them predicts how far a fine-tune moved them.

Absent on purpose: element types and shapes, which the codec turns into this.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["UNCHANGED", "Grid"]

UNCHANGED: Final = -96
"""The term of a row or column in which nothing changed."""


@dataclass(frozen=True, slots=True)
class Grid:
    """How the elements of a tensor lie, and what predicts the size of their distances.

    Args:
        itemsize: Bytes an element: 1, 2, 4 or 8.
        exponent_shift: Where the base's exponent begins in an element.
        exponent_mask: Its bits, up to 11; 0 where elements have none.
        columns: Elements of a row; 0 where rows mean nothing.
        column_terms: int8 for each column: half octaves, 0 to 15, or UNCHANGED; or empty.
        with_rows: Whether frames say such a term for each row.
    """

    itemsize: int
    exponent_shift: int
    exponent_mask: int
    columns: int
    column_terms: bytes
    with_rows: bool
