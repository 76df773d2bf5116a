"""Where benchmarks work: models that are made once, repositories that are made anew.

Models stay in the work folder, so that the next run finds them. Everything else is made in `scratch`
in it, by a group for itself, and removed when the group ends.
"""

import contextlib
import shutil
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final

from tests.benchmarks.measuring import TVC, Sample, run

__all__ = ["STEP", "TUNES", "Setting", "setting_of", "size_of"]

STEP: Final = 1.3e-4
"""What a fine-tune adds to a weight, typically: see models.py for what it is like."""

TUNES: Final = ("t1", "t2", "t3")
_MODELS: Final = Path(__file__).with_name("models.py")


class Setting:
    """A folder of models of one size, and an empty folder to work in.

    Args:
        models: Has `base` and the fine-tunes.
        scratch: Empty at first.
        size: One of the sizes of models.py.
    """

    def __init__(self, models: Path, scratch: Path, size: str) -> None:
        self.models = models
        self.scratch = scratch
        self.size = size

    def make(self, tunes: Iterable[str] = TUNES) -> None:
        """Make the base and fine-tunes, where they are missing."""
        self.models.mkdir(parents=True, exist_ok=True)
        if not (self.models / "base").is_dir():
            _make(self.models, "base", "base", self.size)
        for name in tunes:
            if not (self.models / name).is_dir():
                self._make_tuned(self.models / name)

    @contextlib.contextmanager
    def passing(self, name: str) -> Generator[Path]:
        """Yield a fine-tune that is made for the moment, and removed."""
        folder = self.scratch / name
        self._make_tuned(folder)
        yield folder
        shutil.rmtree(folder)

    def _make_tuned(self, folder: Path) -> None:
        base = str(self.models / "base")
        _make(folder.parent, "tuned", base, folder.name, str(STEP), folder.name[1:])

    @property
    def raw(self) -> int:
        """Bytes of the base, which are those of each fine-tune."""
        return size_of(self.models / "base")

    def repository(self, name: str = "repository") -> Path:
        """Return a new repository on the base, which stays where it is."""
        init = [*TVC, "-q", "init", name, "--base", str(self.models / "base")]
        run(init, self.scratch)
        return self.scratch / name

    def copy_of(self, repository: Path, name: str) -> Path:
        """Return a copy of a repository, in place of an earlier one."""
        target = self.scratch / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(repository, target, symlinks=True)
        return target

    def branch(self, repository: Path, name: str, *, start: str = "main") -> None:
        """Make a branch and go there."""
        run([*TVC, "-q", "switch", "-c", name, start], repository)

    def commit(self, repository: Path, name: str, model: Path | None = None) -> Sample:
        """Commit a fine-tune on the current branch; by default the one of that name."""
        folder = model or self.models / name
        return run([*TVC, "-q", "commit", str(folder), "-m", name, "--name", name], repository)

    def stock(self, repository: Path, tunes: Iterable[str] = TUNES) -> None:
        """Commit each fine-tune on a branch of its name, and go back to main."""
        for name in tunes:
            self.branch(repository, name)
            self.commit(repository, name)
        run([*TVC, "-q", "switch", "main"], repository)

    def checkout(self, repository: Path, revision: str, *, out: str = "out") -> Sample:
        """Check a revision out into a folder that is not there yet."""
        shutil.rmtree(self.scratch / out, ignore_errors=True)
        return self.checkout_again(repository, revision, out=out)

    def checkout_again(self, repository: Path, revision: str, *, out: str) -> Sample:
        """Check a revision out over what may stand there."""
        target = str(self.scratch / out)
        return run([*TVC, "-q", "checkout", revision, "-o", target, "--force"], repository)

    def copy_folder(self, folder: Path) -> Sample:
        """Copy a model folder and wait until the disk has it, as tvc does."""
        shutil.rmtree(self.scratch / "copy", ignore_errors=True)
        return run(["sh", "-c", f"cp -r '{folder}' copy && sync copy/* copy"], self.scratch)


@contextlib.contextmanager
def setting_of(work: Path, size: str, *, group: str) -> Generator[Setting]:
    """Yield a setting whose scratch folder is removed at the end.

    Args:
        work: Folder of the benchmarks.
        size: One of the sizes of models.py.
        group: Who works there.
    """
    scratch = work.absolute() / "scratch" / group
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield Setting(work.absolute() / "models" / size, scratch, size)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make(folder: Path, *arguments: str) -> None:
    run([sys.executable, str(_MODELS), *arguments], folder)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
