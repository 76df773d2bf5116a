"""`tvc checkout` of what is copied or restored, against copying the folder."""

from pathlib import Path

from tests.benchmarks.measuring import in_turns, megabytes, ratio_row
from tests.benchmarks.setting import Setting, setting_of
from tests.benchmarks.table import Row

__all__ = ["rows"]


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure checkouts; see tests/benchmarks/__main__.py."""
    with setting_of(work, "tiny" if small else "1.1b", group="checkout") as setting:
        setting.make(["t1"])
        return _checkouts(setting, runs=2 if small else 5)


def _checkouts(setting: Setting, *, runs: int) -> list[Row]:
    repository = setting.repository()
    setting.stock(repository, ["t1"])
    got = in_turns(
        {
            "restoring": lambda: setting.checkout(repository, "t1"),
            "again": lambda: setting.checkout_again(repository, "t1", out="out"),
            "copying": lambda: setting.checkout(repository, "main", out="same"),
            "copy": lambda: setting.copy_folder(setting.models / "t1"),
        },
        runs=runs,
    )
    size = megabytes(setting.raw)
    fine_tune = f"checkout of a committed fine-tune of {size} against cp -r and fsync"
    base = f"checkout of the base of {size} against cp -r and fsync"
    return [
        ratio_row(fine_tune, got["restoring"], got["copy"], "wall", at_most=1.5),
        ratio_row(fine_tune, got["restoring"], got["copy"], "cpu"),
        ratio_row(
            "the same checkout where it stands already, against cp -r and fsync",
            got["again"],
            got["copy"],
            "wall",
        ),
        ratio_row(base, got["copying"], got["copy"], "wall"),
        ratio_row(base, got["copying"], got["copy"], "cpu"),
    ]
