"""Copying a part of a file to another by the system, which shares blocks where the disk can.

On Btrfs, XFS and the like nothing is copied then, but for what is not a whole block of both files;
on network disks the server copies. Everywhere else it is as fast as reading and writing. Absent on
purpose: whether what is copied is what it should be.
"""

import errno
import os
from typing import Final

__all__ = ["copy_range"]

_PIECE: Final = 1 << 18
_BLOCK: Final = 1 << 12  # of nearly all disks; a larger one shares nothing, and loses nothing else
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def copy_range(source: int, start: int, target: int, at: int, size: int) -> bool:
    """Copy bytes from one open file to another; say whether the source could be read so far.

    Args:
        source: Open for reading.
        start: First byte of the source.
        target: Open for writing.
        at: First byte of the target.
        size: Number of bytes.

    Raises:
        OSError: The target cannot be written.
    """
    # Blocks are shared from the first that begins in both files on.
    head = min(-at % _BLOCK, size) if start % _BLOCK == at % _BLOCK else 0
    if not _copied(source, start, target, at, head):
        return False
    start, at, size = start + head, at + head, size - head
    done = _copied_by_system(source, start, target, at, size)
    return _copied(source, start + done, target, at + done, size - done)


def _copied(source: int, start: int, target: int, at: int, size: int) -> bool:
    """Copy by reading and writing; say whether the source could be read."""
    while size:
        try:
            piece = os.pread(source, min(_PIECE, size), start)
        except OSError:
            return False
        if not piece:
            return False
        count = os.pwrite(target, piece, at)
        start, at, size = start + count, at + count, size - count
    return True


def _copied_by_system(source: int, start: int, target: int, at: int, size: int) -> int:
    """Return how many bytes the system copied; less where it cannot between these files."""
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(source, target, size - done, start + done, at + done)
        except OSError as error:
            if error.errno in _FULL:
                raise
            return done
        if not count:
            return done
        done += count
    return done
