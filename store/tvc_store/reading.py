"""Reading objects, stored or borrowed: everything that is returned was verified against its id.

Absent on purpose: writing, and the choice of what to read.
"""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from stat import S_ISDIR

from tvc_store.arrays import ByteArray
from tvc_store.borrowed import (
    BorrowedTensor,
    Source,
    SourceBook,
    SourceChanged,
    borrowed_frames,
    check_file,
)
from tvc_store.codecs import MalformedFrame
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError, StoreError
from tvc_store.header import FRAME_BYTES, Header, MalformedObject
from tvc_store.ids import ObjectId, TensorHasher, blob_id
from tvc_store.layout import place
from tvc_store.objectfile import ObjectFile, allocate

__all__ = ["Damaged", "Misplaced", "Missing", "Reader", "TooLarge"]


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


class Reader:
    """Reads the objects of one store; safe for several threads.

    Args:
        root: The store's folder.
        book: Its sources.
    """

    def __init__(self, root: Path, book: SourceBook) -> None:
        self._root = root
        self._book = book

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

    def tensor(self, object_id: ObjectId) -> tuple[TensorSpec, ByteArray]:
        """Return a tensor's type and shape, and its bytes; see `Store.read_tensor`."""
        try:
            file = self.open(object_id)
        except Missing:
            return self._borrowed(object_id)
        with file:
            return self._stored(object_id, file)

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
                for _ in file.frames(None, out):
                    pass
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

    def frames(self, object_id: ObjectId) -> Generator[ByteArray]:
        """Yield the frames of a tensor that may serve as a base; the content is not verified.

        Raises:
            Missing: It is neither stored nor borrowed.
            Damaged: The file is not an object, or is a difference itself.
            SourceChanged: It is borrowed, and no source looks as it did.
        """
        try:
            file = self.open(object_id)
        except Missing:
            source, tensor = self._believable(object_id)
            yield from borrowed_frames(source, tensor)
            return
        with file, _damage(object_id):
            if file.header.base is not None:
                raise MalformedObject("a difference, where another object needs a base")
            yield from file.frames(None)

    def verified(
        self, object_id: ObjectId, spec: TensorSpec, frames: Iterator[ByteArray]
    ) -> Generator[ByteArray]:
        """Pass frames on, and fail after the last where they are not those of the id.

        Raises:
            Damaged: They are not.
        """
        hasher = TensorHasher(spec)
        for frame in frames:
            hasher.update(frame)
            yield frame
        if hasher.finish() != object_id:
            raise Damaged(object_id, "the content is another")

    def borrowed_from(
        self, object_id: ObjectId, source: Source, tensor: BorrowedTensor
    ) -> ByteArray:
        """Return the bytes of a tensor from one source, verified.

        Raises:
            SourceChanged: The file is not what it was.
        """
        out = allocate(tensor.spec.nbytes)
        try:
            for _ in self.verified(object_id, tensor.spec, borrowed_frames(source, tensor, out)):
                pass
        except Damaged as error:
            problem = f"no longer holds {object_id} at byte {tensor.offset}"
            raise SourceChanged(source, tensor.file, problem) from error
        return out

    def _stored(self, object_id: ObjectId, file: ObjectFile) -> tuple[TensorSpec, ByteArray]:
        spec, base = _spec(object_id, file.header), file.header.base
        if base is None:
            return spec, self._decoded(object_id, spec, file, None)
        if self.spec(base) != spec:
            raise Damaged(object_id, f"its base {base} has another type or shape")
        # The base is not verified on its own, which saves a pass: a wrong one gives a wrong result.
        try:
            return spec, self._decoded(object_id, spec, file, self.frames(base))
        except IntegrityError:
            content = self._trusted_base(
                base
            )  # finds which is wrong, or another source that is right
        return spec, self._decoded(object_id, spec, file, _cut(content))

    def _decoded(
        self,
        object_id: ObjectId,
        spec: TensorSpec,
        file: ObjectFile,
        base: Iterator[ByteArray] | None,
    ) -> ByteArray:
        out = allocate(spec.nbytes)
        with _damage(object_id):
            for _ in self.verified(object_id, spec, file.frames(base, out)):
                pass
        return out

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
        """Return the first place whose file looks as it did when it was hashed."""
        failures: list[IntegrityError] = []
        for source, tensor in self.places(object_id):
            try:
                check_file(source, tensor.file)
            except SourceChanged as error:
                failures.append(error)
            else:
                return source, tensor
        raise failures[0]


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


def _cut(content: ByteArray) -> Iterator[ByteArray]:
    for start in range(0, content.size, FRAME_BYTES):
        yield content[start : start + FRAME_BYTES]
