"""Open tensors, stored or borrowed, and reading several of them in step.

Frames are decoded beside each other and verified in order. Absent on purpose: where tensors lie.
"""

import contextlib
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing

from tvc_store.arrays import ByteArray
from tvc_store.borrowed import BorrowedFile, SourceChanged
from tvc_store.codecs import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import frame_count
from tvc_store.errors import IntegrityError
from tvc_store.header import FRAME_BYTES, MalformedObject
from tvc_store.ids import ObjectId, TensorHasher
from tvc_store.objectfile import ObjectFile
from tvc_store.ordered import in_order

__all__ = ["Damaged", "Opened", "Target", "in_step", "is_parallel", "naming_damage"]

Target = Callable[[ObjectId, slice, int], ByteArray]
"""Where a frame of a tensor goes, and in which turn: `DEPTH` turns must not meet in one place."""


class Damaged(IntegrityError):
    """What lies in the place of an object is not that object."""

    def __init__(self, object_id: ObjectId, problem: str) -> None:
        super().__init__(
            f"object {object_id} is damaged: {problem}",
            hint="run `tvc fsck` to see what needs it and to mend it",
        )
        self.id = object_id


class Opened:
    """A tensor that is open for reading, stored or borrowed; `Elements` where it needs no base.

    Args:
        object_id: Its id.
        spec: Its type and shape.
        held: Its file.
    """

    def __init__(
        self, object_id: ObjectId, spec: TensorSpec, held: ObjectFile | BorrowedFile
    ) -> None:
        self.id = object_id
        self.spec = spec
        self._held = held

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.spec.nbytes

    @property
    def base(self) -> ObjectId | None:
        """The tensor from which this one is a difference."""
        return None if isinstance(self._held, BorrowedFile) else self._held.header.base

    @property
    def borrowed(self) -> BorrowedFile | None:
        """Where it is borrowed from, if it is."""
        return self._held if isinstance(self._held, BorrowedFile) else None

    def read(self, start: int, out: ByteArray) -> None:
        """Fill `out` from byte `start` on; not verified."""
        with naming_damage(self.id):
            if self.base is not None:
                raise MalformedObject("a difference, where another object needs a base")
            self._held.read(start, out)

    def frame(self, index: int, out: ByteArray, base: ByteArray | None) -> None:
        """Fill `out` with one frame; not verified."""
        with naming_damage(self.id):
            if isinstance(self._held, BorrowedFile):
                self._held.read(index * FRAME_BYTES, out)
            else:
                self._held.frame(index, out, base)

    def wrong(self) -> IntegrityError:
        """Return the error that says that the content is not that of the id."""
        if isinstance(self._held, ObjectFile):
            return Damaged(self.id, "the content is another")
        problem = f"no longer holds {self.id} at byte {self._held.tensor.offset}"
        return SourceChanged(self._held.source, self._held.tensor.file, problem)

    def check_structure(self) -> None:
        """Check what can be checked before content is read."""
        with naming_damage(self.id):
            if isinstance(self._held, ObjectFile):
                self._held.check_structure()


def in_step(
    opened: Sequence[Opened],
    ids: Sequence[ObjectId],
    target: Target,
    only: Collection[int] | None,
    *,
    base: ByteArray | None = None,
) -> Generator[list[ByteArray]]:
    """Decode frame after frame of several tensors, and verify those of `ids` after the last.

    Args:
        opened: Bases before what is a difference from them.
        ids: What is yielded, in this order; one that is shorter ends in empty arrays.
        target: Where frames go.
        only: The frames to read, by number; nothing is verified then.
        base: The whole base of the one tensor that is opened, in place of an opened one.
    """
    for one in opened:
        one.check_structure()
    hashers = {one.id: TensorHasher(one.spec) for one in opened if one.id in ids}

    def decode(each: tuple[int, int]) -> dict[ObjectId, ByteArray]:
        turn, index = each
        frames: dict[ObjectId, ByteArray] = {}
        for one in opened:
            start = min(index * FRAME_BYTES, one.nbytes)
            part = slice(start, min(start + FRAME_BYTES, one.nbytes))
            frame = frames[one.id] = target(one.id, part, turn)
            if frame.size:
                origin = frames[one.base] if one.base and base is None else None
                one.frame(index, frame, origin if base is None else base[part])
        return frames

    count = max((frame_count(one.nbytes) for one in opened), default=0)
    turns = enumerate(range(count) if only is None else sorted(only))
    parallel = all(is_parallel(ids, one) for one in opened)
    with closing(in_order(decode, turns, parallel=parallel)) as decoded:
        for frames in decoded:
            for identity, hasher in hashers.items() if only is None else ():
                hasher.update(frames[identity])
            yield [frames[id_] for id_ in ids]
    if only is not None:
        return
    for one in opened:
        if one.id in hashers and hashers[one.id].finish() != one.id:
            raise one.wrong()


def is_parallel(ids: Sequence[ObjectId], one: Opened) -> bool:
    """Say whether several frames are decoded at a time: of several tensors each waits for all."""
    return len(ids) == 1 and frame_count(one.nbytes) > 1


@contextlib.contextmanager
def naming_damage(object_id: ObjectId) -> Generator[None]:
    """Name the object whose file is malformed."""
    try:
        yield
    except (MalformedObject, MalformedFrame) as error:
        raise Damaged(object_id, error.message) from error
