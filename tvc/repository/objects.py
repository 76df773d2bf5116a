"""Opens a repository's object store for a command that reads or adds objects.

Apart from the rest of the repository, so that commands which need no weights load no NumPy. What
cannot be read is reported with the vectors and tensors that need it.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from tvc.domain.library import Library
from tvc.domain.names import printable
from tvc.repository.layout import Layout
from tvc.repository.repository import Waiting
from tvc.repository.state import State
from tvc_store.arrays import ByteArray
from tvc_store.borrowed import SourceChanged
from tvc_store.cache import Cache
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import make_folder
from tvc_store.errors import IntegrityError
from tvc_store.ids import ObjectId
from tvc_store.local import Store
from tvc_store.lock import Lock
from tvc_store.reading import Missing

__all__ = ["Objects", "UnreadableObject", "open_objects", "own_objects"]

_CACHE: Final = "cache"
_PATIENCE_SECONDS = 600.0
_SHOWN = 3
Content = TypeVar("Content")


class UnreadableObject(IntegrityError):
    """An object that a recipe needs is damaged or missing."""


class Objects:
    """A store, read on behalf of one state of the repository.

    Args:
        store: The store.
        state: Whose bases and vectors are read.
    """

    def __init__(self, store: Store, state: State) -> None:
        self.store = store
        self.cache = Cache(store.path.parent / _CACHE)
        self.library: Library = state.library(self.read_blob)

    def read_tensor(self, identity: ObjectId) -> tuple[TensorSpec, ByteArray]:
        """Return a tensor, verified.

        Raises:
            UnreadableObject: It is damaged or missing; names the tensors and vectors.
        """
        return self._explained(identity, self.store.read_tensor)

    def tensor_spec(self, identity: ObjectId) -> TensorSpec:
        """Return a tensor's type and shape.

        Raises:
            UnreadableObject: It is damaged or missing; names the tensors and vectors.
        """
        return self._explained(identity, self.store.tensor_spec)

    def stream_tensors(
        self,
        ids: Sequence[ObjectId],
        *,
        only: Collection[int] | None = None,
        into: Mapping[ObjectId, ByteArray] | None = None,
    ) -> Generator[list[ByteArray]]:
        """Yield the frames of tensors in step; see `Store.stream_tensors`.

        Raises:
            UnreadableObject: One is damaged or missing; names the tensors and vectors.
        """
        try:
            yield from self.store.stream_tensors(ids, only=only, into=into)
        except (IntegrityError, Missing):
            for identity in ids:  # finds which of them it is
                self.read_tensor(identity)
            raise

    def read_blob(self, identity: ObjectId) -> bytes:
        """Return a blob, verified.

        Raises:
            UnreadableObject: It is damaged or missing; names what needs it.
        """
        return self._explained(identity, self.store.read_blob)

    def _explained(self, identity: ObjectId, read: Callable[[ObjectId], Content]) -> Content:
        try:
            return read(identity)
        except (IntegrityError, Missing) as error:
            if isinstance(error, UnreadableObject):
                raise
            users = self.library.users(identity)
            shown = "; ".join(printable(user) for user in users[:_SHOWN])
            more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
            hint = "`tvc fsck --repair` mends what can be had again from a model's folder"
            if isinstance(error, SourceChanged):
                hint = "put it back as it was, or say where it is now: tvc fsck --repair --from DIR"
            raise UnreadableObject(
                f"{error.message}, needed by {shown or 'this commit'}{more}", hint=hint
            ) from error


@contextmanager
def open_objects(layout: Layout) -> Generator[Store]:
    """Yield the store, kept from `tvc gc` while the context lasts.

    Raises:
        Locked: `tvc gc` has been running for ten minutes.
        UnknownFormat: The store is of another version.
    """
    make_folder(layout.private)
    with Lock.shared(layout.objects_lock, timeout=_PATIENCE_SECONDS):
        yield Store.create(layout.objects)


@contextmanager
def own_objects(layout: Layout, command: str, *, waiting: Waiting) -> Generator[Store]:
    """Yield the store while nobody else reads or adds objects, so that some can be removed.

    Args:
        layout: The repository.
        command: The command line, named to those who wait.
        waiting: How to wait for others.

    Raises:
        Locked: Others have not finished in time.
        UnknownFormat: The store is of another version.
    """
    make_folder(layout.private)
    lock = Lock.exclusive(
        layout.objects_lock, command=command, timeout=waiting.timeout, on_wait=waiting.on_wait
    )
    with lock:
        yield Store.create(layout.objects)
