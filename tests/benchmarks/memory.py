"""Peak resident memory of commits and checkouts, for two sizes of model.

Above an interpreter that has imported torch, and above one that has imported NumPy. Fine-tunes are
made, committed and removed one by one, since together those of the larger model are large.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.measuring import TVC, megabytes, run
from tests.benchmarks.setting import TUNES, Setting, setting_of
from tests.benchmarks.table import Row

__all__ = ["rows"]

_ALLOWED = 400e6

_MERGES: Mapping[str, tuple[str, list[str]]] = {
    "checkout, ties by tensor": (
        "main",
        ["--ties", *TUNES, "--density", "0.2", "--scope", "tensor"],
    ),
    "checkout, ties by vector": (
        "main",
        ["--ties", *TUNES, "--density", "0.2", "--scope", "vector"],
    ),
    "checkout, dare_ties": ("main", ["--dare-ties", *TUNES, "--density", "0.5"]),
    "checkout, breadcrumbs": ("main", ["--breadcrumbs", *TUNES, "--density", "0.5"]),
    "checkout, model_stock": ("main", ["--method", "model_stock", *TUNES]),
    "checkout, slerp": ("t1", ["--slerp", "t2", "-O", "t=0.5"]),
}
"""By command that is measured: the branch on which to merge, and the options of the merge."""


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure peaks of memory; see tests/benchmarks/__main__.py."""
    sizes = ("tiny", "50m") if small else ("1.1b", "3b")
    peaks: list[Mapping[str, int]] = []
    for size in sizes:
        with setting_of(work, size, group="memory") as setting:
            peaks.append(_peaks(setting))
    torch, numpy = (
        run([sys.executable, "-c", f"import {name}"], work).peak for name in ("torch", "numpy")
    )
    return [
        row
        for what in peaks[0]
        for row in _of_command(what, sizes, [each[what] for each in peaks], torch, numpy)
    ]


def _of_command(
    what: str, sizes: tuple[str, str], peaks: list[int], torch: int, numpy: int
) -> list[Row]:
    return [
        Row(
            f"peak memory of {what}, {sizes[0]}, against an interpreter with torch and 400 MB",
            peaks[0] / (torch + _ALLOWED),
            f"{megabytes(peaks[0])} in all; above torch {megabytes(peaks[0] - torch)}, "
            f"above NumPy {megabytes(peaks[0] - numpy)}",
            at_most=1,
        ),
        Row(
            f"peak memory of {what}, above an interpreter with NumPy: {sizes[1]} over {sizes[0]}",
            (peaks[1] - numpy) / (peaks[0] - numpy),
            f"{megabytes(peaks[1] - numpy)} against {megabytes(peaks[0] - numpy)}",
            at_most=1.2,
        ),
    ]


def _peaks(setting: Setting) -> Mapping[str, int]:
    """Return the peak of each command, in bytes."""
    setting.make([])
    repository = setting.repository()
    found: dict[str, int] = {"commit": 0}
    for name in TUNES:
        setting.branch(repository, name)
        with setting.passing(name) as model:
            found["commit"] = max(found["commit"], setting.commit(repository, name, model).peak)
    found["checkout, restoring"] = setting.checkout(repository, "t1").peak
    for number, (what, (start, options)) in enumerate(_MERGES.items()):
        setting.branch(repository, f"merged{number}", start=start)
        merging = run([*TVC, "-q", "merge", *options], repository)
        found["merge, any of these"] = max(found.get("merge, any of these", 0), merging.peak)
        found[what] = setting.checkout(repository, f"merged{number}").peak
    return found
