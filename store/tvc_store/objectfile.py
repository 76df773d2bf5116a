"""An object file as a stream: header, frames, checksum.

After the header, each frame is a byte that says how it is stored (0 raw, 1 coded, 2 equal to the
base's), a u32 length and that many bytes; 32 bytes of BLAKE3 over everything before end the file.
Frames stand between their lengths, with no table in front, so that writing streams and nothing is
buffered or patched afterwards. Absent on purpose: where files lie, and whether content fits its id.
"""

import os
import struct
from collections.abc import Generator, Iterator
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
from blake3 import blake3

from tvc_store.arrays import ByteArray, byte_view
from tvc_store.buffers import Buffer
from tvc_store.codecs import BUILT_IN, Codec, MalformedFrame, find_codec
from tvc_store.errors import StoreError
from tvc_store.header import FRAME_BYTES, MAX_HEADER, Header, MalformedObject

__all__ = ["ObjectFile", "allocate", "frame_targets", "object_chunks"]

_FRAME: Final = struct.Struct("<BI")
_RAW: Final = 0
_CODED: Final = 1
_EQUAL: Final = 2
_CHECKSUM: Final = 32


def object_chunks(
    header: Header, data: ByteArray, base: Iterator[ByteArray] | None
) -> Generator[Buffer]:
    """Yield the bytes of an object file.

    Args:
        header: What it will say of itself.
        data: The content, uint8 (header.raw_length,).
        base: The base's frames, where the header names one.

    Raises:
        UnknownCodec: The header's codec is not installed.
        MalformedFrame: A third party's codec does not return what it was given.
    """
    checksum = blake3()
    for chunk in _body(header, data, base):
        checksum.update(byte_view(chunk).data)
        yield chunk
    yield checksum.digest()


def allocate(nbytes: int) -> ByteArray:
    """Return an uninitialised array.

    Raises:
        StoreError: There is not enough memory.
    """
    try:
        return np.empty(nbytes, np.uint8)
    except MemoryError as error:
        raise StoreError(f"not enough memory for an object of {nbytes} bytes") from error


def frame_targets(nbytes: int, out: ByteArray | None) -> Iterator[ByteArray]:
    """Yield where each frame of some content goes: its place in `out`, or one scratch for all.

    Args:
        nbytes: Length of the content.
        out: uint8 (nbytes,), or None.

    Raises:
        StoreError: There is not enough memory.
    """
    scratch = allocate(min(nbytes, FRAME_BYTES)) if out is None else out
    for start in range(0, nbytes, FRAME_BYTES):
        length = min(FRAME_BYTES, nbytes - start)
        yield scratch[:length] if out is None else out[start : start + length]


class ObjectFile:
    """An object file opened for reading, its header checked; a context manager.

    Args:
        path: The file. A symbolic link is refused, since nothing in the store makes one.

    Raises:
        FileNotFoundError: There is no such file.
        MalformedObject: It is not a regular file, cannot be read, or its header is not one.
    """

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.header, self._start = Header.parse(self._file.read(MAX_HEADER))
            # Every frame costs something, so that no small file can ask for much memory at once.
            if self.size < self._start + self.header.frames * _FRAME.size + _CHECKSUM:
                raise MalformedObject("too short for the length that it announces")
        except OSError as error:
            self._file.close()
            raise MalformedObject(f"cannot be read: {error.strerror}") from error
        except BaseException:
            self._file.close()
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
        self._file.close()

    def frames(
        self, base: Iterator[ByteArray] | None, out: ByteArray | None = None
    ) -> Generator[ByteArray]:
        """Decode the content frame by frame; only when it has ended is the checksum verified.

        Args:
            base: The base's frames, where the header names one.
            out: uint8 (raw_length,), filled with the content; without it every frame that is
                yielded is overwritten by the next.

        Raises:
            MalformedObject: The file is not what an object file can be, or its checksum is wrong.
            MalformedFrame: A frame cannot be decoded.
            UnknownCodec: The header's codec is not installed.
        """
        header = self.header
        codec = find_codec(header.codec)
        if not codec.uses_base == (header.base is not None) == (base is not None):
            raise MalformedObject(
                f"codec {header.codec!r}, with or without a base as it must not be"
            )
        checksum = blake3()
        self._file.seek(0)
        checksum.update(self._read(self._start))
        for frame in frame_targets(header.raw_length, out):
            prefix = self._read(_FRAME.size)
            mode, size = _FRAME.unpack(prefix)
            _check_frame(mode, size, frame.size, based=base is not None)
            stored = self._read(size)
            checksum.update(prefix)
            checksum.update(stored)
            origin = None if base is None else next(base)
            _decode(codec, mode, stored, frame, header, origin)
            yield frame
        if self._read(_CHECKSUM) != checksum.digest():
            raise MalformedObject("the checksum is wrong")
        if self._file.read(1):
            raise MalformedObject("bytes follow the checksum")

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise MalformedObject(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise MalformedObject("the file is cut short")
        return data


def _open(path: Path) -> BinaryIO:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MalformedObject(f"cannot be opened: {error.strerror}") from error
    if not S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MalformedObject("not a regular file")
    return os.fdopen(fd, "rb")


def _body(header: Header, data: ByteArray, base: Iterator[ByteArray] | None) -> Iterator[Buffer]:
    yield header.to_bytes()
    codec = find_codec(header.codec)
    for start in range(0, data.size, FRAME_BYTES):
        frame = data[start : start + FRAME_BYTES]
        origin = None if base is None else next(base)
        mode, stored = _encode(codec, frame, header, origin)
        yield _FRAME.pack(mode, len(byte_view(stored)))
        yield stored
    if base is not None:
        next(base, None)  # runs past its last frame, where it verifies what it gave


def _encode(
    codec: Codec, frame: ByteArray, header: Header, origin: ByteArray | None
) -> tuple[int, Buffer]:
    if origin is not None and np.array_equal(frame, origin):
        return _EQUAL, b""
    dtype = header.spec.dtype if header.spec else None
    stored = byte_view(codec.encode(frame, dtype=dtype, base=origin))
    if stored.size >= frame.size:
        return _RAW, frame
    if header.codec not in BUILT_IN:
        # Ours are tested to return every pattern; of others only this can be said, and weights
        # that cannot be had back are lost.
        again = np.empty_like(frame)
        codec.decode(stored, again, dtype=dtype, base=origin)
        if not np.array_equal(again, frame):
            raise MalformedFrame(f"the codec {header.codec!r} does not return what it was given")
    return _CODED, stored


def _check_frame(mode: int, size: int, length: int, *, based: bool) -> None:
    fits = {_RAW: size == length, _CODED: size < length, _EQUAL: size == 0 and based}
    if not fits.get(mode, False):
        raise MalformedObject(f"a frame of {length} bytes is stored in an impossible way")


def _decode(
    codec: Codec,
    mode: int,
    stored: bytes,
    frame: ByteArray,
    header: Header,
    origin: ByteArray | None,
) -> None:
    if mode == _RAW:
        frame[:] = byte_view(stored)
    elif mode == _EQUAL and origin is not None:
        frame[:] = origin
    else:
        dtype = header.spec.dtype if header.spec else None
        codec.decode(byte_view(stored), frame, dtype=dtype, base=origin)
