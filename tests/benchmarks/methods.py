"""The other merge methods against mergekit, each on the same file."""

from pathlib import Path

from tests.benchmarks.measuring import in_turns, megabytes, ratio_row
from tests.benchmarks.mergekit import (
    MERGES,
    Merge,
    difference_row,
    merge_by_mergekit,
    merge_by_tvc,
)
from tests.benchmarks.peers import Peer, environment
from tests.benchmarks.setting import Setting, setting_of
from tests.benchmarks.table import Row, not_measured

__all__ = ["rows"]


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure merge methods; see tests/benchmarks/__main__.py."""
    peer = environment(work, "mergekit", install=not small)
    with setting_of(work, "tiny" if small else "50m", group="methods") as setting:
        setting.make()
        repository = setting.repository()
        setting.stock(repository)
        return [row for merge in MERGES for row in _of_merge(setting, merge, repository, peer)]


def _of_merge(setting: Setting, merge: Merge, repository: Path, peer: Peer) -> list[Row]:
    what = f"{merge}, base and each {megabytes(setting.raw)}, {peer.says} over tvc checkout"
    works = {"ours": lambda: setting.checkout(repository, merge.method, out="ours")}
    if peer.folder:
        works["theirs"] = lambda: merge_by_mergekit(setting, merge, peer, out="theirs")
    try:
        merge_by_tvc(setting, merge, repository, merge.method)
        got = in_turns(works, runs=2, once=["theirs"])
    except RuntimeError as error:
        return [not_measured(what, str(error))]
    if not peer.folder:
        seconds = f"tvc checkout {got['ours'].cpu:.2f} s CPU"
        return [not_measured(f"{merge}, by mergekit", f"{peer.says}; {seconds}")]
    found = [
        ratio_row(what, got["theirs"], got["ours"], "cpu", at_least=10),
        ratio_row(what, got["theirs"], got["ours"], "wall"),
    ]
    if not merge.is_random:
        found.append(difference_row(setting, merge, "ours", "theirs"))
    return found
