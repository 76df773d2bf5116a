"""An object file: header, the codec's parameters, frames.

After the header come a u32 length and 16 bytes of checksum, then the parameters that all frames
share. Each frame is a byte that says how it is stored (0 raw, 1 coded, 2 equal to the base's), a
u32 length, a checksum of 16 bytes, and that many bytes. Frames stand between their lengths, with no
table in front, so that writing streams; finding one means a small read for each before it. Absent
on purpose: where files lie, and whether content fits its id.
"""

import os
import struct
from collections.abc import Generator
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Final, Self

import numpy as np
from blake3 import blake3

from tvc_store.arrays import ByteArray, byte_view
from tvc_store.buffers import Buffer
from tvc_store.codecs import BUILT_IN, Coder, MalformedFrame, find_codec
from tvc_store.elements import frame_count
from tvc_store.header import FRAME_BYTES, MAX_HEADER, Header, MalformedObject
from tvc_store.scratch import allocate

__all__ = ["ObjectFile", "coded_frame", "max_shared", "shared_chunk"]

_PREFIX: Final = struct.Struct("<BI")
_LENGTH: Final = struct.Struct("<I")
_CHECKSUM: Final = 16
_RAW: Final = 0
_CODED: Final = 1
_EQUAL: Final = 2
_EARLY: Final = 1 << 16


def max_shared(raw_length: int) -> int:
    """Return how many bytes of parameters an object of a length may have."""
    return raw_length // 8 + 4096


def shared_chunk(shared: bytes) -> bytes:
    """Return the parameters as they stand in the file."""
    length = _LENGTH.pack(len(shared))
    return length + _checksum(length, shared) + shared


def coded_frame(
    coder: Coder, frame: ByteArray, *, at: int, origin: ByteArray | None, codec: str
) -> list[Buffer]:
    """Return a frame as it stands in the file.

    Args:
        coder: The object's.
        frame: uint8 (n,).
        at: Its first byte in the content.
        origin: uint8 (n,), the base's, where the codec uses one.
        codec: Its id.

    Raises:
        MalformedFrame: A third party's codec does not return what it was given.
    """
    mode, stored = _encoded(coder, frame, at, origin, codec)
    prefix = _PREFIX.pack(mode, stored.size)
    return [prefix + _checksum(prefix, stored.data), stored]


