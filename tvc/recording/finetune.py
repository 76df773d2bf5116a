"""Takes a fine-tune in: a folder becomes objects, a snapshot and the record of a vector.

Tensors are read, compared and stored by pieces, so that memory does not depend on their size.
Objects are durable before anything refers to them. The vector's record says what the fine-tune is
and what it was trained from; that it becomes part of a recipe is the business of who commits it.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tvc.domain.errors import StateError
from tvc.domain.files import plan_files
from tvc.domain.planning import plan
from tvc.domain.recipe import Recipe
from tvc.domain.snapshot import Snapshot, TensorRef
from tvc.domain.vector import Scalar, VectorRecord
from tvc.evaluation.engine import Evaluator, run_each
from tvc.models.directory import ModelDirectory
from tvc.recording.comparing import Comparison
from tvc.recording.deltas import check_deltas, record_deltas
from tvc.recording.matching import Allowances, match_tensors
from tvc.recording.trained import TRAINING_FILES, Training
from tvc.repository.objects import Objects
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import Elements, elements_id
from tvc_store.errors import IntegrityError
from tvc_store.ids import ObjectId
from tvc_store.local import Store
from tvc_store.publishing import Publisher
from tvc_store.reading import Missing

__all__ = [
    "NothingChanged",
    "Recorded",
    "record_finetune",
    "stored_files",
]


_BEGINNING: Final = 1 << 16  # bytes of a tensor that say as a rule whether it changed


class NothingChanged(StateError):
    """A command would record something that changes nothing."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A vector that was taken in, and what was seen on the way.

    Args:
        record: The vector.
        changed_tensors: Number of tensors that it changes.
        tensors: Number of tensors.
        changed_elements: Number of elements that it changes.
        elements: Number of elements.
        raw_bytes: Bytes of the tensors that it changes.
        stored_bytes: Bytes that they take in the store.
        delta_bytes: Bytes that the trained difference takes there, where it is kept.
        changed_files: Carried files that it changes.
        left_out: Files of the folder that are not carried.
    """

    record: VectorRecord
    changed_tensors: int
    tensors: int
    changed_elements: int
    elements: int
    raw_bytes: int
    stored_bytes: int
    delta_bytes: int
    changed_files: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass
class _Seen:
    """What one tensor of the fine-tune turned out to be."""

    tuned: TensorRef
    parent: TensorRef
    changed: int


def record_finetune(
    objects: Objects,
    parent: Recipe,
    model: ModelDirectory,
    *,
    allowed: Allowances,
    provenance: Mapping[str, Scalar],
    training: Training | None = None,
    workers: int = 2,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Recorded:
    """Store what a fine-tune changed, and return its vector's record.

    Args:
        objects: Where objects go, and what the parent's names stand for.
        parent: The recipe that it was trained from, in normal form.
        model: The fine-tune's folder.
        allowed: Mismatches that are no errors.
        provenance: Where it came from.
        training: What the training that made it says of it, where one does.
        workers: Tensors at a time.
        on_bytes: Called with the size of every tensor done.

    Raises:
        Mismatch: The fine-tune does not fit.
        NothingChanged: It is the parent, bit for bit.
    """
    store, library = objects.store, objects.library
    before = plan(parent, library)
    evaluator = Evaluator(objects, before, workers=workers, cache=objects.cache)
    specs = {name: entry.spec for name, entry in model.entries.items()}
    sources = match_tensors(specs, before.specs(), config=model.config, allowed=allowed)
    evaluator.prepare()
    base = library.snapshot(parent.base).tensors
    seen: dict[str, _Seen] = {}
    with Publisher(store.path) as publisher:
        recording = _Recording(store, model, evaluator, publisher, before.specs(), base)

        def work(name: str) -> None:
            seen[name] = recording.take(name, sources[name])
            on_bytes(seen[name].tuned.spec.nbytes)

        run_each(work, sources, workers=workers)
    files_before = stored_files(objects, parent)
    files = {path: store.put_blob(model.read_file(path)) for path in model.files}
    changed_files = tuple(path for path, blob in files.items() if files_before.get(path) != blob)
    tuned = Snapshot(
        {name: seen[name].tuned for name in sorted(seen)},
        dict(sorted((files_before | files).items())),
    )
    was = Snapshot({name: seen[name].parent for name in sorted(seen)}, files_before)
    if tuned == was:
        raise NothingChanged(
            f"{model.root} is what HEAD already gives, bit for bit",
            hint="is it the folder of the fine-tune, or of the model it was trained from?",
        )
    if training and training.deltas:
        specs = before.specs()
        check_deltas(training.deltas, model, sources, specs, evaluator.blocks)
    recorded = _recorded(store, model, parent, tuned, was, seen, changed_files, provenance)
    return recorded if training is None else _with_training(store, recorded, tuned, training)


def stored_files(objects: Objects, recipe: Recipe) -> dict[str, ObjectId]:
    """Return the carried files of a recipe in normal form, as blobs of the store, by path."""
    return {
        path: version.blob or objects.store.put_blob(version.read(objects.read_blob))
        for path, version in plan_files(recipe, objects.library).items()
    }


@dataclass(frozen=True, slots=True)
class _Recording:
    """What taking a tensor in needs."""

    store: Store
    model: ModelDirectory
    evaluator: Evaluator
    publisher: Publisher
    specs: Mapping[str, TensorSpec]
    base: Mapping[str, TensorRef]

    def take(self, name: str, source: str | None) -> _Seen:
        """Store one tensor of the fine-tune, comparing it with the parent's.

        Args:
            name: The parent's name of it.
            source: The fine-tune's; None where it has none and the parent's counts.
        """
        if source is None:
            return self._unchanged(name)
        with self.model.opened(source) as content:
            return self._take(name, self.model.entries[source].spec, content)

    def _take(self, name: str, spec: TensorSpec, content: Elements) -> _Seen:
        known, base = self.evaluator.known(name), self._origin(name)
        # What is the parent's is found here, and not coded for nothing.
        alike = known and known.spec == spec and self._begins_alike(known.id, content)
        if known and alike and elements_id(spec, content) == known.id:
            return _Seen(known, known, 0)
        comparison = Comparison(
            spec, self.specs[name], known, lambda: self.evaluator.blocks(name), base=base
        )
        with closing(comparison):
            try:
                identity = self.store.put_elements(
                    spec, content, base=base, on_frame=comparison.see, publisher=self.publisher
                )
            except IntegrityError:
                comparison.check_parent()  # where that is what is damaged, says what needs it
                raise
            parent = comparison.finish()
        return _Seen(TensorRef(identity, spec), parent, comparison.changed)

    def _begins_alike(self, parent: ObjectId, content: Elements) -> bool:
        """Say whether a tensor begins as the parent's does, or that cannot be told."""
        first, other = (np.empty(min(_BEGINNING, content.nbytes), np.uint8) for _ in range(2))
        content.read(0, first)
        try:
            self.store.read_beginning(parent, other)
        except (IntegrityError, Missing):
            return True  # whether the parent can be read matters only to who needs it
        return np.array_equal(first, other)

    def _unchanged(self, name: str) -> _Seen:
        """Store the parent's tensor, which is in memory whole if it has to be computed."""
        spec, data = self.evaluator.tensor(name)
        identity = self.store.put_tensor(spec, data, base=self._origin(name))
        return _Seen(TensorRef(identity, spec), TensorRef(identity, spec), 0)

    def _origin(self, name: str) -> ObjectId | None:
        return self.base[name].id if name in self.base else None


