"""Writing a model's weights: sizes first, then tensors in any order and by pieces, from any thread.

The header of every shard is written before the first tensor, since types and shapes are known; so
nothing is buffered, and a full disk is known at the start. The disk is told of every piece at once,
so that the flush at the end is short. Building beside the target and renaming
is deliberately left to the caller, who writes the other files too.
"""

import errno
import json
import os
import re
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tvc.domain.errors import InputError
from tvc.models.copying import copy_range
from tvc.models.header import MAX_TENSORS, Header, TensorEntry, make_header
from tvc.models.weights import INDEX, SINGLE
from tvc_store.buffers import Buffer, flat_view
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import PIECE, sync_folder, write_durably, write_errors
from tvc_store.ids import ObjectId, TensorHasher
from tvc_store.publishing import start_writing_back

__all__ = [
    "SHARD_BYTES",
    "BadSize",
    "ModelWriter",
    "Shard",
    "parse_size",
    "plan_shards",
    "shard_header",
]

_UNITS: Final = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE: Final = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,9})?) ?(?P<unit>[A-Za-z]{0,3})", re.ASCII)
SHARD_BYTES: Final = 5_000_000_000
"""Of tensors in a file, where nobody says otherwise."""
_MAX_SHARDS: Final = 99_999  # five digits in the names
_CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_COPIED: Final = 8 << 20  # bytes copied at a time, before they are read back
_WORTH_TELLING: Final = 1 << 20  # bytes from which on the disk is told to begin
_HASHED: Final = 1 << 20  # bytes read back at a time: a cache's size


class BadSize(InputError):
    """A size cannot be understood, or asks for too many files."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write.

    Args:
        file: Its name.
        names: Its tensors, in the order of their bytes.
        nbytes: Bytes of the tensors together.
    """

    file: str
    names: tuple[str, ...]
    nbytes: int


def parse_size(size: str | int) -> int:
    """Return a number of bytes from `5GB`, `500MB`, `1GiB`, `1.5 GB` or a plain number.

    Raises:
        BadSize: It is something else, or less than one byte.
    """
    match = _SIZE.fullmatch(str(size).strip())
    unit = _UNITS.get(match["unit"].upper()) if match else None
    if match is None or unit is None:
        raise BadSize(f"'{str(size)[:40]!s}' is not a size", hint="write 5GB, 500MB or 1GiB")
    whole, _, fraction = match["number"].partition(".")
    count = int(whole) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
    if count < 1:
        raise BadSize(f"'{size}' is less than one byte", hint="write 5GB, 500MB or 1GiB")
    return count


def plan_shards(specs: Mapping[str, TensorSpec], *, shard_size: int) -> list[Shard]:
    """Divide tensors into files, as transformers names them; the order of `specs` does not matter.

    Args:
        specs: Tensor name → type and shape.
        shard_size: Bytes of tensors that a file may hold; a larger tensor has a file to itself.

    Raises:
        BadSize: There would be too many files.
    """
    groups: list[list[str]] = [[]]
    used = 0
    for name in sorted(specs):
        nbytes = specs[name].nbytes
        full = used + nbytes > shard_size or len(groups[-1]) >= MAX_TENSORS
        if full and groups[-1]:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += nbytes
    if len(groups) > _MAX_SHARDS:
        raise BadSize(f"shards of {shard_size} bytes would be {len(groups)} files", hint="use 5GB")
    count = len(groups)
    return [
        _shard(SINGLE if count == 1 else f"model-{n:05}-of-{count:05}.safetensors", group, specs)
        for n, group in enumerate(groups, 1)
    ]


