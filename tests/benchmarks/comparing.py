"""Says how far two model folders are apart, weight by weight.

    python comparing.py OURS THEIRS BASE                          prints facts as JSON
    python comparing.py OURS THEIRS BASE SCORE SHARES MEMBER...   of a merge that selects

A weight differs by rounding if it is no more than one step of bf16 away, a step being that of the
largest of the base's weight and the two results. Where a method keeps a share of a tensor by a
score, weights whose score equals that at the limit are counted apart: which of them are kept is left
to a sort by some, and decided by others. SCORE is `magnitude` of each member or `variance` of all;
SHARES are how many are above each limit, such as `0.2` or `0.01,0.51`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["main"]

_MANTISSA: Final = 7

Patterns = NDArray[np.uint16]
Floats = NDArray[np.float32]


def main(
    ours: str, theirs: str, base: str, score: str = "", shares: str = "", *members: str
) -> None:
    """Compare all tensors of the base, and print what was found."""
    folders = [Path(ours), Path(theirs), Path(base), *map(Path, members)]
    places = [_places(folder) for folder in folders]
    found = dict.fromkeys(("elements", "differ", "at_limit", "beyond_rounding"), 0)
    for name in places[2]:
        left, right, before, *tuned = (_read(*each[name]) for each in places)
        if left.shape != right.shape:
            raise SystemExit(f"{name} has another size")
        different = left != right
        found["elements"] += left.size
        found["differ"] += int(different.sum())
        at_limit = np.zeros(left.shape, np.bool_)
        for scores in _SCORES[score](_steps(before, tuned)) if score else ():
            for share in shares.split(","):
                # Of variances, the share is one of those that are not zero.
                count = np.count_nonzero(scores) if score == "variance" else scores.size
                at_limit |= _at_limit(scores, max(1, int(float(share) * count)))
        found["at_limit"] += int((different & at_limit).sum())
        different &= ~at_limit
        found["beyond_rounding"] += _beyond_rounding(left, right, before, different)
    print(json.dumps(found))


def _beyond_rounding(
    left: Patterns,
    right: Patterns,
    before: Patterns,
    different: NDArray[np.bool_],
) -> int:
    ours, theirs, base = (_float(each[different]) for each in (left, right, before))
    largest = np.maximum(np.maximum(abs(ours), abs(theirs)), abs(base))
    step = np.exp2(np.frexp(largest)[1].astype(np.float32) - 1 - _MANTISSA)
    return int((~(abs(ours - theirs) <= step)).sum())


def _steps(before: Patterns, tuned: list[Patterns]) -> list[Floats]:
    """Return what each member changed, rounded to bf16 as a program that computes in bf16 does."""
    return [_float(_to_bf16(_float(member) - _float(before))) for member in tuned]


def _magnitudes(steps: list[Floats]) -> Iterator[Patterns]:
    for step in steps:
        yield _to_bf16(np.abs(step))


def _variance(steps: list[Floats]) -> Iterator[Patterns]:
    yield _to_bf16(np.var(np.stack(steps), axis=0))


_SCORES: Final = {"magnitude": _magnitudes, "variance": _variance}


def _at_limit(scores: Patterns, kept: int) -> NDArray[np.bool_]:
    """Say which scores, as patterns of positive bf16, equal the k-th largest, or are next to it.

    Next to it, since a score that is rounded in other places may come out one step away.
    """
    above = np.cumsum(np.bincount(scores, minlength=1 << 15)[::-1])
    limit = (1 << 15) - 1 - int(np.searchsorted(above, kept))
    return abs(scores.astype(np.int32) - limit) <= 1


def _float(patterns: Patterns) -> Floats:
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def _to_bf16(values: Floats) -> Patterns:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _read(path: Path, start: int, count: int) -> Patterns:
    return np.fromfile(path, np.uint16, count, offset=start)


def _places(folder: Path) -> dict[str, tuple[Path, int, int]]:
    return {
        name: place for path in sorted(folder.glob("*.safetensors")) for name, place in _in(path)
    }


def _in(path: Path) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        table: dict[str, Any] = json.loads(file.read(length))
    for name, facts in table.items():
        if name != "__metadata__":
            start, stop = facts["data_offsets"]
            yield name, (path, 8 + length + start, (stop - start) // 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
