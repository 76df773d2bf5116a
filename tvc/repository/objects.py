"""Opens a repository's object store for a command that reads or adds objects.

Apart from the rest of the repository, so that commands which need no weights load no NumPy.
"""

from collections.abc import Generator
from contextlib import contextmanager

from tvc.repository.layout import Layout
from tvc_store.durable import make_folder
from tvc_store.local import Store
from tvc_store.lock import Lock

__all__ = ["open_objects"]

_PATIENCE_SECONDS = 600.0


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