class ModelWriter:
    """Writes the shards of one model into a folder.

    Args:
        folder: Where; it exists.
        shards: What `plan_shards` returned.
        specs: Tensor name → type and shape, of exactly the tensors in the shards.
        present: Names of shards that are in the folder already, whole.

    Raises:
        WriteFailed: The system refused; there may be no room for all of it.
        BadTensorName: A tensor's name is unsafe.
        UnsupportedFile: A shard's header would be larger than tvc reads.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        specs: Mapping[str, TensorSpec],
        *,
        present: Collection[str] = (),
    ) -> None:
        self._folder = folder
        self._files = [shard.file for shard in shards]
        self._entries: dict[str, TensorEntry] = {}
        self._written: dict[str, int] = {}
        headers = {shard.file: shard_header(shard, specs) for shard in shards}
        for header in headers.values():
            self._entries |= {entry.name: entry for entry in header.entries}
        if self._entries.keys() != specs.keys():
            raise ValueError("the shards do not hold exactly the tensors of the specs")
        for shard in shards:
            if shard.file in present:
                self._written |= {name: specs[name].nbytes for name in shard.names}
            else:
                self._create(shard, headers[shard.file])

    def write(self, name: str, data: Buffer) -> None:
        """Write a tensor's bytes; each tensor once.

        Args:
            name: The tensor's name.
            data: Its bytes, contiguous, little-endian, row-major.

        Raises:
            WriteFailed: The system refused.
        """
        nbytes, given = self._entries[name].spec.nbytes, len(flat_view(data))
        if given != nbytes:
            raise ValueError(f"{name} has {nbytes} bytes, {given} were given")
        self.write_at(name, 0, data)

    def write_at(self, name: str, start: int, data: Buffer) -> None:
        """Write the next of a tensor's bytes; one thread a tensor, each byte once.

        Args:
            name: The tensor's name.
            start: The first of them: the number that was written before.
            data: As for `write`.

        Raises:
            WriteFailed: The system refused.
        """
        entry, view = self._entries[name], flat_view(data)
        self._count(name, start, len(view))
        with self._opened(entry.file, os.O_WRONLY) as fd:
            _write_at(fd, view, entry.offset + start)
            if len(view) >= _WORTH_TELLING:
                start_writing_back(fd, entry.offset + start, len(view))

    def copy(self, name: str, source: int, offset: int) -> ObjectId | None:
        """Let the system copy a tensor from another file, sharing blocks where it can.

        Args:
            name: The tensor's name; nothing of it was written.
            source: The file, open for reading.
            offset: The tensor's first byte in it.

        Returns:
            The id of what is now there, read back; None where the file cannot be read so far. What
            it should not be is undone by `discard`.

        Raises:
            WriteFailed: The system refused.
        """
        entry = self._entries[name]
        self._count(name, 0, entry.spec.nbytes)
        hasher = TensorHasher(entry.spec)
        with self._opened(entry.file, os.O_RDWR) as fd:
            for start in range(0, entry.spec.nbytes, _COPIED):
                size = min(_COPIED, entry.spec.nbytes - start)
                if not copy_range(source, offset + start, fd, entry.offset + start, size):
                    return None
                _hash_range(hasher, fd, entry.offset + start, size)
                start_writing_back(fd, entry.offset + start, size)
        return hasher.finish()

    def discard(self, name: str) -> None:
        """Forget what was written of a tensor, so that it is written again."""
        self._written.pop(name, None)

    def finish(self) -> tuple[str, ...]:
        """Check that all is written, write the index where there are several shards, and flush.

        Returns:
            The names of the files, the index included.

        Raises:
            WriteFailed: The system refused.
        """
        missing = sorted(
            name
            for name, entry in self._entries.items()
            if self._written.get(name, 0) != entry.spec.nbytes
        )
        if missing:
            raise ValueError(f"{len(missing)} tensors were not written, the first is {missing[0]}")
        for file in self._files:
            with self._opened(file, os.O_RDONLY) as fd:
                os.fsync(fd)
        with write_errors(self._folder):
            if len(self._files) > 1:
                write_durably(self._folder / INDEX, [self._index()])
            sync_folder(self._folder)
        return (*self._files, *((INDEX,) if len(self._files) > 1 else ()))

    def _count(self, name: str, start: int, size: int) -> None:
        # One thread a tensor, and a dictionary's items are set in one step: no lock is needed.
        written, nbytes = self._written.get(name, 0), self._entries[name].spec.nbytes
        if start != written or start + size > nbytes:
            raise ValueError(
                f"{name} was written twice, or in the wrong order: {size} bytes at {start} "
                f"of {nbytes}, after {written}"
            )
        self._written[name] = start + size

    def _create(self, shard: Shard, header: Header) -> None:
        path = self._folder / shard.file
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with write_errors(path):
            fd = os.open(path, flags, 0o644)
            try:
                _reserve(fd, len(header.raw) + shard.nbytes)
                _write_at(fd, memoryview(header.raw), 0)
            finally:
                os.close(fd)

    @contextmanager
    def _opened(self, file: str, flags: int) -> Generator[int]:
        # Opened for each write: a few microseconds, against a descriptor held for every shard.
        path = self._folder / file
        with write_errors(path):
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                yield fd
            finally:
                os.close(fd)

    def _index(self) -> bytes:
        total = sum(entry.spec.nbytes for entry in self._entries.values())
        weight_map = {name: entry.file for name, entry in sorted(self._entries.items())}
        body = {"metadata": {"total_size": total}, "weight_map": weight_map}
        return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"


def shard_header(shard: Shard, specs: Mapping[str, TensorSpec]) -> Header:
    """Return the header of a shard; its bytes follow from the tensors' names and types alone.

    Raises:
        BadTensorName: A tensor's name is unsafe.
        UnsupportedFile: It would be larger than tvc reads.
    """
    return make_header({name: specs[name] for name in shard.names}, file=shard.file)


def _shard(file: str, names: Sequence[str], specs: Mapping[str, TensorSpec]) -> Shard:
    # Wide elements first, as safetensors itself orders them, so that every tensor is aligned.
    ordered = tuple(sorted(names, key=lambda name: (-specs[name].itemsize, name)))
    return Shard(file, ordered, sum(specs[name].nbytes for name in ordered))


def _reserve(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise
        os.ftruncate(fd, size)


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done : done + PIECE], offset + done)


def _hash_range(hasher: TensorHasher, fd: int, offset: int, size: int) -> None:
    buffer = memoryview(bytearray(min(_HASHED, size)))
    while size:
        count = os.preadv(fd, [buffer[:size]], offset)
        assert count, "a file that was just written ends too soon"
        hasher.update(buffer[:count])
        offset, size = offset + count, size - count
