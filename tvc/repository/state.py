"""What one commit, or the working tree, says: its recipe, bases and vectors, as parsed documents.

Documents are the text files that tvc owns (recipe.toml, vectors/, bases/), by path. They may come
from a hostile clone: only plain files of bounded size and number are read.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from tvc.domain.documents import (
    MAX_DOCUMENT,
    BadDocument,
    format_base,
    format_recipe_document,
    format_vector,
    parse_base,
    parse_recipe_document,
    parse_vector,
)
from tvc.domain.library import Library
from tvc.domain.names import check_name, printable, refuse_case_twins
from tvc.domain.recipe import Recipe
from tvc.domain.vector import BaseRecord, VectorRecord
from tvc.repository.gateway import GitGateway
from tvc.repository.layout import BASES, RECIPE, VECTORS, is_owned
from tvc_store.ids import ObjectId

__all__ = ["Documents", "State", "documents_at", "documents_on_disk", "read_plain_file"]

Documents = Mapping[str, str]

_MAX_FILES: Final = 20_000
_PLAIN_MODES: Final = frozenset(["100644", "100755"])


@dataclass(frozen=True)
class State:
    """A recipe and what its names stand for.

    Args:
        recipe: By names.
        bases: Name → record.
        vectors: Name → record.
    """

    recipe: Recipe
    bases: Mapping[str, BaseRecord]
    vectors: Mapping[str, VectorRecord] = field(default_factory=dict[str, VectorRecord])

    @classmethod
    def parse(cls, documents: Documents) -> "State":
        """Read the documents of a commit.

        Raises:
            BadDocument: One is malformed, or recipe.toml is missing.
            UnresolvedConflict: recipe.toml has conflict markers.
        """
        if RECIPE not in documents:
            raise BadDocument(f"{RECIPE} is missing", hint="git checkout HEAD -- recipe.toml")
        refuse_case_twins(documents, what="files")
        bases = {
            _name(path, BASES): parse_base(text, path=path)
            for path, text in sorted(documents.items())
            if path.startswith(BASES)
        }
        vectors = {
            _name(path, VECTORS): parse_vector(text, path=path)
            for path, text in sorted(documents.items())
            if path.startswith(VECTORS)
        }
        return cls(parse_recipe_document(documents[RECIPE]), bases, vectors)

    def documents(self) -> dict[str, str]:
        """Write the documents that `parse` reads.

        Raises:
            BadDocument: A recipe could not be read again: too long a number, nested too deep.
        """
        documents = {
            RECIPE: format_recipe_document(self.recipe),
            **{f"{BASES}{name}.toml": format_base(base) for name, base in self.bases.items()},
            **{f"{VECTORS}{name}.toml": format_vector(v) for name, v in self.vectors.items()},
        }
        parse_recipe_document(documents[RECIPE])
        for name, record in self.vectors.items():
            if record.parent.terms:
                path = f"{VECTORS}{name}.toml"
                parse_vector(documents[path], path=path)
        return documents

    def library(self, read_blob: Callable[[ObjectId], bytes] | None = None) -> Library:
        """Return the names' meanings; without `read_blob` no contents can be read from it."""
        return Library(self.bases, self.vectors, read_blob or _no_blobs)

    @cached_property
    def normal(self) -> Recipe:
        """The recipe in normal form.

        Raises:
            UnknownVector: The recipe names something that is not here.
        """
        return self.library().normal_form(self.recipe)

    def with_recipe(self, recipe: Recipe) -> "State":
        """Return the same vectors and bases with another recipe."""
        return replace(self, recipe=recipe)


def _no_blobs(identity: ObjectId) -> bytes:
    raise AssertionError(f"the content of {identity} was asked for without a store")


def _name(path: str, folder: str) -> str:
    what = "base" if folder == BASES else "vector"
    return check_name(path.removeprefix(folder).removesuffix(".toml"), what=what)


def documents_at(git: GitGateway, commit: str) -> dict[str, str]:
    """Return the documents of a commit.

    Raises:
        BadDocument: One is a symbolic link, not UTF-8, or there are too many.
        GitFailed: One is too large, or missing from git.
    """
    entries = git.tree(commit, [RECIPE, VECTORS.rstrip("/"), BASES.rstrip("/")])
    for entry in entries:
        # A symbolic link in one of these folders would lead what is written there elsewhere.
        if entry.mode not in _PLAIN_MODES or not is_owned(entry.path):
            raise BadDocument(
                f"{printable(entry.path)} in {commit[:10]} is not a plain file of tvc's",
                hint="vectors/ and bases/ hold .toml files only",
            )
    if len(entries) > _MAX_FILES:
        raise BadDocument(f"{commit[:10]} has more than {_MAX_FILES} vectors")
    texts = git.blobs((entry.blob for entry in entries), limit=MAX_DOCUMENT)
    return {e.path: _decoded(data, e.path) for e, data in zip(entries, texts, strict=True)}


def documents_on_disk(root: Path) -> dict[str, str]:
    """Return the documents of the working tree.

    Raises:
        BadDocument: One is no plain file, too large, or not UTF-8.
    """
    found: dict[str, str] = {}
    for path in _owned_files(root):
        relative = path.relative_to(root).as_posix()
        found[relative] = _decoded(read_plain_file(path, limit=MAX_DOCUMENT), relative)
        if len(found) > _MAX_FILES:
            raise BadDocument(f"the working tree has more than {_MAX_FILES} vectors")
    return found


def _owned_files(root: Path) -> Iterator[Path]:
    if os.path.lexists(root / RECIPE):
        yield root / RECIPE
    for folder in (VECTORS, BASES):
        if (root / folder).is_symlink():
            raise BadDocument(f"{folder} is a symbolic link")
        yield from sorted(
            path
            for path in (root / folder).rglob("*.toml")
            if is_owned(path.relative_to(root).as_posix())
        )


def read_plain_file(path: Path, *, limit: int) -> bytes:
    """Read a file that must be a plain one; symbolic links, pipes and devices are refused.

    Raises:
        BadDocument: It is no plain file, or larger than `limit` bytes, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise BadDocument(f"{printable(str(path))}: {reason}") from None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadDocument(f"{printable(str(path))} is not a plain file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BadDocument(f"{printable(str(path))} is larger than {limit} bytes")
    return data


def _decoded(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadDocument(f"{printable(path)} is not UTF-8") from None
