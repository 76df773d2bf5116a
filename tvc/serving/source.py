"""What a server serves: a commit or a recipe of a repository, read tensor by tensor from its store.

Named as `tvc:///path/to/repository@REVISION`, or with a recipe in the revision's place. Absent: the
server; a folder to put weights in.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from tvc.behaviours.subjects import Subject, recipe_subject, subjects_of
from tvc.checkout.writing import Checkout
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe, recipe_id
from tvc.models.ties import tied_names
from tvc.repository.gateway import GitFailed
from tvc.repository.objects import Objects, open_objects
from tvc.repository.repository import Repository
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId, tensor_id

__all__ = ["SCHEME", "Location", "Served", "served", "subject_of"]

SCHEME: Final = "tvc://"
"""What the name of a model in a repository begins with."""

_AHEAD: Final = 3
_RECIPE_MARKS: Final = frozenset("+*( ")


class Location(NamedTuple):
    """Where a model is.

    Args:
        root: The repository.
        revision: A commit, branch or tag of it, or a recipe.
    """

    root: Path
    revision: str

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Read `tvc:///path/to/repository@REVISION`; HEAD where no revision is named.

        Escapes (`%40` for an `@` in a folder's name) stand for what they escape.

        Raises:
            InputError: It is not such a name.
        """
        parts = urlsplit(text)
        whole = text.removeprefix(SCHEME)
        if parts.scheme != SCHEME[:-3] or not whole.startswith("/") or "\0" in unquote(whole):
            raise InputError(
                f"'{printable(text)}' does not name a model of a repository",
                hint="write tvc:///path/to/repository@branch, with three slashes",
            )
        path, at, revision = whole.rpartition("@")
        if not at:
            path, revision = whole, "HEAD"
        return cls(Path(unquote(path)), unquote(revision) or "HEAD")

    def __str__(self) -> str:
        root, revision = (
            str(part).replace("%", "%25").replace("@", "%40") for part in (self.root, self.revision)
        )
        return f"{SCHEME}{root}@{revision}"


def subject_of(repository: Repository, text: str) -> Subject:
    """Return what a revision or a recipe stands for.

    Raises:
        GitFailed: There is no such revision, and it is no recipe.
        InputError: It is a range; or a recipe that names what is not there.
    """
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):  # as servers may say
        raise InputError(f"'{printable(text)}' is not the name of anything")
    if ".." in text:
        raise InputError(
            f"'{printable(text)}' is several commits", hint="one model is served: name one commit"
        )
    try:
        return subjects_of(repository, text)[0]
    except GitFailed:
        if not _RECIPE_MARKS & set(text):
            raise
        return recipe_subject(repository, text)


@dataclass(frozen=True)
class Served:
    """A model that is read from a store; closed with the context that gave it.

    Args:
        label: Its commit's full hash, or `recipe:` and the recipe's id where nobody committed it.
        commit: The hash; empty for a recipe.
        recipe: In names.
        checkout: Its plan and what evaluates it.
        read_blob: Reads the files that go with it.
    """

    label: str
    commit: str
    recipe: str
    checkout: Checkout
    read_blob: Callable[[ObjectId], bytes]

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Type and shape of every tensor, in the order of names."""
        return dict(sorted(self.checkout.specs.items()))

    def known(self, name: str) -> ObjectId | None:
        """Return a tensor's id, where it is stored as it is; None where it is computed."""
        known = self.checkout.evaluator.known(name)
        return known.id if known else None

    def id_of(self, name: str) -> ObjectId:
        """Return a tensor's id, computing it where it is not known."""
        return self.known(name) or tensor_id(self.specs_of(name), self.tensor(name))

    @property
    def tied(self) -> set[str]:
        """Names of tensors that config.json says are others under a second name."""
        config = self.checkout.files.get("config.json")
        body: dict[str, Any] = json.loads(config.read(self.read_blob)) if config else {}
        return set(tied_names(body, self.specs))

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of every file that goes with the weights, but no code."""
        for path, chosen in self.checkout.files.items():
            if not path.endswith(".py"):
                yield path, chosen.read(self.read_blob)

    def tensor(self, name: str) -> ByteArray:
        """Return a tensor's bytes, verified or computed.

        Raises:
            IntegrityError: An object is damaged or missing.
        """
        whole = np.empty(self.specs_of(name).nbytes, np.uint8)
        at = 0
        with closing(self.checkout.evaluator.blocks(name)) as blocks:
            for block in blocks:
                whole[at : at + block.size] = block
                at += block.size
        return whole

    def specs_of(self, name: str) -> TensorSpec:
        """Return one tensor's type and shape."""
        return self.checkout.plan.specs()[name]

    def tensors(self, names: Iterable[str]) -> Generator[tuple[str, ByteArray]]:
        """Yield tensors in the order of `names`, a few read ahead of the one that is used.

        Raises:
            IntegrityError: An object is damaged or missing.
        """
        names = list(names)
        if any(self.known(name) is None for name in names):
            self.checkout.evaluator.prepare()
        ahead: deque[tuple[str, Future[ByteArray]]] = deque()
        with ThreadPoolExecutor(_AHEAD) as pool:
            try:
                for name in names:
                    ahead.append((name, pool.submit(self.tensor, name)))
                    if len(ahead) >= _AHEAD:
                        first, content = ahead.popleft()
                        yield first, content.result()
                for last, content in ahead:
                    yield last, content.result()
            finally:
                pool.shutdown(cancel_futures=True)

    @property
    def files_key(self) -> str:
        """Hash of what goes with the weights, so that two servers can share a folder of it."""
        digest = hashlib.sha256(self.label.encode())
        for path, content in sorted(self.files()):
            digest.update(f"{len(path.encode())} {len(content)} {path}".encode() + content)
        return digest.hexdigest()


@contextmanager
def served(location: Location, *, workers: int = 2) -> Generator[Served]:
    """Yield a model; its repository's objects are kept from being removed meanwhile.

    Args:
        location: Where it is.
        workers: Tensors computed at a time.

    Raises:
        StateError: There is no repository.
        GitFailed: It has no such revision.
        CannotCombine: The recipe asks for arithmetic that is not defined.
    """
    repository = Repository.open(location.root)
    subject = subject_of(repository, location.revision)
    with open_objects(repository.layout) as store:
        objects = Objects(store, subject.state)
        recipe = subject.state.recipe
        checkout = Checkout(objects, recipe, commit=subject.commit, workers=workers)
        label = subject.commit or f"recipe:{recipe_id(checkout.normal)}"
        text = format_recipe(recipe)
        yield Served(label, subject.commit, text, checkout, objects.read_blob)
