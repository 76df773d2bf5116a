"""Reading the stored tensors that one computed tensor is made of, in step, window by window.

A window is a range of elements. Tensors that are read once are streamed, so that none has to fit in
memory; those that are read several times are kept where they are small. Absent on purpose: numbers,
and what is computed of them.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from tvc.domain.snapshot import TensorRef
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError
from tvc_store.ids import ObjectId

__all__ = ["KEPT_BYTES", "Leaves", "Source", "Window", "WrongSpec"]

KEPT_BYTES: Final = 96 << 20
"""Tensors of a computed one that are kept in memory together, where they are read repeatedly."""

_RUN: Final = 64
_RUN_DISTANCE: Final = 3000
"""Elements: a fiftieth is sampled."""


class Source(Protocol):
    """Where tensors come from, by content id; safe for several threads."""

    def tensor_spec(self, identity: ObjectId) -> TensorSpec:
        """Return a tensor's type and shape."""
        ...

    def read_tensor(self, identity: ObjectId) -> tuple[TensorSpec, ByteArray]:
        """Return a tensor, verified."""
        ...

    def stream_tensors(self, ids: Sequence[ObjectId]) -> Iterator[list[ByteArray]]:
        """Yield tensors in step, in pieces of some MiB, each overwritten by the next.

        All pieces but a tensor's last are of one length; a tensor that ends before others yields
        empty ones. They are verified when the last has been read.
        """
        ...


class WrongSpec(IntegrityError):
    """A stored tensor has another type or shape than the list that names it says."""


@dataclass(frozen=True, slots=True)
class Window:
    """The bytes of some tensors at a range of elements.

    Args:
        start: First element.
        stop: After the last.
        parts: uint8, by id; shorter, or empty, where a tensor ends before.
    """

    start: int
    stop: int
    parts: Mapping[ObjectId, ByteArray]

    def until(self, end: int) -> "Window":
        """Return the window without the elements from `end` on."""
        return Window(self.start, max(self.start, min(self.stop, end)), self.parts)


class Leaves:
    """The stored tensors that one computed tensor is made of.

    Args:
        source: Where they come from.
        refs: Which.
        numel: Elements of the computed tensor, at least as many as any of them has.
        repeatedly: Whether they will be read more than once.
        whole: Whether all of them are needed at once.

    Raises:
        WrongSpec: One is not what the list of tensors says.
    """

    def __init__(
        self,
        source: Source,
        refs: Iterable[TensorRef],
        *,
        numel: int,
        repeatedly: bool,
        whole: bool,
    ) -> None:
        self._source = source
        self._refs = {ref.id: ref for ref in refs}
        self._numel = numel
        self._kept: dict[ObjectId, ByteArray] | None = None
        for ref in self._refs.values():
            check_spec(source, ref)
        # Tensors of different widths are not in step in files.
        mixed = len({ref.spec.itemsize for ref in self._refs.values()}) > 1
        total = sum(ref.spec.nbytes for ref in self._refs.values())
        self._keep = mixed or whole or (repeatedly and total <= KEPT_BYTES)

    def windows(self, step: int) -> Iterator[Window]:
        """Yield windows in order, each but the last of `step` elements.

        The bytes of a window are overwritten by the next.
        """
        if not self._refs:
            return self._empty(step)
        return self._from_memory(step) if self._keep else self._streamed(step)

    def sample(self) -> Window | None:
        """Return elements from all over the tensor, or None where none can be had cheaply.

        They are taken in runs at a distance that is no multiple of the usual lengths of rows, so
        that all rows and columns are met.
        """
        lengths = {ref.spec.numel for ref in self._refs.values()}
        if not self._keep or lengths != {self._numel} or not self._numel:
            return None
        kept = self._in_memory()
        runs = self._numel // _RUN_DISTANCE
        parts = {
            id_: np.ascontiguousarray(
                data[: runs * _RUN_DISTANCE * self._width(id_)].reshape(runs, -1)[
                    :, : _RUN * self._width(id_)
                ]
            ).reshape(-1)
            for id_, data in kept.items()
        }
        return Window(0, runs * _RUN, parts)

    def _empty(self, step: int) -> Iterator[Window]:
        for start in range(0, self._numel, step):
            yield Window(start, min(start + step, self._numel), {})

    def _from_memory(self, step: int) -> Iterator[Window]:
        kept = self._in_memory()
        for start in range(0, self._numel, step):
            stop = min(start + step, self._numel)
            parts = {
                id_: data[start * self._width(id_) : stop * self._width(id_)]
                for id_, data in kept.items()
            }
            yield Window(start, stop, parts)

    def _in_memory(self) -> dict[ObjectId, ByteArray]:
        if self._kept is None:
            self._kept = dict(self._load())
        return self._kept

    def _load(self) -> Generator[tuple[ObjectId, ByteArray]]:
        widths = {ref.spec.itemsize for ref in self._refs.values()}
        for width in sorted(widths):
            ids = [id_ for id_ in self._refs if self._width(id_) == width]
            whole = {id_: np.empty(self._refs[id_].spec.nbytes, np.uint8) for id_ in ids}
            done = 0
            for frames in self._source.stream_tensors(ids):
                for id_, frame in zip(ids, frames, strict=True):
                    whole[id_][done : done + frame.size] = frame
                done += max(frame.size for frame in frames)
            yield from whole.items()

    def _streamed(self, step: int) -> Iterator[Window]:
        ids = list(self._refs)
        width = self._width(ids[0])
        size = step * width
        start = 0
        left = [np.empty(0, np.uint8)] * len(ids)
        for frames in self._source.stream_tensors(ids):
            held = [
                np.concatenate([before, frame]) if before.size else frame
                for before, frame in zip(left, frames, strict=True)
            ]
            # Only the longest says where a window ends; the others may have ended before.
            longest, at = max(each.size for each in held), 0
            while longest - at >= size:
                yield self._window(start, step, [each[at : at + size] for each in held])
                at += size
                start += step
            left = [each[at:].copy() for each in held]
        while start < self._numel:
            yield self._window(start, step, [each[:size] for each in left])
            left = [each[size:] for each in left]
            start += step

    def _window(self, start: int, step: int, parts: list[ByteArray]) -> Window:
        stop = min(start + step, self._numel)
        return Window(start, stop, dict(zip(self._refs, parts, strict=True)))

    def _width(self, identity: ObjectId) -> int:
        return self._refs[identity].spec.itemsize


def check_spec(source: Source, ref: TensorRef) -> None:
    """Check that a stored tensor is what the list of tensors says.

    Raises:
        WrongSpec: It is not.
    """
    spec = source.tensor_spec(ref.id)
    if spec != ref.spec:
        raise WrongSpec(
            f"object {ref.id} is {spec.dtype} {list(spec.shape)}, but the list of tensors "
            f"says {ref.spec.dtype} {list(ref.spec.shape)}",
            hint="`tvc fsck` says which vectors have that list",
        )
