"""Writing objects: which codec, and the file.

Content is read once, by frames: hashed, coded and written as it comes, so that an object may be
larger than the memory. Its name is known only at the end. One thread reads, hashes and writes;
others code several frames at a time, which changes no byte of the file. Absent on purpose: deciding
whether an object needs writing at all, where that can be known before.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR
from typing import Final

from tvc_store.arrays import ByteArray
from tvc_store.buffers import Buffer
from tvc_store.codecs import find_codec
from tvc_store.codecs.choosing import choose
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import PendingFile, make_folder, write_errors
from tvc_store.elements import Elements, InMemory, frame_slices
from tvc_store.errors import StoreError
from tvc_store.header import FRAME_BYTES, Header
from tvc_store.ids import ObjectId, TensorHasher
from tvc_store.layout import place
from tvc_store.objectfile import coded_frame, max_shared, shared_chunk
from tvc_store.opened import Opened
from tvc_store.ordered import DEPTH, in_order
from tvc_store.publishing import BACKLOG, Publisher, start_writing_back
from tvc_store.reading import Reader
from tvc_store.scratch import Scratch

__all__ = ["OnFrame", "ignore_frame", "write_blob", "write_tensor"]

OnFrame = Callable[[int, ByteArray, ByteArray | None], None]
"""Told the first byte and the content of every frame that is written, in order, and the same frame
of the base where the object is a difference from it."""

_NOBODY: Final = ObjectId("0" * 64)
_Frame = tuple[int, ByteArray, ByteArray | None]
"""A frame's place, its content, and the base's where that is used."""


def ignore_frame(at: int, frame: ByteArray, base: ByteArray | None) -> None:
    """Take no notice of a frame."""
    del at, frame, base


def write_blob(root: Path, object_id: ObjectId, content: ByteArray) -> None:
    """Write a blob's file over whatever stands in its place.

    Raises:
        WriteFailed: The system refused.
    """
    name, shared = choose(None, InMemory(content), None)
    header = Header(object_id, "blob", name, content.size, None, None)
    with write_errors(root), PendingFile(root, mode=0o444) as file:
        held = InMemory(content)
        _write_frames(file, header, shared, held, None, scratch=Scratch(0), see=lambda each: each)
        _publish(root, file, object_id, None)


def write_tensor(
    root: Path,
    reader: Reader,
    spec: TensorSpec,
    content: Elements,
    *,
    identity: ObjectId | None = None,
    base: ObjectId | None = None,
    codec: str | None = None,
    keep: Callable[[ObjectId], bool] = lambda _: False,
    on_frame: OnFrame = ignore_frame,
    publisher: Publisher | None = None,
) -> ObjectId:
    """Write a tensor's file over whatever stands in its place, and return its id.

    Args:
        root: The store's folder.
        reader: Of the same store.
        spec: Type and shape.
        content: The bytes.
        identity: The id, where it is known already.
        base: What it was trained from; see `Store.put_tensor`.
        codec: The id of the codec, in place of the best one.
        keep: Says of an id whether what is there already is kept, and nothing written.
        on_frame: Told every frame.
        publisher: As for `Store.put_elements`.

    Raises:
        StoreError: As for `Store.put_tensor`.
    """
    with (
        _usable(reader, spec, base, identity) as usable,
        write_errors(root),
        PendingFile(root, mode=0o444) as file,
    ):
        name, shared, used = _chosen(codec, spec, content, usable)
        origin = base if used else None
        header = Header(identity or _NOBODY, "tensor", name, spec.nbytes, spec, origin)
        hashes = _Hashes(spec, identity, on_frame)
        _write_frames(file, header, shared, content, used, scratch=reader.scratch, see=hashes.see)
        if used and hashes.base.finish() != base:
            # A difference from bytes that are not the base's could never be undone.
            raise used.wrong()
        object_id = identity or hashes.own.finish()
        # What turns out to be the base itself is there; it cannot be a difference from itself.
        if object_id != origin and not keep(object_id):
            if identity is None:
                file.rewrite_head(replace(header, id=object_id).to_bytes())
            _publish(root, file, object_id, publisher)
        return object_id


class _Hashes:
    """Hashes what is written, and the base that it is a difference from, as they are read."""

    def __init__(self, spec: TensorSpec, identity: ObjectId | None, on_frame: OnFrame) -> None:
        self.own, self.base = TensorHasher(spec), TensorHasher(spec)
        self._identity = identity
        self._on_frame = on_frame

    def see(self, each: _Frame) -> _Frame:
        at, frame, base = each
        self._on_frame(at, frame, base)
        if self._identity is None:
            self.own.update(frame)
        if base is not None:
            self.base.update(base)
        return each


@contextlib.contextmanager
def _usable(
    reader: Reader, spec: TensorSpec, base: ObjectId | None, identity: ObjectId | None
) -> Generator[Opened | None]:
    """Open a base, or yield None where no difference from it may be stored."""
    if base is None or base == identity:
        yield None
        return
    with reader.opened(base) as opened:
        yield opened if opened.base is None and opened.spec == spec else None


def _chosen(
    codec: str | None, spec: TensorSpec, content: Elements, origin: Opened | None
) -> tuple[str, bytes, Opened | None]:
    """Return the codec, its parameters, and the base if it uses one."""
    if codec is None:
        name, shared = choose(spec, content, origin)
        return name, shared, origin if find_codec(name).uses_base else None
    chosen = find_codec(codec)
    if chosen.uses_base and origin is None:
        raise StoreError(f"the codec {codec!r} needs a base of the same type and shape")
    used = origin if chosen.uses_base else None
    return codec, chosen.survey(spec, content, used), used


def _read_frames(
    ring: Sequence[tuple[ByteArray, ByteArray]], content: Elements, origin: Elements | None
) -> Generator[_Frame]:
    """Yield frame after frame, in the memory of the ring in turn."""
    for index, part in enumerate(frame_slices(content.nbytes)):
        frame, base = (each[: part.stop - part.start] for each in ring[index % DEPTH])
        content.read(part.start, frame)
        if origin is not None:
            origin.read(part.start, base)
        yield part.start, frame, None if origin is None else base


@contextlib.contextmanager
def _ring(scratch: Scratch, frames: int) -> Generator[list[tuple[ByteArray, ByteArray]]]:
    """Lend the memory of as many frames and their bases as are at work at a time."""
    # Always whole frames, which tensors of every size can use again.
    ring = [
        (scratch.take(FRAME_BYTES), scratch.take(FRAME_BYTES)) for _ in range(min(frames, DEPTH))
    ]
    try:
        yield ring
    finally:
        for pair in ring:
            for each in pair:
                scratch.give(each)


def _write_frames(
    file: PendingFile,
    header: Header,
    shared: bytes,
    content: Elements,
    origin: Elements | None,
    *,
    scratch: Scratch,
    see: Callable[[_Frame], _Frame],
) -> None:
    """Write header, parameters and frames, showing each to `see` when it was read."""
    coder = find_codec(header.codec).coder(header.spec, shared)
    assert len(shared) <= max_shared(header.raw_length), header.codec

    def code(each: _Frame) -> list[Buffer]:
        at, frame, base = each
        return coded_frame(coder, frame, at=at, origin=base, codec=header.codec)

    file.write(header.to_bytes())
    file.write(shared_chunk(shared))
    begun = 0
    with _ring(scratch, header.frames) as ring:
        frames = map(see, _read_frames(ring, content, origin))
        # Closed before the memory is given back: threads may be at work in it.
        with closing(in_order(code, frames, parallel=header.frames > 1)) as coded:
            for chunks in coded:
                for chunk in chunks:
                    file.write(chunk)
                if file.written - begun >= BACKLOG:
                    start_writing_back(file.fileno(), begun, file.written - begun)
                    begun = file.written


def _publish(
    root: Path, file: PendingFile, object_id: ObjectId, publisher: Publisher | None
) -> None:
    path = place(root, object_id)
    (publisher.make_folder if publisher else make_folder)(path.parent)
    if not S_ISDIR(path.parent.lstat().st_mode):
        raise StoreError(f"{path.parent} is not a folder", hint="remove it; tvc did not make it")
    if publisher:
        publisher.publish(file, path)
    else:
        file.publish(path)
