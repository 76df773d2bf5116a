"""Merge methods for whoever has NumPy arrays: what the engine runs.

It is loaded with the first merge (`tvc.merging.runner.merge_runner`), since methods are written
in torch, whose import takes longer than most commands. Absent on purpose: where the numbers come
from, and their types on the disk.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tvc.merging.loops import Floats
from tvc.merging.method import Unit
from tvc.merging.options import OptionValue
from tvc.merging.passes import Part, Pass, Scope
from tvc.merging.registry import find_method

__all__ = ["ArrayMerge", "Found"]

Found = dict[str, Tensor]
"""Results of passes, by name."""

_thread: Final = threading.local()


class ArrayMerge:
    """A merge method with its options and the weights of its members.

    Args:
        method: Name of the method.
        options: Its options, not yet checked.
        weights: One for each member.

    Raises:
        InputError: There is no such method or option, or it cannot have so many members.
    """

    def __init__(
        self, method: str, options: Mapping[str, object], weights: Sequence[float]
    ) -> None:
        self._method = find_method(method)
        self.options: dict[str, OptionValue] = self._method.check_options(options)
        self._method.check_members(len(weights), self.options)
        self._weights = torch.tensor(list(weights), dtype=torch.float64)

    @cached_property
    def unit(self) -> Unit:
        """What the method has to see at once."""
        return self._method.unit(self.options)

    @cached_property
    def wants(self) -> frozenset[str]:
        """What the method, or one of its passes, is supplied with."""
        passes = (*self.passes("tensor"), *self.passes("vector"))
        return self._method.wants.union(*(each.wants for each in passes))

    @cached_property
    def takes_weights(self) -> bool:
        """Whether members are to be given without their weights."""
        return "weights" in self._method.wants

    def passes(self, scope: Scope) -> tuple[type[Pass], ...]:
        """Return the passes over a tensor, or over the vector."""
        return self._method.passes_for(self.options, scope)

    def counting(self, kind: type[Pass], *, numel: int, earlier: Found) -> Pass:
        """Begin a pass.

        Args:
            kind: One of `passes`.
            numel: Elements of a member's tensor or vector.
            earlier: Results of the passes before.
        """
        return kind(
            members=len(self._weights),
            numel=numel,
            options=self.options,
            weights=self._weights,
            earlier=earlier,
        )

    def observe(
        self, kind: type[Pass], part: Part, deltas: Floats, supplies: Mapping[str, Floats]
    ) -> None:
        """Show a part of a pass one block.

        Args:
            kind: The kind of the pass.
            part: The part.
            deltas: (k, *block), float32 or float64.
            supplies: `base` and `uniforms`, where wanted.
        """
        _one_thread()
        part.observe(_tensor(deltas), **{name: _tensor(supplies[name]) for name in kind.wants})

    def apply(self, deltas: Floats, found: Found, supplies: Mapping[str, Floats]) -> Floats:
        """Merge one block.

        Args:
            deltas: (k, *block), float32 or float64.
            found: Results of all passes.
            supplies: `base` and `uniforms`, where wanted.

        Returns:
            (*block), of the same type.
        """
        _one_thread()
        given = {name: _tensor(value) for name, value in supplies.items()}
        merged = self._method.apply(
            _tensor(deltas),
            options=self.options,
            **given,
            weights=self._weights,
            statistics=found,
        )
        return merged.numpy()


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(np.require(array, requirements="W"))  # pyright: ignore[reportUnknownMemberType]  # torch's stub is partial


def _one_thread() -> None:
    """Make torch compute in the calling thread alone: tensors are merged beside each other."""
    if not getattr(_thread, "alone", False):
        torch.set_num_threads(1)
        _thread.alone = True
