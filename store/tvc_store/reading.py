"""Reading objects, stored or borrowed: everything that is returned was verified against its id.

Absent on purpose: writing, and the choice of what to read.
"""

import contextlib
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import Final

from tvc_store.arrays import ByteArray
from tvc_store.borrowed import (
    BorrowedFile,
    BorrowedTensor,
    Source,
    SourceBook,
    SourceChanged,
    check_file,
)
from tvc_store.codecs import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import frame_count
from tvc_store.errors import IntegrityError, StoreError
from tvc_store.header import FRAME_BYTES, Header, MalformedObject
from tvc_store.ids import ObjectId, TensorHasher, blob_id
from tvc_store.layout import place
from tvc_store.objectfile import ObjectFile
from tvc_store.scratch import Scratch, allocate

__all__ = ["Damaged", "Misplaced", "Missing", "Opened", "Reader", "TooLarge"]


class Damaged(IntegrityError):
    """What lies in the place of an object is not that object."""

    def __init__(self, object_id: ObjectId, problem: str) -> None:
        super().__init__(
            f"object {object_id} is damaged: {problem}",
            hint="run `tvc fsck` to see what needs it and to mend it",
        )
        self.id = object_id


class Misplaced(Damaged):
    """A sound object lies in the place of another."""


class Missing(StoreError):
    """An object is neither stored nor borrowed."""

    def __init__(self, object_id: ObjectId) -> None:
        super().__init__(
            f"object {object_id} is missing",
            hint="run `tvc fsck` to see what needs it and where it could come from",
        )
        self.id = object_id


class TooLarge(StoreError):
    """A blob is larger than the caller is ready for."""


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
        with _damage(self.id):
            if self.base is not None:
                raise MalformedObject("a difference, where another object needs a base")
            self._held.read(start, out)

    def frame(self, index: int, out: ByteArray, base: ByteArray | None) -> None:
        """Fill `out` with one frame; not verified."""
        with _damage(self.id):
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
        with _damage(self.id):
            if isinstance(self._held, ObjectFile):
                self._held.check_structure()


_SCRATCH: Final = 48 << 20
"""Bytes of frames kept for the next tensor."""

_Target = Callable[[ObjectId, slice], ByteArray]
"""Where a frame of a tensor goes."""


