"""Many fine-tunes of one base: what they take, and what looking at them takes."""

from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.measuring import TVC, Sample, command_in, in_turns, megabytes, ratio_row
from tests.benchmarks.setting import Setting, setting_of, size_of
from tests.benchmarks.table import Row

__all__ = ["rows"]


class _Commit(NamedTuple):
    sample: Sample
    stored: int


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure how a repository grows; see tests/benchmarks/__main__.py."""
    few, many = (2, 8) if small else (5, 50)
    with setting_of(work, "tiny" if small else "50m", group="growth") as setting:
        setting.make([])
        repository = setting.repository()
        commits = [_commit(setting, repository, number) for number in range(1, few + 1)]
        early = setting.copy_of(repository, "early")
        commits += [_commit(setting, repository, number) for number in range(few + 1, many + 1)]
        return [*_of_commits(setting, commits, few), *_of_looking(early, repository, few, many)]


def _commit(setting: Setting, repository: Path, number: int) -> _Commit:
    """Make a fine-tune, commit it on a branch of its own, and remove it."""
    name = f"f{number}"
    setting.branch(repository, name)
    before = size_of(repository / ".tvc" / "objects")
    with setting.passing(name) as model:
        sample = setting.commit(repository, name, model)
    return _Commit(sample, size_of(repository / ".tvc" / "objects") - before)


def _of_commits(setting: Setting, commits: list[_Commit], few: int) -> list[Row]:
    many = len(commits)
    counts = f"{many} fine-tunes of {megabytes(setting.raw)}"
    early, late = commits[:few], commits[-few:]
    each = [sum(commit.stored for commit in part) / len(part) for part in (early, commits)]
    walls, cpus = (
        [sorted(getattr(c.sample, name) for c in part)[len(part) // 2] for part in (early, late)]
        for name in ("wall", "cpu")
    )
    return [
        Row(
            f"{counts}: stored bytes of each, against those of the first {few}",
            each[1] / each[0],
            f"{megabytes(each[1])} against {megabytes(each[0])}",
            at_most=1.05,
        ),
        *(
            Row(
                f"{kind}: {counts}: a commit, median of the last {few} against the first {few}",
                took[1] / took[0],
                f"{took[1]:.2f} s against {took[0]:.2f} s",
                at_most=1.2,
            )
            for kind, took in (("wall", walls), ("CPU", cpus))
        ),
    ]


def _of_looking(early: Path, repository: Path, few: int, many: int) -> list[Row]:
    looks = {"log --all": ["log", "--all"], "status": ["status"], "branch": ["branch"]}
    found: list[Row] = []
    for name, command in looks.items():
        works = {
            "few": command_in(early, [*TVC, *command]),
            "many": command_in(repository, [*TVC, *command]),
        }
        got = in_turns(works, runs=5)
        what = f"tvc {name}, {many} fine-tunes against {few}"
        limit = many / few if name.startswith("log") else None
        found.append(ratio_row(what, got["many"], got["few"], "cpu", at_most=limit))
    return found
