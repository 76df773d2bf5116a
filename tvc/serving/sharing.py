"""Writes to the weights of a server on this machine, in the memory that it computes with.

The server names a process and a number of an open file of it, and where in it each tensor lies;
what it says is checked before a byte is written: a server could name anything. While this process
writes, a counter in that memory is odd, by which the server knows forwards that saw weights of two
models. Absent: the server's side (tvc/vllm/sharing.py).
"""

import fcntl
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tvc.domain.names import printable
from tvc.serving.server import LiveServer, Serving, Unfit
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import ITEMSIZE, TensorSpec

__all__ = ["COUNTER_AT", "HEADER_BYTES", "MEMORY_NAME", "SharedWeights"]

MEMORY_NAME: Final = "tvc-weights"
"""The name that the system shows for such memory."""

HEADER_BYTES: Final = 4096
"""What stands before the first parameter: at 0 a word by which the memory is known, and"""

COUNTER_AT: Final = 64
"""the counter, in eight bytes."""

_SHOWN_AS: Final = f"/memfd:{MEMORY_NAME} (deleted)"
_MAX_DIMENSIONS: Final = 8


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements of a tensor, and where they lie; see `tvc.vllm.holding.Piece`."""

    at: int
    size: tuple[int, ...]
    held: tuple[int, tuple[int, ...]]
    given: tuple[int, tuple[int, ...]]


class SharedWeights:
    """A server's weights, open for writing, by this process alone.

    Args:
        server: It.
        serving: What it says it serves.

    Raises:
        Unfit: It does not share its memory; it is on another machine, of another user, or another
            training writes to it; or it does not say where its tensors lie.
        EndpointFailed: It does not answer.
    """

    def __init__(self, server: LiveServer, serving: Serving) -> None:
        raw = server.share()
        self._fd = _opened(raw, server.url)
        try:
            size = os.fstat(self._fd).st_size
            if size != raw.get("size") or size < HEADER_BYTES:
                raise Unfit(f"{server.url} shares memory of another size than it says")
            self._memory = mmap.mmap(self._fd, size)
            nonce = str(raw.get("nonce")).encode()
            if not nonce or self._memory[: len(nonce)] != nonce:
                raise Unfit(f"{server.url} is on another machine: its memory is not here")
            self._pieces = _pieces(raw, serving, size)
        except BaseException:
            _let_go(self._fd)
            raise
        self._held = dict(serving.held)
        self._counter = np.frombuffer(self._memory, np.uint64, 1, COUNTER_AT)

    def write(self, tensors: Mapping[str, ByteArray]) -> int:
        """Put tensors in place.

        They are copied whole: looking for the elements that differ takes longer than writing all,
        and what is written over itself no forward can tell.

        Args:
            tensors: Name → bytes in the type that the server holds; only those that differ.

        Returns:
            Bytes that were written.
        """
        self._counter[0] += 1
        try:
            for name, content in tensors.items():
                given = content.view(f"u{ITEMSIZE[self._held[name].dtype]}")
                for piece in self._pieces[name]:
                    self._place(piece, given.dtype)[...] = _part(given, piece.size, piece.given)
        finally:
            self._counter[0] += 1
        return sum(content.nbytes for content in tensors.values())

    def close(self) -> None:
        """Let go of the memory; the server knows then that nobody writes to it any more."""
        _let_go(self._fd)

    def _place(self, piece: _Piece, words: np.dtype[Any]) -> NDArray[Any]:
        count = (len(self._memory) - piece.at) // words.itemsize
        return _part(np.frombuffer(self._memory, words, count, piece.at), piece.size, piece.held)


def _part(
    flat: NDArray[Any], size: tuple[int, ...], place: tuple[int, tuple[int, ...]]
) -> NDArray[Any]:
    """Return a view; that it is inside was checked."""
    strides = tuple(each * flat.itemsize for each in place[1])
    return as_strided(flat[place[0] :], size, strides)


def _opened(raw: Mapping[str, Any], url: str) -> int:
    """Open the memory, which nobody else may write to then.

    Raises:
        Unfit: It is not there, another user's, not such memory, or somebody else writes to it.
    """
    pid, number = raw.get("pid"), raw.get("fd")
    if type(pid) is not int or type(number) is not int or min(pid, number) < 0:
        raise Unfit(f"{url} does not say where its memory is")
    path = Path(f"/proc/{pid}/fd/{number}")
    try:
        # Before it is opened for writing: of this name, it is nothing but such memory.
        if str(path.readlink()) != _SHOWN_AS:
            raise FileNotFoundError
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        raise Unfit(f"{url} is another user's: its memory cannot be shared") from None
    except OSError:
        raise Unfit(
            f"{url} is on another machine, or in another container: its memory is not here",
            hint="leave --live-share out",
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Unfit(f"another training writes to the memory of {url}") from None
    return fd


def _let_go(fd: int) -> None:
    """Unlock and close a file; what is mapped of it goes with the last that looks at it."""
    fcntl.flock(fd, fcntl.LOCK_UN)  # by itself: the mapping has a descriptor of its own
    os.close(fd)


def _pieces(raw: Mapping[str, Any], serving: Serving, size: int) -> dict[str, list[_Piece]]:
    """Read where every tensor lies.

    Raises:
        Unfit: It is not inside the memory, or not all of a tensor is.
    """
    found: dict[str, list[_Piece]] = {}
    for name, spec in serving.held.items():
        try:
            entries = raw["pieces"][name]
            found[name] = [_piece(entry, spec, size) for entry in entries]
            covered = sum(int(np.prod(piece.size, dtype=object)) for piece in found[name])
            if covered != spec.numel:
                raise ValueError("pieces that are not the whole")
        except (KeyError, TypeError, ValueError) as error:
            raise Unfit(
                f"the server does not say where {printable(name)} lies: {printable(str(error))}"
            ) from None
    return found


def _piece(entry: dict[str, Any], spec: TensorSpec, size: int) -> _Piece:
    at, extents = entry["at"], _numbers(entry["size"])
    width = ITEMSIZE[spec.dtype]
    if type(at) is not int or at < HEADER_BYTES or at % width:
        raise ValueError("a place that is none")
    held = _place(entry["held"], extents, (size - at) // width)
    given = _place(entry["given"], extents, spec.numel)
    return _Piece(at, extents, held, given)


def _place(value: Any, size: tuple[int, ...], room: int) -> tuple[int, tuple[int, ...]]:
    """Read an offset and strides, of which every element is inside of `room` elements."""
    offset, strides = value
    (first,), steps = _numbers([offset]), _numbers(strides)
    if len(steps) != len(size):
        raise ValueError("strides for another shape")
    last = first + sum((n - 1) * step for n, step in zip(size, steps, strict=True))
    if 0 not in size and last >= room:
        raise ValueError("a place outside of it")
    return first, steps


def _numbers(values: Any) -> tuple[int, ...]:
    found = cast("list[object]", values)
    if len(found) > _MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in found):
        raise ValueError("a number that is none")
    return tuple(cast("list[int]", found))
