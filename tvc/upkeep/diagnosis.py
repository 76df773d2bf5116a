"""`tvc doctor`: what tvc runs on, and what of it is missing, old or full.

Nothing is changed and no weight is read: whether objects are sound is the business of `inspection`.
torch is not imported, its version is read from what its installation says of itself.
"""

import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from tvc import __version__
from tvc.merging.loops import PLAIN
from tvc.merging.loops import level as merging_level
from tvc.repository.gateway import GitGateway
from tvc.repository.layout import Layout, NoRepository
from tvc_store.codecs import native
from tvc_store.errors import TvcError
from tvc_store.layout import FORMAT_FILE
from tvc_store.local import Store
from tvc_store.lock import Lock, Locked

__all__ = [
    "Diagnosis",
    "Program",
    "RepositoryFacts",
    "Trouble",
    "diagnose",
    "diagnose_repository",
]

_PACKAGES: Final = ("torch", "numpy", "zstandard", "blake3")
_LITTLE_SPACE: Final = 1 << 30
_COMPILE: Final = (
    "install a C compiler (sudo apt-get install gcc python3-dev) and then tvc again from its "
    "sources, or in a source tree run: python hatch_build.py"
)
_LOOPS: Final[Mapping[str, Callable[[], str]]] = {
    "coding": native.in_use,
    "merging": merging_level,
}
# linux/fs.h: _IOW(0x94, 9, int). Python's fcntl has no name for it before 3.14.
_FICLONE: Final = 0x40049409


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is not as it should be.

    Args:
        text: What, in one line.
        hint: What would help.
    """

    text: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Program:
    """What tvc runs on.

    Args:
        versions: By program; None where it is not installed.
        loops: By what they do ("coding", "merging"), how the loops over elements run: "AVX-512",
            "AVX2", "plain C" or "NumPy".
        cores: Number of processors that this process may use.
    """

    versions: Mapping[str, str | None]
    loops: Mapping[str, str]
    cores: int


@dataclass(frozen=True, slots=True)
class RepositoryFacts:
    """What a repository lies on.

    Args:
        root: Its working tree.
        format: Of its store, None where there is no store yet, or one that is not known.
        objects: Number of stored objects.
        object_bytes: Their bytes on the disk.
        free_bytes: What is free on that disk.
        shares_blocks: Whether a copy may share the blocks of a file; None where nothing can be
            written.
        locks: Who holds which lock, a line each.
    """

    root: Path
    format: str | None
    objects: int
    object_bytes: int
    free_bytes: int
    shares_blocks: bool | None
    locks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found.

    Args:
        program: What tvc runs on.
        repository: Of the repository that the folder lies in, None outside one.
        troubles: What is not as it should be.
    """

    program: Program
    repository: RepositoryFacts | None
    troubles: tuple[Trouble, ...]


def diagnose(folder: Path) -> Diagnosis:
    """Look at what tvc runs on, and at the repository that a folder lies in, if it does."""
    troubles: list[Trouble] = []
    program = _program(folder, troubles)
    try:
        layout = Layout.discover(folder)
    except NoRepository:
        return Diagnosis(program, None, tuple(troubles))
    facts = diagnose_repository(layout, troubles)
    return Diagnosis(program, facts, tuple(troubles))


def _program(folder: Path, troubles: list[Trouble]) -> Program:
    versions: dict[str, str | None] = {"tvc": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        versions[name] = _version(name)
        if versions[name] is None:
            troubles.append(Trouble(f"{name} is not installed", f"pip install {name}"))
    versions["git"] = _attempted(lambda: _git_version(folder), troubles)
    loops = {name: level() for name, level in _LOOPS.items()}
    for name, level in loops.items():
        if level == PLAIN:
            text = f"{name} is done by {level}, several times slower than by the compiled loops"
            troubles.append(Trouble(text, _COMPILE))
    return Program(versions, loops, _cores())


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def _git_version(folder: Path) -> str:
    return GitGateway(folder).text("--version").removeprefix("git version ")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _attempted(work: Callable[[], str], troubles: list[Trouble]) -> str | None:
    """Return what a look gives, or note why it gives nothing."""
    try:
        return work()
    except TvcError as error:
        troubles.append(Trouble(error.message, error.hint))
        return None


def diagnose_repository(layout: Layout, troubles: list[Trouble]) -> RepositoryFacts:
    """Look at one repository.

    Args:
        layout: The repository.
        troubles: Is given what is not as it should be.
    """
    objects, object_bytes, form = 0, 0, None
    if layout.objects.is_dir():
        form = _attempted(lambda: _format_of(layout), troubles)
    if form is not None:
        objects, object_bytes = _count(Store.open(layout.objects))
    free = shutil.disk_usage(layout.root).free
    if free < _LITTLE_SPACE:
        text = f"only {free / 1e6:.0f} MB are free on the repository's disk"
        troubles.append(Trouble(text, "free some space; tvc gc removes what nothing needs"))
    return RepositoryFacts(
        layout.root,
        form,
        objects,
        object_bytes,
        free,
        _shares_blocks(layout.private if layout.private.is_dir() else layout.root),
        tuple(_locks(layout)),
    )


def _format_of(layout: Layout) -> str:
    store = Store.open(layout.objects)
    return (store.path / FORMAT_FILE).read_text("ascii").strip()


def _count(store: Store) -> tuple[int, int]:
    sizes = [store.stored_size(identity) for identity in store.object_ids()]
    return len(sizes), sum(sizes)


def _shares_blocks(folder: Path) -> bool | None:
    """Try it with two files that have no names, so that nothing can be left behind."""
    try:
        with (
            tempfile.TemporaryFile(dir=folder) as source,
            tempfile.TemporaryFile(dir=folder) as target,
        ):
            source.write(bytes(1 << 16))
            source.flush()
            try:
                fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
            except OSError:
                return False
            return True
    except OSError:
        return None


def _locks(layout: Layout) -> list[str]:
    """Say who keeps others out; readers, who share the lock of the objects, are not seen."""
    found: list[str] = []
    for path in (layout.lock, layout.objects_lock):
        if not path.is_file():
            continue
        try:
            with Lock.shared(path):
                pass
        except Locked as locked:
            found.append(f"{path.name}: held by {locked.holder or 'another process'}")
    return found
