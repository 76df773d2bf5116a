"""Reading the stored tensors that one computed tensor is made of, in step, window by window.

A window is a range of elements. Tensors that are read once are streamed, so that none has to fit in
memory; those that are read several times are kept where they are small. Absent on purpose: numbers,
and what is computed of them.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from tvc.domain.snapshot import TensorRef
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError
from tvc_store.header import FRAME_BYTES
from tvc_store.ids import ObjectId
from tvc_store.scratch import Scratch

__all__ = ["KEPT_BYTES", "Leaves", "Source", "Window", "WrongSpec"]

KEPT_BYTES: Final = 112 << 20
"""What is kept in memory, by all workers together, of tensors that are read repeatedly."""

_RUN: Final = 64
_RUN_DISTANCE: Final = 6000
"""Elements: a hundredth is sampled."""
_RARELY: Final = 16
"""Pieces of a streamed tensor of which one more is sampled."""


class Source(Protocol):
    """Where tensors come from, by content id; safe for several threads."""

    def tensor_spec(self, identity: ObjectId) -> TensorSpec:
        """Return a tensor's type and shape."""
        ...

    def read_tensor(self, identity: ObjectId) -> tuple[TensorSpec, ByteArray]:
        """Return a tensor, verified."""
        ...

    def stream_tensors(
        self,
        ids: Sequence[ObjectId],
        *,
        only: Collection[int] | None = None,
        into: Mapping[ObjectId, ByteArray] | None = None,
    ) -> Iterator[list[ByteArray]]:
        """Yield tensors in step, in pieces of some MiB, each overwritten by the next.

        All pieces but a tensor's last are of one length; a tensor that ends before others yields
        empty ones. They are verified when the last has been read.

        Args:
            ids: The tensors.
            only: Numbers of the pieces that are read; nothing is verified then.
            into: Where whole tensors go, of which the pieces are parts then.
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
        scratch: Where memory comes from; `close` gives it back.
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
        scratch: Scratch,
        refs: Iterable[TensorRef],
        *,
        numel: int,
        repeatedly: bool,
        whole: bool,
    ) -> None:
        self._source = source
        self._scratch = scratch
        self._taken: list[ByteArray] = []
        self._refs = {ref.id: ref for ref in refs}
        self._numel = numel
        self._kept: dict[ObjectId, ByteArray] | None = None
        for ref in self._refs.values():
            check_spec(source, ref)
        total = sum(ref.spec.nbytes for ref in self._refs.values())
        self._reserved = total if repeatedly and scratch.reserve(total) else 0
        self._keep = whole or self._reserved > 0

    def close(self) -> None:
        """Give memory back; windows and what is a part of them may no longer be used."""
        while self._taken:
            self._scratch.give(self._taken.pop())
        self._scratch.release(self._reserved)
        self._reserved = 0

    def windows(self, step: int) -> Iterator[Window]:
        """Yield windows in order, each but the last of `step` elements.

        The bytes of a window are overwritten by the next.
        """
        if not self._refs:
            return self._empty(step)
        return self._from_memory(step) if self._keep else self._streamed(step)

    def sample(self, pieces: int) -> Window | None:
        """Return elements from all over the tensor, or None where they cannot be had.

        They are taken in runs at a distance that is no multiple of the usual lengths of rows, so
        that all rows and columns are met.

        Args:
            pieces: From how many pieces, at most, they come where the tensor is streamed.
        """
        specs = {ref.spec for ref in self._refs.values()}
        if len(specs) != 1 or next(iter(specs)).numel != self._numel:
            return None
        width = next(iter(specs)).itemsize
        if self._keep:
            runs = [[_runs(data, width)] for data in self._in_memory().values()]
        else:
            count = -(-self._numel * width // FRAME_BYTES)
            pieces = min(pieces, 1 + count // _RARELY)  # each costs as much as it does in a pass
            only = {(2 * i + 1) * count // (2 * pieces) for i in range(pieces)}
            seen = [
                [_runs(piece, width) for piece in each]
                for each in self._source.stream_tensors(list(self._refs), only=only)
            ]
            runs = [list(each) for each in zip(*seen, strict=True)]
        parts = {id_: np.concatenate(each) for id_, each in zip(self._refs, runs, strict=True)}
        size = next(iter(parts.values())).size // width
        return Window(0, size, parts) if size else None

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
            whole = {id_: self._scratch.take(self._refs[id_].spec.nbytes) for id_ in ids}
            self._taken += whole.values()
            for _ in self._source.stream_tensors(ids, into=whole):
                pass
            yield from whole.items()

    def _streamed(self, step: int) -> Iterator[Window]:
        """Yield windows of what is streamed, in one stream for each width of elements."""
        widths = sorted({ref.spec.itemsize for ref in self._refs.values()})
        streams = [self._streamed_of(width, step) for width in widths]
        for windows in zip(*streams, strict=True):
            parts = {id_: part for window in windows for id_, part in window.parts.items()}
            yield Window(windows[0].start, windows[0].stop, parts)

    def _streamed_of(self, width: int, step: int) -> Iterator[Window]:
        """Yield windows of the tensors that have `width` bytes an element."""
        ids = [id_ for id_ in self._refs if self._width(id_) == width]
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
                yield self._window(start, step, ids, [each[at : at + size] for each in held])
                at += size
                start += step
            left = [each[at:].copy() for each in held]
        while start < self._numel:
            yield self._window(start, step, ids, [each[:size] for each in left])
            left = [each[size:] for each in left]
            start += step

    def _window(self, start: int, step: int, ids: list[ObjectId], parts: list[ByteArray]) -> Window:
        stop = min(start + step, self._numel)
        return Window(start, stop, dict(zip(ids, parts, strict=True)))

    def _width(self, identity: ObjectId) -> int:
        return self._refs[identity].spec.itemsize


def _runs(data: ByteArray, width: int) -> ByteArray:
    """Return runs of elements of some content, a hundredth of it, copied."""
    rows = data[: data.size // (_RUN_DISTANCE * width) * _RUN_DISTANCE * width]
    return rows.reshape(-1, _RUN_DISTANCE * width)[:, : _RUN * width].reshape(-1).copy()


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
