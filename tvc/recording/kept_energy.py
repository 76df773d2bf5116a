"""What a low-rank adapter holds of the difference that it stands for, tensor by tensor.

Energy is the squared Frobenius norm. Sums are joined by `math.fsum`, so that neither the number of
threads nor the order of tensors changes a digit. Nothing here prints.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tvc.domain.parts import layer_of, natural_key

__all__ = ["Exported", "Kept", "Left"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What an adapter holds of one matrix.

    Args:
        rank: Of its factors.
        square: Energy of the difference.
        missing: Energy of what the factors leave of it.
        exact: Whether the factors are those of an adapter that was taken in.
    """

    rank: int
    square: float
    missing: float
    exact: bool

    @property
    def share(self) -> float:
        """Kept energy as a share of the matrix's, 0 to 1."""
        return 1 - self.missing / self.square if self.square else 1.0


@dataclass(frozen=True, slots=True)
class Left:
    """What an adapter holds nothing of.

    Args:
        reason: What kind of tensor it is.
        square: Energy of the difference; None where it has none: of integers, and of tensors that
            the base lacks.
    """

    reason: str
    square: float | None


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what of the difference it holds.

    Args:
        rank: Of all factors in the file, where those of a lower rank are filled up with zeros.
        scale: What their products are multiplied by.
        kept: Name of a tensor → what is held of it, layer by layer.
        left: Name of a tensor that is changed, but not held → why.
        files: Carried files that the vectors change, which an adapter does not have.
        nbytes: Bytes of the factors.
    """

    rank: int
    scale: Fraction
    kept: Mapping[str, Kept]
    left: Mapping[str, Left]
    files: tuple[str, ...]
    nbytes: int

    @property
    def square(self) -> float:
        """Energy of the whole difference."""
        left = [each.square for each in self.left.values() if each.square is not None]
        return math.fsum([*(each.square for each in self.kept.values()), *left])

    @property
    def share(self) -> float:
        """Kept energy as a share of the whole difference's, 0 to 1."""
        return math.fsum(each.square - each.missing for each in self.kept.values()) / self.square

    def layers(self) -> dict[str, tuple[float, float]]:
        """Return the energy that is kept of each layer, and the layer's, changed tensors only."""
        found: dict[str, list[tuple[float, float]]] = {}
        pairs = {
            name: (each.square - each.missing, each.square) for name, each in self.kept.items()
        }
        pairs |= {name: (0.0, each.square or 0.0) for name, each in self.left.items()}
        for name in sorted(pairs, key=natural_key):
            found.setdefault(layer_of(name), []).append(pairs[name])
        return {
            layer: (math.fsum(kept for kept, _ in parts), math.fsum(all_ for _, all_ in parts))
            for layer, parts in sorted(found.items(), key=lambda item: natural_key(item[0]))
        }

    def reasons(self) -> dict[str, tuple[int, float]]:
        """Return why tensors were left out → how many, and their share of the whole energy."""
        found: dict[str, list[float]] = {}
        for each in self.left.values():
            found.setdefault(each.reason, []).append(each.square or 0.0)
        return {
            reason: (len(squares), math.fsum(squares) / self.square)
            for reason, squares in sorted(found.items())
        }
