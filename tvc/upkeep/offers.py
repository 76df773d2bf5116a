"""Folders from which lost tensors and files may be had again: models and adapters, by content.

Everything in a folder is hashed, and matched by its id alone, so that a wrong folder can never be
believed. Absent on purpose: what is lost, and writing it.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from tvc.domain.snapshot import Snapshot, TensorRef
from tvc.domain.vector import AdapterManifest, Factors
from tvc.models.adapters import AdapterDirectory
from tvc.models.directory import ModelDirectory
from tvc.models.header import TensorEntry
from tvc.models.ties import tied_names
from tvc_store.arrays import ByteArray
from tvc_store.borrowed import BorrowedTensor, Source
from tvc_store.ids import ObjectId, blob_id, tensor_id

__all__ = ["Offer", "Progress", "open_offer"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows work in words on a number of bytes; gives the function that is told of bytes done."""

_WORKERS = 2


@dataclass(frozen=True)
class Offer:
    """What a folder holds, by content.

    Args:
        folder: The folder.
        tensors: Name → content.
        blobs: Path of a file → its id; an adapter's header has the path "".
        entries: Name → where the tensor is.
    """

    folder: Path
    tensors: Mapping[str, TensorRef]
    blobs: Mapping[str, ObjectId]
    entries: Mapping[str, TensorEntry]
    _opened: ModelDirectory | AdapterDirectory = field(repr=False)

    def find_tensor(self, identity: ObjectId) -> str | None:
        """Return a name of the tensor of some content, if it is here."""
        return next((name for name, ref in self.tensors.items() if ref.id == identity), None)

    def find_blob(self, identity: ObjectId) -> str | None:
        """Return the path of the file of some content, if it is here."""
        return next((path for path, blob in self.blobs.items() if blob == identity), None)

    def read_tensor(self, name: str) -> ByteArray:
        """Return the bytes of a tensor, uint8 (nbytes,)."""
        if isinstance(self._opened, ModelDirectory):
            return self._opened.read(name)
        return self._opened.read(self.entries[name])

    def read_blob(self, path: str) -> bytes:
        """Return the bytes of a file."""
        if not path and isinstance(self._opened, AdapterDirectory):
            return self._opened.layout
        return self._opened.read_file(path)

    def source(self, name: str, wanted: set[ObjectId]) -> Source | None:
        """Return this folder as the source from which all wanted tensors are borrowed.

        Returns:
            The source, or None where a tensor is not here.
        """
        if not isinstance(self._opened, ModelDirectory):
            return None
        places = {
            ref.id: BorrowedTensor(self.entries[tensor].file, self.entries[tensor].offset, ref.spec)
            for tensor, ref in self.tensors.items()
        }
        if not wanted <= set(places):
            return None
        files = {shard: (f.size, f.mtime_ns) for shard, f in self._opened.shards.items()}
        return Source(name, self._opened.root, files, places)

    def snapshots(self, known: Iterator[Snapshot]) -> Iterator[Snapshot]:
        """Yield the lists of tensors that may have been made of this folder.

        Args:
            known: Lists that can be read: of the base, or of what it was trained from, whose
                names and files a fine-tune's list has too.
        """
        if not isinstance(self._opened, ModelDirectory):
            return
        files = dict(self.blobs)
        ties = tied_names(self._opened.config, self.tensors)
        yield _snapshot({n: ref for n, ref in self.tensors.items() if n not in ties}, files)
        yield _snapshot(self.tensors, files)
        for other in known:
            names = {*self.tensors, *other.tensors}
            ties = tied_names(self._opened.config, names)
            tensors = {
                name: self.tensors.get(name) or self.tensors.get(ties.get(name, "")) or ref
                for name, ref in other.tensors.items()
            }
            yield _snapshot(tensors, {**other.files, **files})

    def manifest(self, other: Snapshot) -> AdapterManifest | None:
        """Return the manifest of the adapter here; None where it is none, or does not fit.

        Args:
            other: The list of the model that it was trained on.
        """
        if not isinstance(self._opened, AdapterDirectory):
            return None
        shapes = {name: ref.spec.shape for name, ref in other.tensors.items()}
        factors = {
            target: Factors(
                self.tensors[f.down.name],
                self.tensors[f.up.name],
                Fraction(f.scale),
                f.transposed,
            )
            for target, f in self._opened.fitted(shapes).items()
        }
        files = {path: blob for path, blob in self.blobs.items() if path}
        tensors = {name: ref.id for name, ref in self.tensors.items()}
        return AdapterManifest(factors, tensors, blob_id(self._opened.layout), files)


def _snapshot(tensors: Mapping[str, TensorRef], files: Mapping[str, ObjectId]) -> Snapshot:
    return Snapshot(dict(sorted(tensors.items())), dict(sorted(files.items())))


def open_offer(folder: Path, *, progress: Progress) -> Offer:
    """Hash what a folder holds.

    Args:
        folder: A model's folder, or an adapter's.
        progress: Shows how far it is.

    Raises:
        InputError: It is neither, or cannot be read.
        IntegrityError: A file is not what it claims, or changed meanwhile.
    """
    opened: ModelDirectory | AdapterDirectory
    if (folder / "adapter_config.json").exists():
        opened = AdapterDirectory.open(folder)
    else:
        opened = ModelDirectory.open(folder)
    entries = opened.entries
    blobs = {path: blob_id(opened.read_file(path)) for path in opened.files}
    if isinstance(opened, AdapterDirectory):
        blobs[""] = blob_id(opened.layout)

    def work(name: str) -> TensorRef:
        spec = entries[name].spec
        if isinstance(opened, ModelDirectory):
            data = opened.read(name)
        else:
            data = opened.read(entries[name])
        on_bytes(spec.nbytes)
        return TensorRef(tensor_id(spec, data), spec)

    total = sum(entry.spec.nbytes for entry in entries.values())
    with (
        progress(f"reading {folder.name}", total) as on_bytes,
        ThreadPoolExecutor(_WORKERS) as pool,
    ):
        refs = list(pool.map(work, entries))
    return Offer(folder, dict(zip(entries, refs, strict=True)), blobs, entries, opened)
