"""Reads model folders and writes one as large as the first, and nothing else.

    python reading_writing.py OUT FOLDER...

What any program that merges these folders has to do at the least: measured as such, without any
arithmetic. Standard library only, so that starting takes no time.
"""

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["main"]

_BLOCK: Final = 4 << 20


def main(out: str, *folders: str) -> None:
    """Read all files of all folders, then write as many bytes as the first one has, and fsync."""
    block = bytearray(os.urandom(_BLOCK))
    view = memoryview(block)
    files = [path for folder in folders for path in sorted(Path(folder).iterdir())]
    for path in files:
        _read(path, view)
    total = sum(path.stat().st_size for path in Path(folders[0]).iterdir())
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for start in range(0, total, _BLOCK):
            os.pwrite(fd, view[: min(_BLOCK, total - start)], start)
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path, view: memoryview) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        start = 0
        while got := os.preadv(fd, [view], start):
            start += got
    finally:
        os.close(fd)


if __name__ == "__main__":
    main(*sys.argv[1:])
