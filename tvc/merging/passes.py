"""Passes: what a method has to know of a whole tensor, or of a whole vector, before it can merge.

For each, in order, the engine builds one, shows it all blocks, again where it asks for more, and
takes its result. Over a tensor the blocks come in order, from one thread. Over a vector each tensor
has a `Part` of its own, and parts come in any order: they count, since integer sums depend on none.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tvc.merging.options import OptionValue

__all__ = ["Memory", "Options", "Part", "Pass", "Scope", "Statistics", "over_tensor"]

Scope = Literal["tensor", "vector"]
Options = Mapping[str, OptionValue]
Statistics = Mapping[str, Tensor]
"""Results of passes, by the name of the pass."""


class Memory(Protocol):
    """What a pass over a vector remembers of each member, for the next time."""

    def recall(self, member: int, label: str, size: int) -> npt.NDArray[np.int64] | None:
        """Return counts that were kept, int64 (size,), or None.

        Args:
            member: Its number.
            label: What they count.
            size: How many there are.
        """
        ...

    def keep(self, member: int, label: str, counts: npt.NDArray[np.int64]) -> None:
        """Keep counts of a member's whole vector, which depend on nothing else."""
        ...


class Part(ABC):
    """What a pass sees of one tensor, block by block."""

    @abstractmethod
    def observe(self, deltas: Tensor, **supplies: Tensor) -> None:
        """Take in one block.

        Args:
            deltas: (k, *block), as the method will be given them.
            **supplies: What the pass wants, for the block.
        """


@dataclass(kw_only=True, eq=False)
class Pass(ABC):
    """One pass over a tensor or a vector; see the module's docstring.

    What a kind of pass counts in, it makes in `__post_init__`.

    Args:
        members: k.
        numel: Elements of one member's tensor or whole vector, those that nobody changed included.
        options: As `Method.check_options` returned them.
        weights: (k,).
        earlier: Results of the method's earlier passes.
    """

    name: ClassVar[str]
    """Under which the result is found in `statistics`."""

    wants: ClassVar[frozenset[str]] = frozenset()
    """What its parts are supplied with, of `base` and `uniforms`."""

    members: int
    numel: int
    options: Options
    weights: Tensor
    earlier: Statistics

    def __post_init__(self) -> None:  # noqa: B027 -- not every pass has something to begin with
        """Begin."""

    @classmethod
    @abstractmethod
    def scope(cls, options: Options) -> Scope | None:
        """Say what these options need the pass over, or None where they do not need it."""

    def begin(self, memory: Memory | None) -> bool:
        """Say whether anything has to be seen at all.

        Args:
            memory: For a pass over a vector, what is remembered of its members.
        """
        del memory
        return True

    @abstractmethod
    def part(self) -> Part:
        """Return what is to observe the next tensor.

        A pass is never asked for anything from two threads at once; its parts may observe at once.
        """

    @abstractmethod
    def add(self, part: Part) -> None:
        """Take in what was seen of a tensor."""

    def sample(self, numel: int) -> Part | None:
        """Return what is to be shown a sample of a tensor first, then given to `add`.

        The sample has elements from all over the tensor, in an order of no meaning, and may be
        missing. Results must not depend on it.

        Args:
            numel: Elements of the tensor.
        """
        del numel
        return None

    def more(self) -> bool:
        """Say, when all has been seen, whether it must be seen once more."""
        return False

    @abstractmethod
    def result(self) -> Tensor:
        """Return the statistic."""


def over_tensor(counting: Pass, show: Callable[[Part], None]) -> None:
    """Run a pass over one tensor.

    Args:
        counting: The pass.
        show: Shows a part all blocks of the tensor, in order.
    """
    again = counting.begin(None)
    while again:
        part = counting.part()
        show(part)
        counting.add(part)
        again = counting.more()
