"""Small results that are costly to find again: kept while there is room, and never needed.

What is read back has the checksum that it was written with, or is not there. Absent on purpose:
errors. A cache that cannot be read or written is an empty one.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

import zstandard
from blake3 import blake3

from tvc_store.durable import make_folder, write_durably
from tvc_store.errors import StoreError
from tvc_store.ids import hash_fields

__all__ = ["Cache"]

_CHECKSUM: Final = 32
_MOST_BYTES: Final = 16 << 20
_MOST_ENTRIES: Final = 4096


class Cache:
    """A folder of small results, by key; safe for several threads and processes.

    Args:
        path: The folder; made when something is kept, beside what is there already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str, *, size: int) -> bytes | None:
        """Return what was kept under a key, or None.

        Args:
            key: What it is.
            size: How many bytes it must have.
        """
        path = self._place(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                content = file.read(_MOST_BYTES)
            stored = content[_CHECKSUM:]
            if blake3(stored).digest() != content[:_CHECKSUM]:
                return None
            # It is asked before it is decompressed how much it would be.
            if zstandard.frame_content_size(stored) != size:
                return None
            data = zstandard.ZstdDecompressor().decompress(stored)
        except (OSError, zstandard.ZstdError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data if len(data) == size else None

    def put(self, key: str, data: bytes) -> None:
        """Keep a result under a key, if it can be."""
        stored = zstandard.ZstdCompressor(level=1).compress(data)
        if len(stored) > _MOST_BYTES - _CHECKSUM:
            return
        with contextlib.suppress(StoreError, OSError):
            make_folder(self._path)
            self._make_room()
            write_durably(self._place(key), [blake3(stored).digest(), stored])

    def _make_room(self) -> None:
        """Forget what was not used for longest, where there is too much."""
        entries = list(self._path.iterdir())
        if len(entries) < _MOST_ENTRIES:
            return
        for path in sorted(entries, key=lambda path: path.lstat().st_mtime)[: _MOST_ENTRIES // 4]:
            path.unlink(missing_ok=True)

    def _place(self, key: str) -> Path:
        return self._path / hash_fields("tvc.cache", key.encode())