def _recorded(
    store: Store,
    model: ModelDirectory,
    parent: Recipe,
    tuned: Snapshot,
    was: Snapshot,
    seen: Mapping[str, _Seen],
    changed_files: tuple[str, ...],
    provenance: Mapping[str, Scalar],
) -> Recorded:
    changed = {name: each for name, each in seen.items() if each.tuned != each.parent}
    elements = sum(each.tuned.spec.numel for each in seen.values())
    count = sum(each.changed for each in changed.values())
    stored = {each.tuned.id for each in changed.values()}
    stored_bytes = sum(store.stored_size(identity) for identity in stored)
    measured: dict[str, Scalar] = {
        "changed_share": float(f"{count / max(elements, 1):.6g}"),
        "changed_tensors": len(changed),
        "stored_bytes": stored_bytes,
    }
    if changed_files:
        measured["changed_files"] = ", ".join(changed_files)
    record = VectorRecord(
        "fine-tune",
        store.put_blob(tuned.to_bytes()),
        parent,
        store.put_blob(was.to_bytes()),
        provenance,
        measured,
    )
    return Recorded(
        record,
        len(changed),
        len(seen),
        count,
        elements,
        sum(each.tuned.spec.nbytes for each in changed.values()),
        stored_bytes,
        0,
        changed_files,
        model.skipped,
    )


def _with_training(
    store: Store, recorded: Recorded, tuned: Snapshot, training: Training
) -> Recorded:
    """Add what a training kept and measured."""
    left_out = tuple(name for name in recorded.left_out if name not in TRAINING_FILES)
    recorded, record = replace(recorded, left_out=left_out), recorded.record
    measured = {**training.measured, **record.measured}  # what was measured here counts
    if training.deltas is None:
        return replace(recorded, record=replace(record, measured=measured))
    delta, size = record_deltas(store, training.deltas, tuned.tensors)
    measured["delta_bytes"] = size
    kept = replace(record, measured=measured, delta=delta)
    return replace(recorded, record=kept, delta_bytes=size)
