"""Tensors whose bytes stay in files elsewhere, such as those of a downloaded base model.

A source is a folder of files, with the size and modification time that each had when it was read
and hashed. A file that differs now is not believed; one that looks the same is still verified by
hash. Files may be symbolic links, since a hub cache is made of them. Absent on purpose: what the
files mean, their format, and names of tensors.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, Final, Self

from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import is_temporary, write_durably
from tvc_store.errors import IntegrityError, StoreError
from tvc_store.ids import ObjectId, hash_fields, parse_id

__all__ = [
    "BorrowedFile",
    "BorrowedTensor",
    "DamagedRecord",
    "Source",
    "SourceBook",
    "SourceChanged",
    "check_file",
]

_MAX_RECORD: Final = 1 << 28
_TITLE: Final = "tvc-source 1 "


class SourceChanged(IntegrityError):
    """A file of a source is not the one that was hashed, or is gone.

    Args:
        source: The source.
        file: The file, relative to its root.
        problem: What is different.
    """

    def __init__(self, source: "Source", file: str, problem: str) -> None:
        super().__init__(
            f"{source.root / file} of source {source.name!r} {problem}",
            hint="put the file back as it was, or register the source again from where it is now",
        )
        self.source = source.name
        self.file = file


class DamagedRecord(IntegrityError):
    """The store's own record of a source is not what was written."""


@dataclass(frozen=True, slots=True)
class BorrowedTensor:
    """Where a borrowed tensor lies.

    Args:
        file: The file, relative to the source's root, with forward slashes.
        offset: Its first byte in the file.
        spec: Its type and shape.

    Raises:
        StoreError: The file is not a plain relative path, or the offset is negative.
    """

    file: str
    offset: int
    spec: TensorSpec

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.file).parts
        plain = bool(parts) and "/".join(parts) == self.file and "\0" not in self.file
        if not plain or ".." in parts or parts[0] == "/":
            raise StoreError(f"not a plain relative path: {self.file!r}")
        if self.offset < 0:
            raise StoreError(f"impossible offset {self.offset} in {self.file!r}")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder from which tensors are borrowed.

    Args:
        name: What it is called; registering another source of the name replaces this one.
        root: The folder, absolute.
        files: Size in bytes and modification time in ns of each file, by path relative to `root`.
        tensors: Where each tensor lies.

    Raises:
        StoreError: The root is relative, or a tensor lies outside the files.
    """

    name: str
    root: Path
    files: Mapping[str, tuple[int, int]]
    tensors: Mapping[ObjectId, BorrowedTensor]

    def __post_init__(self) -> None:
        if not self.name:
            raise StoreError("a source without a name")
        if not self.root.is_absolute():
            raise StoreError(f"the root of source {self.name!r} is not absolute: {self.root}")
        for tensor in self.tensors.values():
            size = self.files.get(tensor.file, (-1, 0))[0]
            if tensor.offset + tensor.spec.nbytes > size:
                raise StoreError(f"a tensor of source {self.name!r} ends outside {tensor.file!r}")


@dataclass(frozen=True, slots=True)
class _State:
    """What the records said when they looked like `seen`."""

    seen: tuple[object, ...]
    sources: list[Source]
    places: dict[ObjectId, list[tuple[Source, BorrowedTensor]]]


class SourceBook:
    """The sources that a store knows, one record file each, followed as other processes write.

    Args:
        folder: Where the records lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = _State((), [], {})

    def write(self, source: Source) -> None:
        """Register a source durably, in place of an earlier one of its name.

        Raises:
            WriteFailed: The system refused.
        """
        write_durably(self.record_of(source.name), [_to_record(source)])

    def sources(self) -> list[Source]:
        """Return the sources, by name.

        Raises:
            DamagedRecord: A record cannot be believed.
        """
        return list(self._current().sources)

    def places(self, tensor: ObjectId) -> list[tuple[Source, BorrowedTensor]]:
        """Return where a tensor can be borrowed, by the sources' names.

        Raises:
            DamagedRecord: A record cannot be believed.
        """
        return self._current().places.get(tensor, [])

    def records(self) -> Iterator[Path]:
        """Yield the record files, by name."""
        paths = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        yield from (path for path in paths if not is_temporary(path.name))

    def load(self, record: Path) -> Source:
        """Read one record.

        Raises:
            DamagedRecord: It cannot be believed.
        """
        try:
            source = _from_record(_read_record(record))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, StoreError) as error:
            raise DamagedRecord(
                f"the record {record} of a source is damaged ({error})",
                hint="delete it and register the source again",
            ) from error
        if record != self.record_of(source.name):
            raise DamagedRecord(f"{record} is the record of another source, {source.name!r}")
        return source

    def _current(self) -> "_State":
        # A record is replaced by rename, so a new one has another inode or time.
        seen = tuple((path, s.st_ino, s.st_mtime_ns, s.st_size) for path, s in self._stats())
        state = self._state
        if seen == state.seen:
            return state
        sources = sorted((self.load(path) for path, *_ in seen), key=lambda source: source.name)
        places: dict[ObjectId, list[tuple[Source, BorrowedTensor]]] = {}
        for source in sources:
            for tensor, place in source.tensors.items():
                places.setdefault(tensor, []).append((source, place))
        self._state = state = _State(seen, sources, places)  # one assignment: safe among threads
        return state

    def _stats(self) -> Iterator[tuple[Path, os.stat_result]]:
        return ((path, path.lstat()) for path in self.records())

    def record_of(self, name: str) -> Path:
        """Return where the record of a source lies, or would."""
        return self._folder / f"{hash_fields('tvc.source', os.fsencode(name))[:32]}.json"


