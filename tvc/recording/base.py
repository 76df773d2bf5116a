"""Registers a base model: hashes it once, by pieces, and borrows its tensors where they lie.

With `vendor`, its tensors are copied into the store instead, so that the folder may go away.
"""

from collections.abc import Callable

from tvc.domain.snapshot import Snapshot, TensorRef
from tvc.evaluation.engine import run_each
from tvc.models.directory import ModelDirectory
from tvc.models.ties import tied_names
from tvc_store.borrowed import BorrowedTensor, Source
from tvc_store.elements import elements_id
from tvc_store.ids import ObjectId
from tvc_store.local import Store
from tvc_store.publishing import Publisher

__all__ = ["borrow_model", "snapshot_model"]


def snapshot_model(
    store: Store,
    model: ModelDirectory,
    *,
    workers: int = 2,
    on_bytes: Callable[[int], None] = lambda _: None,
    vendor: bool = False,
) -> Snapshot:
    """Hash a model's tensors, store its carried files, and return its snapshot.

    Args:
        store: Where files (and, if vendored, tensors) go.
        model: The folder.
        workers: Tensors hashed at a time.
        on_bytes: Called with the size of every tensor done.
        vendor: Copy the tensors into the store.
    """
    refs: dict[str, TensorRef] = {}

    def work(name: str) -> None:
        spec = model.entries[name].spec
        with model.opened(name) as content:
            identity = (
                store.put_elements(spec, content, borrowed=False, publisher=publisher)
                if vendor
                else elements_id(spec, content)
            )
        refs[name] = TensorRef(identity, spec)
        on_bytes(spec.nbytes)

    # A tied tensor that the folder stores twice is one tensor: opening the folder compared them.
    tied = tied_names(model.config, model.entries)
    with Publisher(store.path) as publisher:
        run_each(work, [name for name in model.entries if name not in tied], workers=workers)
    files = {path: store.put_blob(model.read_file(path)) for path in model.files}
    snapshot = Snapshot(dict(sorted(refs.items())), dict(sorted(files.items())))
    store.put_blob(snapshot.to_bytes())
    return snapshot


def borrow_model(store: Store, model: ModelDirectory, snapshot: Snapshot, *, name: str) -> None:
    """Note where the tensors of a snapshot lie, so that they are read from there.

    Args:
        store: Notes it.
        model: The folder that was hashed.
        snapshot: Its snapshot.
        name: What the source is called; an earlier one of that name is replaced.
    """
    tensors: dict[ObjectId, BorrowedTensor] = {}
    for tensor, ref in snapshot.tensors.items():
        entry = model.entries[tensor]
        tensors[ref.id] = BorrowedTensor(entry.file, entry.offset, entry.spec)
    files = {shard: (file.size, file.mtime_ns) for shard, file in model.shards.items()}
    store.borrow(Source(name, model.root, files, tensors))
