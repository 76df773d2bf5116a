"""A model's folder as a list of plain files that may be opened.

Every symbolic link is resolved here, once: it may point inside the folder, or, in the cache of the
Hugging Face hub (snapshots/REVISION/FILE → ../../blobs/HASH), inside that model's part of it.
Nothing here knows what a file is for.
"""

import errno
import os
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tvc.domain.errors import InputError
from tvc.domain.names import check_file_name, nearest, printable
from tvc_store.errors import IntegrityError

__all__ = [
    "ChangedFile",
    "Listing",
    "PlainFile",
    "UnsafeFile",
    "list_folder",
    "open_plain",
    "read_open",
    "read_plain",
    "read_range",
    "resolve_folder",
]

_MAX_ENTRIES: Final = 20_000
# O_NONBLOCK: opening a fifo that took the place of a file must not wait for a writer.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class UnsafeFile(InputError):
    """A file of a model folder is a device, a pipe, or a link that leads elsewhere."""


class ChangedFile(IntegrityError):
    """A file is no longer the one that was looked at."""


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A regular file as it was when it was looked at.

    Args:
        path: Where it is, all links resolved.
        size: Bytes.
        mtime_ns: Time of the last change, in nanoseconds.
    """

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Listing:
    """One folder: its plain files, and what lies in it but is not looked into.

    Args:
        files: Name → file, sorted by name.
        folders: Names of folders, sorted.
        hidden: Names that begin with a dot, sorted, safe to print; nothing else of them is checked.
    """

    files: Mapping[str, PlainFile]
    folders: tuple[str, ...]
    hidden: tuple[str, ...]


def resolve_folder(path: Path) -> Path:
    """Return the folder at `path` with all links resolved.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    try:
        root = path.resolve(strict=True)
        if root.is_dir():
            return root
    except (OSError, ValueError, RuntimeError):
        raise InputError(
            f"there is no folder {printable(str(path), limit=400)}", hint=_sibling_hint(path)
        ) from None
    raise InputError(f"{printable(str(path), limit=400)} is not a folder")


def list_folder(root: Path, *, sub: str = "") -> Listing:
    """List `root`, or its folder `sub`, and check every visible entry.

    Args:
        root: The model's folder, all links resolved.
        sub: A folder in it, relative; empty for `root` itself.

    Raises:
        UnsafeFile: An entry is neither a file nor a folder, or a link that leads elsewhere.
        BadName: An entry's name is unsafe.
        InputError: The folder cannot be read, or has too many entries.
    """
    folder = root / sub
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 -- names, not paths, are what is checked
    except OSError as error:
        raise InputError(f"{printable(str(folder))}: {os.strerror(error.errno or 0)}") from None
    if len(names) > _MAX_ENTRIES:
        raise InputError(f"{printable(str(folder))} has {len(names)} entries: no model folder")
    files: dict[str, PlainFile] = {}
    folders: list[str] = []
    for name in names:
        if name.startswith("."):
            continue
        check_file_name(name)
        found = _look_at(folder / name, root=root)
        if found is None:
            folders.append(name)
        else:
            files[name] = found
    return Listing(
        files, tuple(folders), tuple(printable(name) for name in names if name[0] == ".")
    )


@contextmanager
def open_plain(file: PlainFile) -> Generator[int]:
    """Open a file for reading, if it is still the one that was looked at; yields the descriptor.

    Raises:
        ChangedFile: It is gone, or has another size, time or kind.
    """
    try:
        fd = os.open(file.path, _FLAGS)
    except OSError as error:
        raise _changed(file, f"cannot be opened: {os.strerror(error.errno or 0)}") from None
    try:
        _check_unchanged(fd, file)
        yield fd
    finally:
        os.close(fd)


def read_range(file: PlainFile, out: memoryview, *, offset: int) -> None:
    """Fill `out`, flat bytes, from byte `offset` of a file.

    Raises:
        ChangedFile: The file is no longer the one that was looked at, or cannot be read.
    """
    with open_plain(file) as fd:
        read_open(fd, file, out, offset=offset)


def read_open(fd: int, file: PlainFile, out: memoryview, *, offset: int) -> None:
    """Fill `out`, flat bytes, from byte `offset` of a file that `open_plain` opened.

    Raises:
        ChangedFile: As for `read_range`.
    """
    _check_unchanged(fd, file)
    done = 0
    while done < len(out):
        try:
            count = os.preadv(fd, [out[done:]], offset + done)
        except OSError as error:
            raise _changed(file, f"cannot be read: {os.strerror(error.errno or 0)}") from None
        if count == 0:
            raise _changed(file, "became shorter while tvc was reading it")
        done += count


def read_plain(file: PlainFile, *, limit: int) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises:
        InputError: It is larger.
        ChangedFile: It is no longer the one that was looked at.
    """
    if file.size > limit:
        raise InputError(f"{printable(file.path.name)} has {file.size} bytes, more than {limit}")
    data = bytearray(file.size)
    read_range(file, memoryview(data), offset=0)
    return bytes(data)


def _check_unchanged(fd: int, file: PlainFile) -> None:
    status = os.fstat(fd)
    now = (stat.S_ISREG(status.st_mode), status.st_size, status.st_mtime_ns)
    if now != (True, file.size, file.mtime_ns):
        raise _changed(file, "changed while tvc was reading it")


def _look_at(path: Path, *, root: Path) -> PlainFile | None:
    """Return the file at `path`, or None for a folder."""
    shown = printable(str(path.relative_to(root)))
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return None
    if stat.S_ISLNK(status.st_mode):
        path = _resolve_link(path, root=root, shown=shown)
        status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFile(f"{shown} in {printable(root.name)} is not a plain file")
    return PlainFile(path, status.st_size, status.st_mtime_ns)


def _resolve_link(path: Path, *, root: Path, shown: str) -> Path:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        # Python 3.11 reports a loop as RuntimeError, later ones as OSError.
        why = "to nothing" if getattr(error, "errno", 0) == errno.ENOENT else "in a circle"
        raise UnsafeFile(f"the link {shown} leads {why}") from None
    if target.is_dir():
        raise UnsafeFile(f"the link {shown} leads to a folder", hint="copy the folder instead")
    if not target.is_relative_to(_allowed(root)):
        raise UnsafeFile(
            f"the link {shown} leads out of the model folder", hint="copy the file instead"
        )
    return target


def _allowed(root: Path) -> Path:
    """The folder that links may lead into: the model's own, or its part of the hub cache."""
    cache = root.parent.parent
    is_cached = root.parent.name == "snapshots" and cache.name.startswith("models--")
    return cache if is_cached else root


def _changed(file: PlainFile, why: str) -> ChangedFile:
    return ChangedFile(f"{printable(str(file.path), limit=400)} {why}")


def _sibling_hint(path: Path) -> str | None:
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except (OSError, ValueError):
        return None
    return nearest(path.name, siblings)