class Reader:
    """Reads the objects of one store; safe for several threads.

    Args:
        root: The store's folder.
        book: Its sources.
    """

    def __init__(self, root: Path, book: SourceBook) -> None:
        self._root = root
        self._book = book
        self._scratch = Scratch(_SCRATCH)

    def open(self, object_id: ObjectId) -> ObjectFile:
        """Open a stored object; its content is not yet verified.

        Raises:
            Missing: It is not stored.
            Damaged: The file is not an object; Misplaced, where it is another one.
        """
        path = place(self._root, object_id)
        with _damage(object_id):
            try:
                if not S_ISDIR(path.parent.lstat().st_mode):
                    raise MalformedObject(f"{path.parent} is not a folder")
                file = ObjectFile(path)
            except (FileNotFoundError, NotADirectoryError):
                raise Missing(object_id) from None
        if file.header.id != object_id:
            file.close()
            raise Misplaced(object_id, f"{path} holds the object {file.header.id}")
        return file

    @contextlib.contextmanager
    def opened(self, object_id: ObjectId) -> Generator[Opened]:
        """Open a tensor; nothing that is read from it is verified.

        Raises:
            Missing: It is neither stored nor borrowed.
            Damaged: The file is not an object; reading raises it too.
            SourceChanged: It is borrowed, and no source looks as it did; reading raises it too.
        """
        with contextlib.ExitStack() as stack:
            yield self._enter(stack, object_id)

    def tensor(self, object_id: ObjectId) -> tuple[TensorSpec, ByteArray]:
        """Return a tensor's type and shape, and its bytes; see `Store.read_tensor`."""
        try:
            with self.open(object_id) as file:
                spec, base = _spec(object_id, file.header), file.header.base
        except Missing:
            return self._borrowed(object_id)
        out = allocate(spec.nbytes)
        try:
            self._fill(object_id, out)
        except IntegrityError:
            if base is None or self.spec(base) != spec:
                raise
            # The base is not verified on its own, which saves a pass. This finds which of the two
            # is wrong, or another source of the base that is right.
            self._fill(object_id, out, base=self._trusted_base(base))
        return spec, out

    def stream(
        self,
        ids: Sequence[ObjectId],
        *,
        only: Collection[int] | None = None,
        into: Mapping[ObjectId, ByteArray] | None = None,
    ) -> Generator[list[ByteArray]]:
        """Yield the frames of several tensors in step; see `Store.stream_tensors`."""
        whole = into or {}
        with contextlib.ExitStack() as stack:
            opened = self._open_all(stack, ids)
            scratch: dict[ObjectId, ByteArray] = {}
            for one in opened:
                if one.id not in whole:
                    frame = scratch[one.id] = self._scratch.take(min(FRAME_BYTES, one.nbytes))
                    stack.callback(self._scratch.give, frame)

            def target(id_: ObjectId, part: slice) -> ByteArray:
                return whole[id_][part] if id_ in whole else scratch[id_][: part.stop - part.start]

            yield from _in_step(opened, ids, target, only)

    def blob(self, object_id: ObjectId, *, limit: int) -> bytes:
        """Return a blob of at most `limit` bytes; see `Store.read_blob`."""
        with self.open(object_id) as file:
            header = file.header
            if header.kind != "blob":
                raise Damaged(object_id, "a tensor, where a blob was asked for")
            if header.raw_length > limit:
                raise TooLarge(
                    f"blob {object_id} has {header.raw_length} bytes, at most {limit} are read"
                )
            out = allocate(header.raw_length)
            with _damage(object_id):
                file.check_structure()
                file.read(0, out)
        if blob_id(out) != object_id:
            raise Damaged(object_id, "the content is another")
        return out.tobytes()

    def spec(self, object_id: ObjectId) -> TensorSpec:
        """Return a tensor's type and shape; see `Store.tensor_spec`."""
        try:
            with self.open(object_id) as file:
                return _spec(object_id, file.header)
        except Missing:
            return self.places(object_id)[0][1].spec

    def base(self, object_id: ObjectId) -> ObjectId | None:
        """Return the tensor from which a stored object is a difference, or None.

        Raises:
            Missing: It is not stored.
            Damaged: The header is not that of the id.
        """
        with self.open(object_id) as file:
            return file.header.base

    def places(self, object_id: ObjectId) -> list[tuple[Source, BorrowedTensor]]:
        """Return where a tensor can be borrowed, at least one place.

        Raises:
            Missing: Nowhere.
            DamagedRecord: The record of a source cannot be believed.
        """
        places = self._book.places(object_id)
        if not places:
            raise Missing(object_id)
        return places

    def borrowed_from(
        self, object_id: ObjectId, source: Source, tensor: BorrowedTensor
    ) -> ByteArray:
        """Return the bytes of a tensor from one source, verified.

        Raises:
            SourceChanged: The file is not what it was.
        """
        out = allocate(tensor.spec.nbytes)
        with BorrowedFile(source, tensor) as file:
            opened = Opened(object_id, tensor.spec, file)
            for _ in _in_step([opened], [object_id], lambda _, part: out[part], None):
                pass
        return out

    def _enter(self, stack: contextlib.ExitStack, object_id: ObjectId) -> Opened:
        try:
            file = stack.enter_context(self.open(object_id))
        except Missing:
            source, tensor = self._believable(object_id)
            borrowed = stack.enter_context(BorrowedFile(source, tensor))
            return Opened(object_id, tensor.spec, borrowed)
        return Opened(object_id, _spec(object_id, file.header), file)

    def _open_all(self, stack: contextlib.ExitStack, ids: Sequence[ObjectId]) -> list[Opened]:
        """Open tensors and the bases that they are differences from, bases first."""
        opened = {object_id: self._enter(stack, object_id) for object_id in dict.fromkeys(ids)}
        for one in list(opened.values()):
            if one.base is None:
                continue
            base = opened.get(one.base) or self._enter(stack, one.base)
            if base.base is not None:
                raise Damaged(base.id, "a difference, where another object needs a base")
            if base.spec != one.spec:
                raise Damaged(one.id, f"its base {base.id} has another type or shape")
            opened[base.id] = base
        return sorted(opened.values(), key=lambda one: one.base is not None)

    def _fill(self, object_id: ObjectId, out: ByteArray, *, base: ByteArray | None = None) -> None:
        """Fill `out` with a stored tensor, verified.

        Args:
            object_id: The tensor.
            out: uint8 (nbytes,).
            base: The whole base, where it is not to be read from where it lies.
        """
        with contextlib.ExitStack() as stack:
            if base is None:
                opened = self._open_all(stack, [object_id])
            else:
                opened = [self._enter(stack, object_id)]
            scratch = {
                one.id: allocate(min(FRAME_BYTES, one.nbytes))
                for one in opened
                if one.id != object_id
            }

            def target(id_: ObjectId, part: slice) -> ByteArray:
                return out[part] if id_ == object_id else scratch[id_][: part.stop - part.start]

            for _ in _in_step(opened, [object_id], target, None, base=base):
                pass

    def _trusted_base(self, base: ObjectId) -> ByteArray:
        with contextlib.suppress(Missing):
            if self.base(base) is not None:
                raise Damaged(base, "a difference, where another object needs a base")
        return self.tensor(base)[1]

    def _borrowed(self, object_id: ObjectId) -> tuple[TensorSpec, ByteArray]:
        failures: list[IntegrityError] = []
        for source, tensor in self.places(object_id):
            try:
                return tensor.spec, self.borrowed_from(object_id, source, tensor)
            except SourceChanged as error:
                failures.append(error)
        raise failures[0]

    def _believable(self, object_id: ObjectId) -> tuple[Source, BorrowedTensor]:
        """Return the first place whose file looks as it did when it was hashed.

        Where that leaves a choice, the first that is verified: what is streamed cannot be taken
        from elsewhere once it has turned out to be wrong.
        """
        failures: list[IntegrityError] = []
        believable: list[tuple[Source, BorrowedTensor]] = []
        for source, tensor in self.places(object_id):
            try:
                check_file(source, tensor.file)
            except SourceChanged as error:
                failures.append(error)
            else:
                believable.append((source, tensor))
        if not believable:
            raise failures[0]
        for source, tensor in believable[:-1]:
            with contextlib.suppress(SourceChanged):
                self.borrowed_from(object_id, source, tensor)
                return source, tensor
        return believable[-1]


