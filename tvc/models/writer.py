"""Writing a model's weights: sizes first, then tensors in any order, from any thread.

The header of every shard is written before the first tensor, since types and shapes are known; so
nothing is buffered, and a full disk is known at the start. Building beside the target and renaming
is deliberately left to the caller, who writes the other files too.
"""

import errno
import json
import os
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tvc.domain.errors import InputError
from tvc.models.header import MAX_TENSORS, Header, TensorEntry, make_header
from tvc.models.weights import INDEX, SINGLE
from tvc_store.buffers import Buffer, flat_view
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import sync_folder, write_durably, write_errors

__all__ = ["BadSize", "ModelWriter", "Shard", "parse_size", "plan_shards"]

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
_MAX_SHARDS: Final = 99_999  # five digits in the names
_CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


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
    """Writes the shards of one model into a folder; a context manager.

    Args:
        folder: An existing folder that has none of the files yet.
        shards: What `plan_shards` returned for `specs`.
        specs: Tensor name → type and shape.

    Raises:
        WriteFailed: The files cannot be made, or there is no room for them.
        TvcError: A name cannot be written, see `make_header`.
    """

    def __init__(
        self, folder: Path, shards: Sequence[Shard], specs: Mapping[str, TensorSpec]
    ) -> None:
        self._folder = folder
        self._files: dict[str, int] = {}
        self._entries: dict[str, TensorEntry] = {}
        self._begun: set[str] = set()
        self._done: set[str] = set()
        self._lock = threading.Lock()
        headers = {
            shard.file: make_header({name: specs[name] for name in shard.names}, file=shard.file)
            for shard in shards
        }
        for header in headers.values():
            self._entries |= {entry.name: entry for entry in header.entries}
        if self._entries.keys() != specs.keys():
            raise ValueError("the shards do not hold exactly the tensors of the specs")
        for shard in shards:
            self._create(shard, headers[shard.file])

    def write(self, name: str, data: Buffer) -> None:
        """Write a tensor's bytes; each tensor once.

        Args:
            name: The tensor's name.
            data: Its bytes, contiguous, little-endian, row-major.

        Raises:
            WriteFailed: The system refused.
        """
        entry = self._entries[name]
        view = flat_view(data)
        if len(view) != entry.spec.nbytes:
            raise ValueError(f"{name} has {entry.spec.nbytes} bytes, {len(view)} were given")
        with self._lock:
            if name in self._begun:
                raise ValueError(f"{name} was written twice")
            self._begun.add(name)
        with self._opened(entry.file) as fd:
            _write_at(fd, view, entry.offset)
        with self._lock:
            self._done.add(name)

    def finish(self) -> tuple[str, ...]:
        """Check that all is written, write the index where there are several shards, and flush.

        Returns:
            The names of the files, the index included.

        Raises:
            WriteFailed: The system refused.
        """
        missing = sorted(self._entries.keys() - self._done)
        if missing:
            raise ValueError(f"{len(missing)} tensors were not written, the first is {missing[0]}")
        for file in self._files:
            with self._opened(file) as fd:
                os.fsync(fd)
        with write_errors(self._folder):
            if len(self._files) > 1:
                write_durably(self._folder / INDEX, [self._index()])
            sync_folder(self._folder)
        return (*self._files, *((INDEX,) if len(self._files) > 1 else ()))

    def _create(self, shard: Shard, header: Header) -> None:
        path = self._folder / shard.file
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        size = len(header.raw) + shard.nbytes
        with write_errors(path):
            fd = os.open(path, flags, 0o644)
            try:
                _reserve(fd, size)
                _write_at(fd, memoryview(header.raw), 0)
            finally:
                os.close(fd)
        self._files[shard.file] = size

    @contextmanager
    def _opened(self, file: str) -> Generator[int]:
        # Opened for each write: a few microseconds, against a descriptor held for every shard.
        path = self._folder / file
        with write_errors(path):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                yield fd
            finally:
                os.close(fd)

    def _index(self) -> bytes:
        total = sum(entry.spec.nbytes for entry in self._entries.values())
        weight_map = {name: entry.file for name, entry in sorted(self._entries.items())}
        body = {"metadata": {"total_size": total}, "weight_map": weight_map}
        return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"


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
        done += os.pwrite(fd, view[done:], offset + done)
