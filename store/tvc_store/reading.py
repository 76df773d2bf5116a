"""Reading objects, stored or borrowed: everything that is returned was verified against its id.

Absent on purpose: writing, and the choice of what to read.
"""

import contextlib
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
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
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError, StoreError
from tvc_store.header import FRAME_BYTES, Header, MalformedObject
from tvc_store.ids import ObjectId, blob_id
from tvc_store.layout import place
from tvc_store.objectfile import ObjectFile
from tvc_store.opened import Damaged, Opened, in_step, is_parallel, naming_damage
from tvc_store.ordered import DEPTH
from tvc_store.scratch import Scratch, allocate

__all__ = ["Misplaced", "Missing", "Reader", "TooLarge"]

_SCRATCH: Final = 96 << 20
"""Bytes of frames kept for the next tensor."""


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


class Reader:
    """Reads the objects of one store; safe for several threads.

    Args:
        root: The store's folder.
        book: Its sources.
    """

    scratch: Scratch
    """Memory for frames, of reading and of writing."""

    def __init__(self, root: Path, book: SourceBook) -> None:
        self._root = root
        self._book = book
        self.scratch = Scratch(_SCRATCH)

    def open(self, object_id: ObjectId) -> ObjectFile:
        """Open a stored object; its content is not yet verified.

        Raises:
            Missing: It is not stored.
            Damaged: The file is not an object; Misplaced, where it is another one.
        """
        path = place(self._root, object_id)
        with naming_damage(object_id):
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
            rings: dict[ObjectId, list[ByteArray]] = {}
            for one in opened:
                # Frames of several tensors come one after another: they fill enough memory so.
                count = DEPTH if is_parallel(ids, one) else 1
                ring = rings[one.id] = [
                    self.scratch.take(min(FRAME_BYTES, one.nbytes))
                    for _ in range(0 if one.id in whole else count)
                ]
                stack.callback(self._give, ring)

            def target(id_: ObjectId, part: slice, turn: int) -> ByteArray:
                if id_ in whole:
                    return whole[id_][part]
                return rings[id_][turn % len(rings[id_])][: part.stop - part.start]

            # Closed before the memory is given back: threads may be at work in it.
            yield from stack.enter_context(closing(in_step(opened, ids, target, only)))

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
            with naming_damage(object_id):
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
            for _ in in_step([opened], [object_id], lambda _, part, __: out[part], None):
                pass
        return out

    def _give(self, ring: list[ByteArray]) -> None:
        for frame in ring:
            self.scratch.give(frame)

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
                frames = self.stream([object_id], into={object_id: out})
            else:
                opened = [self._enter(stack, object_id)]
                frames = in_step(opened, [object_id], lambda _, at, __: out[at], None, base=base)
            for _ in frames:
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


def _spec(object_id: ObjectId, header: Header) -> TensorSpec:
    if header.spec is None:
        raise Damaged(object_id, "a blob, where a tensor was asked for")
    return header.spec