class ObjectFile:
    """An object file opened for reading, its header checked; a context manager, safe for threads.

    It is `Elements`, where no base is needed: any part of it can be read alone.

    Args:
        path: The file. A symbolic link is refused, since nothing in the store makes one.

    Raises:
        FileNotFoundError: There is no such file.
        MalformedObject: It is not a regular file, cannot be read, or its header is not one.
    """

    def __init__(self, path: Path) -> None:
        self._fd = _open(path)
        try:
            self.size = os.fstat(self._fd).st_size
            self.header, self._start = Header.parse(self._some(0, MAX_HEADER))
            # Every frame costs something, so that no small file can ask for much memory at once.
            least = (_LENGTH.size + _CHECKSUM) + self.frames * (_PREFIX.size + _CHECKSUM)
            if self.size < self._start + least:
                raise MalformedObject("too short for the length that it announces")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the content."""
        return self.header.raw_length

    @property
    def frames(self) -> int:
        """Number of frames."""
        return frame_count(self.header.raw_length)

    def check_structure(self) -> None:
        """Check the parameters, and that the frames end where the file does; decode nothing.

        Raises:
            MalformedObject: They do not.
            MalformedFrame: The codec cannot have had these parameters.
            UnknownCodec: The header's codec is not installed.
        """
        assert self._coder is not None
        assert len(self._index) == self.frames

    def frame(self, index: int, out: ByteArray, base: ByteArray | None) -> None:
        """Decode one frame, its checksum verified.

        Args:
            index: Which.
            out: uint8 (n,), the frame's length; filled.
            base: uint8 (n,), the same frame of the base, where the header names one.

        Raises:
            MalformedObject: The file is not what an object file can be, or a checksum is wrong.
            MalformedFrame: The frame cannot be decoded.
            UnknownCodec: The header's codec is not installed.
        """
        coder, (place, mode, size) = self._coder, self._index[index]
        if (self.header.base is None) != (base is None):
            raise MalformedObject("a base, or none, where the header says otherwise")
        _check_frame(mode, size, out.size, based=base is not None)
        head = self._read(place, _PREFIX.size + _CHECKSUM)
        stored = self._read(place + len(head), size)
        if head[_PREFIX.size :] != _checksum(head[: _PREFIX.size], stored):
            raise MalformedObject("a frame's checksum is wrong")
        if mode == _RAW:
            out[:] = byte_view(stored)
        elif mode == _EQUAL and base is not None:
            out[:] = base
        else:
            coder.decode(byte_view(stored), out, at=index * FRAME_BYTES, base=base)

    def read(self, start: int, out: ByteArray) -> None:
        """Fill `out` with the content from byte `start` on; the object must need no base.

        Raises:
            MalformedObject: As for `frame`.
            MalformedFrame: As for `frame`.
            UnknownCodec: As for `frame`.
        """
        end = start + out.size
        for index in range(start // FRAME_BYTES, frame_count(end)):
            first = index * FRAME_BYTES
            frame = allocate(min(FRAME_BYTES, self.nbytes - first))
            self.frame(index, frame, None)
            part = frame[max(start - first, 0) : end - first]
            out[max(first - start, 0) :][: part.size] = part

    @cached_property
    def _coder(self) -> Coder:
        codec = find_codec(self.header.codec)
        if codec.uses_base != (self.header.base is not None):
            raise MalformedObject(
                f"codec {self.header.codec!r}, with or without a base as it must not be"
            )
        return codec.coder(self.header.spec, self._shared)

    @cached_property
    def _shared(self) -> bytes:
        length = self._read(self._start, _LENGTH.size)
        checksum = self._read(self._start + _LENGTH.size, _CHECKSUM)
        size = _LENGTH.unpack(length)[0]
        if size > max_shared(self.nbytes):
            raise MalformedObject(f"{size} bytes of parameters for {self.nbytes} of content")
        shared = self._read(self._start + _LENGTH.size + _CHECKSUM, size)
        if checksum != _checksum(length, shared):
            raise MalformedObject("the checksum of the parameters is wrong")
        return shared

    @cached_property
    def _index(self) -> list[tuple[int, int, int]]:
        """Place, mode and length of every frame; the file must end with the last."""
        place = self._start + _LENGTH.size + _CHECKSUM + len(self._shared)
        found: list[tuple[int, int, int]] = []
        for _ in range(self.frames):
            mode, size = _PREFIX.unpack(self._read(place, _PREFIX.size))
            found.append((place, mode, size))
            place += _PREFIX.size + _CHECKSUM + size
            if place > self.size:
                raise MalformedObject("the file is cut short")
        if place != self.size:
            raise MalformedObject("bytes follow the last frame")
        return found

    def _read(self, start: int, size: int) -> bytes:
        data = self._some(start, size)
        if len(data) != size:
            raise MalformedObject("the file is cut short")
        return data

    def _some(self, start: int, size: int) -> bytes:
        """Return `size` bytes, or less where the file ends before."""
        try:
            return b"".join(_pieces(self._fd, start, size))
        except OSError as error:
            raise MalformedObject(f"cannot be read: {error.strerror}") from error


def _pieces(fd: int, start: int, size: int) -> Generator[bytes]:
    while size:
        piece = os.pread(fd, size, start)
        if not piece:
            return
        yield piece
        start += len(piece)
        size -= len(piece)


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MalformedObject(f"cannot be opened: {error.strerror}") from error
    if not S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MalformedObject("not a regular file")
    return fd


def _checksum(prefix: bytes, stored: Buffer) -> bytes:
    hasher = blake3(prefix)
    hasher.update(byte_view(stored).data)
    return hasher.digest(length=_CHECKSUM)


def _encoded(
    coder: Coder, frame: ByteArray, at: int, origin: ByteArray | None, codec: str
) -> tuple[int, ByteArray]:
    if origin is not None and _equal(frame, origin):
        return _EQUAL, frame[:0]
    stored = byte_view(coder.encode(frame, at=at, base=origin))
    if stored.size >= frame.size:
        return _RAW, frame
    if codec not in BUILT_IN:
        # Ours are tested to return every pattern; of others only this can be said, and weights
        # that cannot be had back are lost.
        again = np.empty_like(frame)
        coder.decode(stored, again, at=at, base=origin)
        if not np.array_equal(again, frame):
            raise MalformedFrame(f"the codec {codec!r} does not return what it was given")
    return _CODED, stored


def _equal(one: ByteArray, other: ByteArray) -> bool:
    """Compare two frames; what differs does so early, as a rule."""
    return np.array_equal(one[:_EARLY], other[:_EARLY]) and np.array_equal(one, other)


def _check_frame(mode: int, size: int, length: int, *, based: bool) -> None:
    fits = {_RAW: size == length, _CODED: size < length, _EQUAL: size == 0 and based}
    if not fits.get(mode, False):
        raise MalformedObject(f"a frame of {length} bytes is stored in an impossible way")
