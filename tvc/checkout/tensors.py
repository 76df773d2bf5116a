"""Writes the tensors of a checkout: what can be kept is kept, what can be copied is copied.

In this order: shards of a previous checkout that are wanted as they are get a second name, tensors
of its others are copied; tensors that are borrowed are copied from where they lie; the rest is
decoded or computed, block by block. Whatever is kept or copied is hashed where it is now. Absent on
purpose: every file but the shards.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tvc.checkout.previous import Previous
from tvc.domain.snapshot import TensorRef
from tvc.evaluation.engine import Evaluator, run_each
from tvc.evaluation.numbers import cast_elements
from tvc.models.directory import FileTensor
from tvc.models.folder import PlainFile, open_plain
from tvc.models.header import Header
from tvc.models.writer import ModelWriter, Shard, shard_header
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import TensorSpec
from tvc_store.elements import elements_id
from tvc_store.errors import IntegrityError
from tvc_store.ids import ObjectId, TensorHasher
from tvc_store.local import Store
from tvc_store.reading import Missing

__all__ = ["TensorWriting"]


@dataclass
class TensorWriting:
    """The tensors of one checkout, about to be written.

    Args:
        store: Where tensors are borrowed from.
        evaluator: Gives those that are not.
        specs: Tensor name → type and shape as the plan gives it.
        targets: Tensor name → type and shape as it is written.
        shards: The files.
        workers: Tensors at a time.
        on_bytes: Called with the bytes of every tensor done.
        expected: Names of tensors that have to be computed → what came of it before; of use only
            where they are there already.
        ids: Tensor name → what was written.
    """

    store: Store
    evaluator: Evaluator
    specs: Mapping[str, TensorSpec]
    targets: Mapping[str, TensorSpec]
    shards: Iterable[Shard]
    workers: int
    on_bytes: Callable[[int], None]
    expected: Mapping[str, ObjectId] = field(default_factory=dict[str, ObjectId])
    ids: dict[str, ObjectId] = field(default_factory=dict[str, ObjectId])

    @property
    def computed(self) -> list[str]:
        """Names of the tensors that are not in the store as they are written."""
        return [name for name in sorted(self.targets) if self._stored(name) is None]

    def write(self, folder: Path, previous: Previous | None) -> int:
        """Write all tensors, durably; `ids` says then what they are.

        Args:
            folder: Where; it has no shards yet.
            previous: The checkout that this one will replace.

        Returns:
            Number of tensors that were taken from it.

        Raises:
            IntegrityError: An object is damaged or missing.
            WriteFailed: The system refused.
        """
        shards = list(self.shards)
        present = self._link(folder, shards, previous) if previous else []
        writer = ModelWriter(folder, shards, self.targets, present=present)
        if previous:
            self._keep(writer, previous)
        kept = len(self.ids)
        rest = [name for name in self.specs if name not in self.ids]
        if any(self.evaluator.known(name) is None for name in rest):
            self.evaluator.prepare(on_tensor=self.on_bytes)
        run_each(lambda name: self._write(writer, name), rest, workers=self.workers)
        writer.finish()
        return kept

    def _stored(self, name: str) -> TensorRef | None:
        """Return what the store has of a tensor as it is written."""
        known = self.evaluator.known(name)
        return known if known and self.targets[name] == known.spec else None

    def _wanted(self, name: str) -> ObjectId | None:
        """Return what a tensor will be, where that is known before."""
        stored = self._stored(name)
        return stored.id if stored else self.expected.get(name)

    def _wants(self, name: str, previous: Previous) -> bool:
        wanted = self._wanted(name)
        return wanted is not None and previous.has(name, self.targets[name], wanted)

    def _done(self, name: str, identity: ObjectId) -> None:
        self.ids[name] = identity
        self.on_bytes(self.specs[name].nbytes)

    def _link(self, folder: Path, shards: Iterable[Shard], previous: Previous) -> list[str]:
        """Link the shards that are wanted as they are; return the names of those that hold."""
        linked: list[str] = []
        for shard in shards:
            if not shard.names or not all(self._wants(name, previous) for name in shard.names):
                continue
            header, target = shard_header(shard, self.targets), folder / shard.file
            if not previous.link_shard(shard.names[0], header, shard.nbytes, target):
                continue
            if self._holds(target, header):
                linked.append(shard.file)
            else:
                target.unlink()
        return linked

    def _holds(self, path: Path, header: Header) -> bool:
        """Say whether a file's tensors are the wanted ones; note them if so."""
        status = path.lstat()
        file = PlainFile(path, status.st_size, status.st_mtime_ns)
        found: dict[str, ObjectId] = {}

        def verify(name: str) -> None:
            with FileTensor(file, entries[name]) as content:
                found[name] = elements_id(entries[name].spec, content)

        entries = {entry.name: entry for entry in header.entries}
        try:
            run_each(verify, entries, workers=self.workers)
        except IntegrityError:
            return False
        if any(found[name] != self._wanted(name) for name in entries):
            return False
        for name, identity in found.items():
            self._done(name, identity)
        return True

    def _keep(self, writer: ModelWriter, previous: Previous) -> None:
        """Copy tensors that are wanted as they are."""

        def copy(name: str) -> None:
            try:
                with open_plain(previous.file_of(name)) as fd:
                    copied = writer.copy(name, fd, previous.entries[name].offset)
            except IntegrityError:
                copied = None
            if copied and copied == self._wanted(name):
                self._done(name, copied)
            else:
                writer.discard(name)

        names = [name for name in self.specs if name not in self.ids]
        kept = [name for name in names if self._wants(name, previous)]
        run_each(copy, kept, workers=self.workers)

    def _write(self, writer: ModelWriter, name: str) -> None:
        stored = self._stored(name)
        if stored is None or not self._copied(writer, name, stored):
            self._evaluate(writer, name, stored)

    def _copied(self, writer: ModelWriter, name: str, stored: TensorRef) -> bool:
        """Copy a tensor from where it is borrowed; say whether that is what is there now."""
        copied: ObjectId | None = None
        try:
            with self.store.reader.opened(stored.id) as opened:
                file = opened.borrowed
                if file and opened.spec == stored.spec:
                    copied = writer.copy(name, file.fileno(), file.tensor.offset)
        except (IntegrityError, Missing):
            pass  # reading it by blocks finds another source, or says what is wrong
        if copied == stored.id:
            self._done(name, stored.id)
            return True
        writer.discard(name)
        return False

    def _evaluate(self, writer: ModelWriter, name: str, stored: TensorRef | None) -> None:
        hasher = TensorHasher(self.targets[name])
        at = 0
        with closing(self._blocks(name)) as blocks:
            for block in blocks:
                writer.write_at(name, at, block)
                at += block.size
                if not stored:  # what is restored was verified when its last block was given
                    hasher.update(block)
        self._done(name, stored.id if stored else hasher.finish())

    def _blocks(self, name: str) -> Generator[ByteArray]:
        """Yield a tensor as it is written."""
        spec, target = self.specs[name], self.targets[name]
        with closing(self.evaluator.blocks(name)) as blocks:
            for block in blocks:
                yield cast_elements(block, spec.dtype, target.dtype)
