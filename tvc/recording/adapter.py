"""Takes a LoRA adapter in as its factors, and writes it out again byte for byte.

An adapter is never expanded on disk: its product is computed when a recipe is evaluated.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from tvc.domain.errors import InputError, IntegrityError
from tvc.domain.planning import plan
from tvc.domain.recipe import Recipe
from tvc.domain.snapshot import Snapshot, TensorRef
from tvc.domain.vector import AdapterManifest, Factors, Scalar, VectorRecord
from tvc.models.adapters import AdapterDirectory, MisfitAdapter, write_adapter
from tvc.recording.finetune import stored_files
from tvc.repository.objects import Objects
from tvc_store.ids import ObjectId, tensor_id

__all__ = ["record_adapter", "restore_adapter"]


def record_adapter(
    objects: Objects,
    parent: Recipe,
    adapter: AdapterDirectory,
    *,
    provenance: Mapping[str, Scalar],
) -> VectorRecord:
    """Store an adapter's factors and files, and return its vector's record.

    Args:
        objects: Where objects go, and what the parent's names stand for.
        parent: The recipe that it was trained from, in normal form.
        adapter: The adapter's folder.
        provenance: Where it came from.

    Raises:
        MisfitAdapter: Its targets are not the model's, or it carries other weights of the base.
    """
    store, library = objects.store, objects.library
    specs = plan(parent, library).specs()
    fitted = adapter.fitted({name: spec.shape for name, spec in specs.items()})
    base = library.snapshot(parent.base)
    _check_copies(adapter, base)
    refs: dict[str, TensorRef] = {}
    for name, entry in adapter.entries.items():
        identity = store.put_tensor(entry.spec, adapter.read(entry))
        refs[name] = TensorRef(identity, entry.spec)
    factors = {
        target: Factors(refs[f.down.name], refs[f.up.name], Fraction(f.scale), f.transposed)
        for target, f in fitted.items()
    }
    manifest = AdapterManifest(
        factors,
        {name: ref.id for name, ref in refs.items()},
        store.put_blob(adapter.layout),
        {name: store.put_blob(adapter.read_file(name)) for name in adapter.files},
    )
    # Only the carried files of the parent matter here: an adapter's own tensors are its factors.
    was = Snapshot(base.tensors, stored_files(objects, parent))
    stored = sum(store.stored_size(identity) for identity in {ref.id for ref in refs.values()})
    return VectorRecord(
        "adapter",
        store.put_blob(manifest.to_bytes()),
        parent,
        store.put_blob(was.to_bytes()),
        provenance,
        {"changed_tensors": len(factors), "stored_bytes": stored},
    )


def _check_copies(adapter: AdapterDirectory, base: Snapshot) -> None:
    for name, entry in adapter.base_copies.items():
        ref = base.tensors.get(name)
        if ref is None or ref.id != tensor_id(entry.spec, adapter.read(entry)):
            raise MisfitAdapter(
                f"the adapter carries its own {name}, which is not the base's",
                hint="merge the adapter with PEFT and commit the model that results",
            )


def restore_adapter(objects: Objects, record: VectorRecord, folder: Path) -> None:
    """Write an adapter's folder as it was taken in.

    Args:
        objects: Where its factors and files are.
        record: The vector.
        folder: An empty folder.

    Raises:
        InputError: The vector is a fine-tune, which has no factors.
        IntegrityError: An object is damaged.
    """
    if record.kind != "adapter":
        raise InputError(
            "the vector is a whole fine-tune, not an adapter",
            hint="write the model with `tvc checkout`",
        )
    manifest = objects.library.adapter(record.content)

    def read(name: str) -> bytes:
        identity: ObjectId | None = manifest.tensors.get(name)
        if identity is None:
            raise IntegrityError(f"the adapter's header names {name!r}, which was not stored")
        return objects.read_tensor(identity)[1].tobytes()

    write_adapter(
        folder,
        layout=objects.read_blob(manifest.layout),
        read=read,
        files={name: objects.read_blob(blob) for name, blob in manifest.files.items()},
    )
