"""Writes the corpus of the fuzzer: frames of every width, with rows and columns and without.

    python -m tests.fuzz.seeds

The first 16 bytes are what decode.c reads as the frame's description; the rest is a stored frame.
"""

from itertools import product
from pathlib import Path

import numpy as np

from tvc_store.codecs.grid import UNCHANGED, Grid
from tvc_store.codecs.native import encode

FOLDER = Path(__file__).with_name("corpus")
EXPONENTS = [(3, 15), (7, 255), (23, 255), (52, 2047)]
SPREADS = [0.3, 40, 5000]


def base_of(seed: int, size: int, itemsize: int) -> np.ndarray:
    """The same bytes that decode.c makes."""
    out, state = np.empty(size, np.uint8), seed
    for place in range(size):
        state = (state * 1664525 + 1013904223) % 2**32
        out[place] = 0x3C + (state >> 29) if place % itemsize == itemsize - 1 else state >> 24
    return out


def column_terms(count: int, unchanged: int, step: int) -> bytes:
    """The same terms that decode.c makes."""
    place = np.arange(count)
    terms = ((place * step) >> 3) % 16
    return np.where(place * unchanged % 17 == 16, UNCHANGED, terms).astype(np.int8).tobytes()


def seed(log: int, flags: int, spread: float, count: int) -> bytes:
    itemsize, (shift, mask) = 1 << log, EXPONENTS[log]
    described = bytearray(
        [log, (count - 1) % 256, (count - 1) >> 8, flags, 49, 1, 3, 5, 7, 11, 13, 17]
    )
    described += bytes(4)
    columns = 1 + 49 * 2 if flags & 2 else 0
    grid = Grid(
        itemsize,
        shift if flags & 1 else 0,
        mask if flags & 1 else 0,
        columns,
        column_terms(columns, 7, 11) if columns and flags & 8 else b"",
        with_rows=bool(columns and flags & 4),
    )
    base = base_of(13 | 17 << 8, count * itemsize, itemsize)
    random = np.random.default_rng(flags + log)
    steps = np.rint(random.standard_normal(count) * spread).astype(np.int64)
    frame = (base.view(f"<u{itemsize}") + steps.astype(f"<i{itemsize}").view(f"<u{itemsize}")).view(
        np.uint8
    )
    coded = encode(grid, frame, base, first=15 if columns else 0)
    assert coded is not None or itemsize == 1
    return bytes(described) + (coded or b"")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for log, flags, spread in product(range(4), (0, 1, 7, 15), SPREADS):
        content = seed(log, flags, spread, 700)
        (FOLDER / f"{1 << log}-{flags:02}-{spread}").write_bytes(content)


if __name__ == "__main__":
    main()
