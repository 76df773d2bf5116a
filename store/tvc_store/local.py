"""The store in a folder: tensors and blobs by the hash of their content.

Every read is verified against the id that was asked for. Absent on purpose: which objects are
needed (collect.py is told), locking between commands (the callers', with lock.py), models and git.
"""

import contextlib
import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Final, Self

from tvc_store.arrays import ByteArray, byte_view
from tvc_store.borrowed import Source, SourceBook
from tvc_store.buffers import Buffer
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import make_folder, write_durably
from tvc_store.elements import Elements, InMemory
from tvc_store.errors import StoreError
from tvc_store.ids import ObjectId, blob_id, tensor_id
from tvc_store.layout import FORMAT_FILE, SOURCES_FOLDER, fan_folders, object_at, place
from tvc_store.publishing import Publisher
from tvc_store.reading import Reader
from tvc_store.writing import OnFrame, ignore_frame, write_blob, write_tensor

__all__ = ["Store", "UnknownFormat"]

_FORMAT: Final = "tvc-store 1\n"


class UnknownFormat(StoreError):
    """The folder is not a store, or one of a version that this program does not know."""


class Store:
    """A store of objects in a folder; made by `Store.create` or `Store.open`.

    Safe for use by several threads and processes at once.

    Args:
        path: The folder, a store already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = SourceBook(path / SOURCES_FOLDER)
        self.reader = Reader(path, self.book)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a store; one that is there already is opened.

        Args:
            path: The folder; its parent exists.

        Raises:
            WriteFailed: The system refused.
            UnknownFormat: There is a store of another version.
        """
        make_folder(path)
        make_folder(path / SOURCES_FOLDER)
        if not (path / FORMAT_FILE).exists():
            write_durably(path / FORMAT_FILE, [_FORMAT.encode()])
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a store.

        Raises:
            UnknownFormat: The folder is not a store, or one of another version.
        """
        try:
            with (path / FORMAT_FILE).open("rb") as file:
                text = file.read(64).decode("ascii", "replace")
        except OSError as error:
            raise UnknownFormat(f"{path} is not a store: {error.strerror}") from error
        if text != _FORMAT:
            raise UnknownFormat(
                f"{path} has the format {text.strip()!r}, this program knows {_FORMAT.strip()!r}",
                hint="a newer version of tvc may have written it",
            )
        return cls(path)

    def has(self, object_id: ObjectId) -> bool:
        """Say whether an object is stored or borrowed.

        Raises:
            DamagedRecord: The record of a source cannot be believed.
        """
        return self.is_stored(object_id) or bool(self.book.places(object_id))

    def is_stored(self, object_id: ObjectId) -> bool:
        """Say whether a file stands in the object's place."""
        try:
            return S_ISREG(place(self.path, object_id).lstat().st_mode)
        except OSError:
            return False

    def put_tensor(
        self,
        spec: TensorSpec,
        data: Buffer,
        *,
        base: ObjectId | None = None,
        codec: str | None = None,
    ) -> ObjectId:
        """Store a tensor, unless it is stored or borrowed already.

        Args:
            spec: Its type and shape.
            data: Its little-endian bytes, row-major.
            base: The tensor that this one was trained from. Where it has the same type and shape
                and is no difference itself, this one is stored as a difference if that is smaller.
            codec: The id of the codec to use, in place of the store's own choice.

        Returns:
            Its id.

        Raises:
            StoreError: The data has another length than the spec; or a kind of WriteFailed.
            Missing: The base is neither stored nor borrowed.
            Damaged: The base's bytes are not what its id says; SourceChanged likewise.
            UnknownCodec: The codec is not installed.
        """
        content = byte_view(data)
        object_id = tensor_id(spec, content)
        if not self._keep(object_id):
            write_tensor(
                self.path,
                self.reader,
                spec,
                InMemory(content),
                identity=object_id,
                base=base,
                codec=codec,
            )
        return object_id

    def put_elements(
        self,
        spec: TensorSpec,
        content: Elements,
        *,
        base: ObjectId | None = None,
        borrowed: bool = True,
        on_frame: OnFrame = ignore_frame,
        publisher: Publisher | None = None,
    ) -> ObjectId:
        """Store a tensor that need not be in memory; see `put_tensor`.

        Args:
            spec: Its type and shape.
            content: Its bytes, read once whole and in order, and a sample of them before.
            base: As for `put_tensor`.
            borrowed: Whether a tensor that is borrowed needs no object of its own.
            on_frame: Told the first byte and the content of every frame, in order, and the base's
                where the object becomes a difference from it; verified with the object.
            publisher: Makes the object durable, and visible, while others are written; it is both
                once the publisher's context has ended. At once where None.

        Returns:
            Its id.

        Raises:
            StoreError: As for `put_tensor`.
        """
        if content.nbytes != spec.nbytes:
            raise StoreError(f"{content.nbytes} bytes for a tensor of {spec.nbytes}")
        return write_tensor(
            self.path,
            self.reader,
            spec,
            content,
            base=base,
            keep=self._keep if borrowed else self.is_stored,
            on_frame=on_frame,
            publisher=publisher,
        )

    def put_blob(self, data: Buffer) -> ObjectId:
        """Store bytes, unless they are stored already, and return their id.

        Raises:
            WriteFailed: The system refused.
        """
        content = byte_view(data)
        object_id = blob_id(content)
        if not self._keep(object_id):
            write_blob(self.path, object_id, content)
        return object_id

    def read_tensor(self, object_id: ObjectId) -> tuple[TensorSpec, ByteArray]:
        """Return a tensor, verified.

        Returns:
            Its type and shape, and its bytes: uint8 (nbytes,), writable, the caller's own.

        Raises:
            Missing: It, or the base that it is a difference from, is neither stored nor borrowed.
            Damaged: The stored bytes are not those of the id.
            SourceChanged: It is borrowed, and the files are not what they were.
            StoreError: There is not enough memory.
        """
        return self.reader.tensor(object_id)

    def read_blob(self, object_id: ObjectId, *, limit: int = 1 << 28) -> bytes:
        """Return a blob, verified.

        Args:
            object_id: Its id.
            limit: Bytes that the caller is ready for.

        Raises:
            Missing: It is not stored.
            Damaged: The stored bytes are not those of the id.
            TooLarge: It is larger than the limit.
        """
        return self.reader.blob(object_id, limit=limit)

    def stream_tensors(
        self,
        ids: Sequence[ObjectId],
        *,
        only: Collection[int] | None = None,
        into: Mapping[ObjectId, ByteArray] | None = None,
    ) -> Generator[list[ByteArray]]:
        """Yield the frames of several tensors in step; they are verified after the last.

        Whoever uses a frame before the end must be ready to take back what it made of it.

        Args:
            ids: The tensors.
            only: Numbers of the frames to read; nothing is verified then.
            into: Where whole tensors go, uint8 (nbytes,) each: their frames are parts of it.

        Yields:
            A frame of each tensor, uint8 of at most 4 MiB, overwritten by the next; tensors that
            are shorter than the longest end in empty arrays.

        Raises:
            Missing: As for `read_tensor`, and so on for the others. Another source of a borrowed
                tensor is not tried: `read_tensor` does.
        """
        return self.reader.stream(ids, only=only, into=into)

    def read_beginning(self, object_id: ObjectId, out: ByteArray) -> None:
        """Fill `out` with the first bytes of a tensor, not verified: for what is only a guess.

        Args:
            object_id: The tensor.
            out: uint8 (n,), at most a frame's bytes and the tensor's.

        Raises:
            Missing: As for `read_tensor`, and so on for the others.
        """
        with self.reader.opened(object_id) as opened:
            if opened.base is None:
                opened.read(0, out)
                return
        with contextlib.closing(self.stream_tensors([object_id], only=[0])) as frames:
            out[:] = next(frames)[0][: out.size]

    def tensor_spec(self, object_id: ObjectId) -> TensorSpec:
        """Return the type and shape of a tensor, without reading its content.

        Raises:
            Missing: It is neither stored nor borrowed.
            Damaged: The header is not that of the id.
        """
        return self.reader.spec(object_id)

    def stored_size(self, object_id: ObjectId) -> int:
        """Return the bytes that an object's file has; 0 where it is borrowed.

        Raises:
            Missing: It is neither stored nor borrowed.
        """
        if self.is_stored(object_id):
            return place(self.path, object_id).lstat().st_size
        self.reader.places(object_id)
        return 0

    def borrow(self, source: Source) -> None:
        """Register a source durably, in place of an earlier one of its name.

        Raises:
            WriteFailed: The system refused.
        """
        make_folder(self.path / SOURCES_FOLDER)
        self.book.write(source)

    def sources(self) -> list[Source]:
        """Return the registered sources, by name.

        Raises:
            DamagedRecord: A record cannot be believed.
        """
        return self.book.sources()

    def object_ids(self) -> Iterator[ObjectId]:
        """Yield the ids of the stored objects, in order; one written meanwhile may be left out."""
        for folder in fan_folders(self.path):
            for path in sorted(folder.iterdir()):
                object_id = object_at(path)
                if object_id and self.is_stored(object_id):
                    yield object_id

    def _keep(self, object_id: ObjectId) -> bool:
        """Say whether an object is there; make a stored one young, so that `collect` spares it."""
        if not self.is_stored(object_id):
            return bool(self.book.places(object_id))
        with contextlib.suppress(OSError):  # a store that may only be read is not collected either
            os.utime(place(self.path, object_id))
        return True
