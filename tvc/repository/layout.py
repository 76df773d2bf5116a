"""Where things lie in a repository of tvc. Paths only; files are looked at to find the root."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tvc.domain.errors import StateError

__all__ = ["BASES", "RECIPE", "VECTORS", "Layout", "NoRepository", "is_owned"]

RECIPE: Final = "recipe.toml"
VECTORS: Final = "vectors/"
BASES: Final = "bases/"
_PRIVATE: Final = ".tvc"


class NoRepository(StateError):
    """There is no repository of tvc here or above."""


def is_owned(path: str) -> bool:
    """Say whether a path of the working tree is one that tvc writes."""
    return path == RECIPE or (path.startswith((VECTORS, BASES)) and path.endswith(".toml"))


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one repository.

    Args:
        root: The working tree, the folder that has recipe.toml and .tvc.
    """

    root: Path

    @classmethod
    def discover(cls, start: Path) -> "Layout":
        """Find the repository that `start` lies in.

        Raises:
            NoRepository: Neither `start` nor a folder above it has `.tvc` and `.git`, or a clone
                has no `.tvc` yet.
        """
        for folder in (start, *start.parents):
            # Without recipe.toml it is a repository too, in which that file was lost.
            if (folder / ".git").exists() and (
                (folder / RECIPE).is_file() or (folder / _PRIVATE).is_dir()
            ):
                return cls(folder)
        raise NoRepository(
            f"no tvc repository in {start} or above it",
            hint="make one with: tvc init FOLDER --base MODEL",
        )

    @property
    def private(self) -> Path:
        """Folder of everything that git does not track."""
        return self.root / _PRIVATE

    @property
    def objects(self) -> Path:
        """Folder of the object store."""
        return self.private / "objects"

    @property
    def lock(self) -> Path:
        """Lock of commands that change the repository."""
        return self.private / "lock"

    @property
    def objects_lock(self) -> Path:
        """Lock held shared by what reads or adds objects, exclusively by what removes them."""
        return self.private / "objects.lock"

    @property
    def journal(self) -> Path:
        """The move that is under way, if any."""
        return self.private / "journal.json"

    @property
    def operations(self) -> Path:
        """Folder of the operation log, one file an operation."""
        return self.private / "operations"

    @property
    def merging(self) -> Path:
        """State of a merge that waits for its conflicts to be resolved."""
        return self.private / "merging.json"

    @property
    def served(self) -> Path:
        """Folder of the model folders that servers were started on, each beside its lock."""
        return self.private / "served"

    @property
    def pushed(self) -> Path:
        """Folder of what running servers are to read now."""
        return self.private / "live"

    @property
    def adapters(self) -> Path:
        """Folder of the adapters that running servers were given."""
        return self.private / "adapters"

    @property
    def cache(self) -> Path:
        """What can be computed again."""
        return self.private / "cache"
