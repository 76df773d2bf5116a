"""Memory that holds a served model's parameters, and that a training on this machine writes to.

It has no name: a file of memory alone (memfd_create), which the training opens as
`/proc/PID/fd/FD`. So the system lets in processes of this user and machine only, and it ends with
the last of both. Absent: graphics cards, whose memory is shared in another way; and the writing.
"""

import fcntl
import mmap
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

import numpy as np
import torch

from tvc.domain.errors import StateError
from tvc.serving.sharing import COUNTER_AT, HEADER_BYTES, MEMORY_NAME
from tvc.vllm.holding import LoadRecord

__all__ = ["CannotShare", "SharedParameters"]

_ALIGNED: Final = 64


class CannotShare(StateError):
    """A model's parameters cannot lie in memory that another process writes to."""


class SharedParameters:
    """The parameters of a model, moved into one file of memory; the model computes with them there.

    Args:
        model: Not computing while this is made.
        record: Which parameters hold the checkpoint's tensors.

    Raises:
        CannotShare: They are on a graphics card, or the system has no such memory.
    """

    def __init__(self, model: torch.nn.Module, record: LoadRecord) -> None:
        wanted = {piece.parameter for held in record.tensors.values() for piece in held.pieces}
        by_storage: defaultdict[int, list[tuple[str, torch.Tensor]]] = defaultdict(list)
        for name, tensor in _filled_tensors(model):
            by_storage[tensor.untyped_storage().data_ptr()].append((name, tensor))
        moved = [each for each in by_storage.values() if wanted & {name for name, _ in each}]
        if any(tensor.device.type != "cpu" for each in moved for _, tensor in each):
            raise CannotShare(
                "sharing memory with a server on a graphics card is not offered",
                hint="leave --live-share out",
            )
        if not hasattr(os, "memfd_create"):
            raise CannotShare("this system has no memory that two processes can share so")
        starts: list[int] = []
        self.size = HEADER_BYTES
        for each in moved:
            starts.append(self.size)
            self.size += -(-each[0][1].untyped_storage().nbytes() // _ALIGNED) * _ALIGNED
        self.fd = os.memfd_create(MEMORY_NAME, os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._memory = mmap.mmap(self.fd, self.size)
        self.nonce = secrets.token_hex(16)
        self._memory[: len(self.nonce)] = self.nonce.encode()
        self._counter = np.frombuffer(self._memory, np.uint64, 1, COUNTER_AT)
        self.places: dict[str, int] = {}
        for start, each in zip(starts, moved, strict=True):
            self._move(start, each)

    @property
    def writes(self) -> int:
        """Count of beginnings and ends of writing; odd while somebody writes."""
        return int(self._counter[0])

    @property
    def is_attached(self) -> bool:
        """Whether a process that may write has it open; it holds the lock until it ends."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    def end_writing(self) -> None:
        """Count the end of a writing that its process did not live to see."""
        self._counter[0] += self._counter[0] % 2

    def describe(self, record: LoadRecord, names: Iterable[str]) -> dict[str, Any]:
        """Return what the other process has to know, as plain values: see `tvc.serving.sharing`.

        Args:
            record: Where the parameters hold the checkpoint's tensors.
            names: Of those that are held as they are.
        """
        return {
            "pid": os.getpid(),
            "fd": self.fd,
            "size": self.size,
            "nonce": self.nonce,
            "pieces": {
                name: [
                    {
                        "at": self.places[piece.parameter],
                        "size": list(piece.size),
                        "held": [piece.held[0], list(piece.held[1])],
                        "given": [piece.given[0], list(piece.given[1])],
                    }
                    for piece in record.tensors[name].pieces
                ]
                for name in names
            },
        }

    def _move(self, start: int, tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Move one storage, and let everything that lies in it lie in its new place."""
        nbytes = tensors[0][1].untyped_storage().nbytes()
        place = torch.frombuffer(self._memory, dtype=torch.uint8, count=nbytes, offset=start)
        old = torch.empty(0, dtype=torch.uint8).set_(tensors[0][1].untyped_storage())
        place.copy_(old)
        for name, tensor in tensors:
            first = int(tensor.storage_offset())
            self.places[name] = start + first * tensor.element_size()
            view = place.view(tensor.dtype)
            tensor.data = view.as_strided(tensor.shape, tensor.stride(), first)


def _filled_tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    every = chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    return [(name, tensor) for name, tensor in every if tensor.numel()]
