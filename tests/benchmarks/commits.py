"""`tvc commit DIR` against copying the folder."""

from pathlib import Path

from tests.benchmarks.measuring import Sample, in_turns, megabytes, ratio_row
from tests.benchmarks.setting import Setting, setting_of, size_of
from tests.benchmarks.table import Row

__all__ = ["rows"]


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure commits; see tests/benchmarks/__main__.py."""
    with setting_of(work, "tiny" if small else "1.1b", group="commit") as setting:
        setting.make(["t1"])
        return _commits(setting, runs=2 if small else 5)


def _commits(setting: Setting, *, runs: int) -> list[Row]:
    empty = setting.repository("empty")

    def commit() -> Sample:
        return setting.commit(setting.copy_of(empty, "filled"), "t1")

    def copy() -> Sample:
        return setting.copy_folder(setting.models / "t1")

    got = in_turns({"commit": commit, "copy": copy}, runs=runs)
    stored, before = (
        size_of(setting.scratch / name / ".tvc" / "objects") for name in ("filled", "empty")
    )
    what = f"commit of a fine-tune of {megabytes(setting.raw)} against cp -r and fsync"
    return [
        ratio_row(what, got["commit"], got["copy"], "wall", at_most=2),
        ratio_row(what, got["commit"], got["copy"], "cpu"),
        Row(
            "stored bytes of that fine-tune against its own",
            (stored - before) / setting.raw,
            f"{megabytes(stored - before)} against {megabytes(setting.raw)}",
        ),
    ]
