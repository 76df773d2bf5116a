"""TIES of three fine-tunes: against mergekit, against reading and writing, and over whole vectors."""

import shutil
import sys
from pathlib import Path
from typing import Final

from tests.benchmarks.measuring import TVC, Measured, Sample, in_turns, megabytes, ratio_row, run
from tests.benchmarks.mergekit import TIES, difference_row, merge_by_mergekit, merge_by_tvc
from tests.benchmarks.peers import environment
from tests.benchmarks.setting import TUNES, Setting, setting_of
from tests.benchmarks.table import Row, not_measured

__all__ = ["rows"]

_ALONE: Final = Path(__file__).with_name("reading_writing.py")


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure merges by TIES; see tests/benchmarks/__main__.py."""
    peer = environment(work, "mergekit", install=not small)
    with setting_of(work, "tiny" if small else "1.1b", group="ties") as setting:
        setting.make()
        repository = setting.repository()
        setting.stock(repository)
        merge_by_tvc(setting, TIES, repository, "tensor")
        _merge_whole_vectors(setting, repository)
        works = {
            "tensor": lambda: setting.checkout(repository, "tensor", out="ours"),
            "alone": lambda: _read_and_write(setting),
            "first": lambda: _checkout_uncached(setting, repository),
            "again": lambda: setting.checkout(repository, "vector"),
        }
        if peer.folder:
            works["mergekit"] = lambda: merge_by_mergekit(setting, TIES, peer, out="theirs")
        got = in_turns(works, runs=3, once=["mergekit"])
        what = f"{TIES}, base and each {megabytes(setting.raw)}"
        against = _against_itself(what, got)
        if not peer.folder:
            return [not_measured(f"{what}, by mergekit", peer.says), *against]
        return [
            *_against_mergekit(f"{what}, {peer.says} over tvc checkout", got),
            difference_row(setting, TIES, "ours", "theirs"),
            *against,
        ]


def _merge_whole_vectors(setting: Setting, repository: Path) -> None:
    setting.branch(repository, "vector")
    options = ["--like", "mergekit", "--density", "0.2", "--scope", "vector"]
    run([*TVC, "-q", "merge", "--ties", *TUNES, *options], repository)


def _checkout_uncached(setting: Setting, repository: Path) -> Sample:
    """Check out as for the first time, when no statistics of whole vectors are kept yet."""
    shutil.rmtree(repository / ".tvc" / "cache", ignore_errors=True)
    return setting.checkout(repository, "vector")


def _read_and_write(setting: Setting) -> Sample:
    folders = [str(setting.models / name) for name in ("base", *TUNES)]
    return run([sys.executable, str(_ALONE), "alone", *folders], setting.scratch)


def _against_mergekit(what: str, got: dict[str, Measured]) -> list[Row]:
    ours, theirs = got["tensor"], got["mergekit"]
    peaks = f"{megabytes(theirs.peak)} against {megabytes(ours.peak)}"
    return [
        ratio_row(what, theirs, ours, "cpu", at_least=30),
        ratio_row(what, theirs, ours, "wall", at_least=20),
        Row(f"peak resident memory, mapped files included: {what}", theirs.peak / ours.peak, peaks),
    ]


def _against_itself(what: str, got: dict[str, Measured]) -> list[Row]:
    tensor = got["tensor"]
    return [
        ratio_row(
            f"{what}, against reading the four and writing one with nothing else",
            tensor,
            got["alone"],
            "cpu",
            at_most=2.5,
        ),
        ratio_row(f"{what}, against the same", tensor, got["alone"], "wall"),
        *(
            ratio_row(
                f"{what}, trimmed over whole vectors {when}, against by tensor",
                got[key],
                tensor,
                measure,
                at_most=limit if measure == "wall" else None,
            )
            for key, when, limit in (("first", "for the first time", 1.5), ("again", "again", 1.1))
            for measure in ("wall", "cpu")
        ),
    ]