def _in_step(
    opened: Sequence[Opened],
    ids: Sequence[ObjectId],
    target: _Target,
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
    count = max((frame_count(one.nbytes) for one in opened), default=0)
    for index in range(count) if only is None else sorted(only):
        frames: dict[ObjectId, ByteArray] = {}
        for one in opened:
            start = min(index * FRAME_BYTES, one.nbytes)
            part = slice(start, min(start + FRAME_BYTES, one.nbytes))
            frame = frames[one.id] = target(one.id, part)
            if frame.size:
                origin = frames[one.base] if one.base and base is None else None
                one.frame(index, frame, origin if base is None else base[part])
            if only is None and one.id in hashers:
                hashers[one.id].update(frame)
        yield [frames[id_] for id_ in ids]
    if only is not None:
        return
    for one in opened:
        if one.id in hashers and hashers[one.id].finish() != one.id:
            raise one.wrong()


@contextlib.contextmanager
def _damage(object_id: ObjectId) -> Generator[None]:
    """Name the object whose file is malformed."""
    try:
        yield
    except (MalformedObject, MalformedFrame) as error:
        raise Damaged(object_id, error.message) from error


def _spec(object_id: ObjectId, header: Header) -> TensorSpec:
    if header.spec is None:
        raise Damaged(object_id, "a blob, where a tensor was asked for")
    return header.spec