class BorrowedFile:
    """A borrowed tensor whose file is open; a context manager, and `Elements`.

    What is read is not verified.

    Args:
        source: The source.
        tensor: One of its tensors.

    Raises:
        SourceChanged: The file is gone, or has another size or time than when it was hashed.
    """

    def __init__(self, source: Source, tensor: BorrowedTensor) -> None:
        self.source = source
        self.tensor = tensor
        self._fd = _open(source, tensor.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def fileno(self) -> int:
        """Return the file's descriptor, open for reading."""
        return self._fd

    @property
    def nbytes(self) -> int:
        """Number of bytes of the tensor."""
        return self.tensor.spec.nbytes

    def read(self, start: int, out: ByteArray) -> None:
        """Fill `out` with the tensor's bytes from `start` on.

        Raises:
            SourceChanged: They cannot be read.
        """
        _fill(self._fd, out, self.tensor.offset + start, self.source, self.tensor.file)


def check_file(source: Source, file: str) -> None:
    """Compare a file's size and modification time with those it had when it was hashed.

    Raises:
        SourceChanged: They differ, or the file is gone.
    """
    os.close(_open(source, file))


def _open(source: Source, file: str) -> int:
    try:
        fd = os.open(source.root / file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SourceChanged(source, file, "is gone") from error
    except OSError as error:
        raise SourceChanged(source, file, f"cannot be opened: {error.strerror}") from error
    status = os.fstat(fd)
    problem = None
    if not S_ISREG(status.st_mode):
        problem = "is no longer a regular file"
    elif (status.st_size, status.st_mtime_ns) != tuple(source.files[file]):
        problem = "has changed since it was read (size or modification time)"
    if problem:
        os.close(fd)
        raise SourceChanged(source, file, problem)
    return fd


def _fill(fd: int, frame: ByteArray, offset: int, source: Source, file: str) -> None:
    done = 0
    while done < frame.size:
        try:
            count = os.preadv(fd, [frame[done:].data], offset + done)
        except OSError as error:
            raise SourceChanged(source, file, f"cannot be read: {error.strerror}") from error
        if not count:
            raise SourceChanged(source, file, "was cut short while it was read")
        done += count


def _to_record(source: Source) -> bytes:
    facts = {
        "name": source.name,
        "root": str(source.root),
        "files": source.files,
        "tensors": {
            tensor: [place.file, place.offset, place.spec.dtype, place.spec.shape]
            for tensor, place in source.tensors.items()
        },
    }
    body = json.dumps(facts, sort_keys=True).encode()
    return f"{_TITLE}{hash_fields('tvc.source', body)}\n".encode() + body


def _read_record(path: Path) -> Any:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        text = file.read(_MAX_RECORD + 1)
    title, _, body = text.partition(b"\n")
    if len(text) > _MAX_RECORD or title.decode() != _TITLE + hash_fields("tvc.source", body):
        raise ValueError("the checksum is wrong")
    return json.loads(body)


def _from_record(facts: Any) -> Source:
    return Source(
        name=str(facts["name"]),
        root=Path(facts["root"]),
        files={
            str(file): (int(size), int(mtime)) for file, (size, mtime) in facts["files"].items()
        },
        tensors={
            parse_id(tensor): BorrowedTensor(file, int(offset), TensorSpec(dtype, tuple(shape)))
            for tensor, (file, offset, dtype, shape) in facts["tensors"].items()
        },
    )
