"""Merges to measure: what mergekit's files say of them, and both programs run on the same file.

The files leave `dtype` out: mergekit then computes in the type of the weights, which is the fastest
that it can do; tvc computes in float32 and rounds once.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.measuring import TVC, Sample, run
from tests.benchmarks.peers import Peer
from tests.benchmarks.setting import TUNES, Setting
from tests.benchmarks.table import Row

__all__ = ["MERGES", "TIES", "Merge", "difference_row", "merge_by_mergekit", "merge_by_tvc"]

_COMPARING: Final = Path(__file__).with_name("comparing.py")


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge as both programs read it.

    Args:
        method: As mergekit calls it.
        base: The base model, a fine-tune's name or "base"; None where the method has none.
        models: Names of what is merged.
        own: Parameters of each model.
        shared: Parameters of the whole merge.
        is_random: Draws at random, so that two programs give two results.
        selects: What decides which weights are kept, and the shares above its limits.
        note: What else makes results differ.
    """

    method: str
    base: str | None = "base"
    models: tuple[str, ...] = TUNES
    own: tuple[tuple[str, float], ...] = ()
    shared: tuple[tuple[str, float], ...] = ()
    is_random: bool = False
    selects: tuple[str, str] | None = None
    note: str = ""

    def __str__(self) -> str:
        parameters = (*self.own, *self.shared)
        said = ", ".join(f"{name} {value:g}" for name, value in parameters if name != "weight")
        return f"{self.method} of {len(self.models)}" + (f" ({said})" if said else "")

    def file(self, models: Path) -> dict[str, Any]:
        """Return the file that says this, which is YAML because it is JSON."""
        entries = [
            {"model": str(models / name), "parameters": dict(self.own)} for name in self.models
        ]
        found: dict[str, Any] = {"merge_method": self.method, "models": entries}
        if self.base:
            found["base_model"] = str(models / self.base)
        if self.shared:
            found["parameters"] = dict(self.shared)
        return found


TIES: Final = Merge(
    "ties", own=(("weight", 1),), shared=(("density", 0.2),), selects=("magnitude", "0.2")
)

MERGES: Final = (
    Merge("dare_ties", own=(("weight", 1),), shared=(("density", 0.5),), is_random=True),
    Merge(
        "della",
        own=(("weight", 1),),
        shared=(("density", 0.5), ("epsilon", 0.1)),
        is_random=True,
    ),
    Merge(
        "breadcrumbs",
        own=(("weight", 1),),
        shared=(("density", 0.5), ("gamma", 0.01)),
        selects=("magnitude", "0.01,0.51"),
    ),
    Merge(
        "sce",
        shared=(("select_topk", 0.2),),
        selects=("variance", "0.2"),
        note="mergekit weighs members equally where their mean square is below 1e-6",
    ),
    Merge("model_stock"),
    Merge("slerp", base="t1", models=("t1", "t2"), shared=(("t", 0.5),)),
    Merge("linear", base=None, own=(("weight", 1),)),
    Merge("task_arithmetic", own=(("weight", 0.5),)),
)


def merge_by_mergekit(setting: Setting, merge: Merge, peer: Peer, *, out: str) -> Sample:
    """Merge model folders by mergekit, as its command line does.

    Raises:
        RuntimeError: There is no mergekit, or it failed.
    """
    shutil.rmtree(setting.scratch / out, ignore_errors=True)
    _write_file(setting, merge)
    program = peer.program("mergekit-yaml")
    command = [program, f"{merge.method}.yaml", out, "--no-copy-tokenizer", "--quiet"]
    sample = run(command, setting.scratch)
    run(["sh", "-c", f"sync {out}/*"], setting.scratch)
    return sample


def merge_by_tvc(setting: Setting, merge: Merge, repository: Path, branch: str) -> None:
    """Make a branch whose commit is the merge that the same file says.

    Raises:
        RuntimeError: tvc refused.
    """
    _write_file(setting, merge)
    start = "main" if merge.base in (None, "base") else merge.base
    setting.branch(repository, branch, start=start)
    run([*TVC, "-q", "merge", "--from-mergekit", f"../{merge.method}.yaml"], repository)


def _write_file(setting: Setting, merge: Merge) -> None:
    path = setting.scratch / f"{merge.method}.yaml"
    path.write_text(json.dumps(merge.file(setting.models), indent=2))


def difference_row(setting: Setting, merge: Merge, ours: str, theirs: str) -> Row:
    """Return how many weights of two results differ by more than rounding.

    Args:
        setting: Has both results.
        merge: What they are results of.
        ours: Folder of tvc's.
        theirs: Folder of mergekit's.
    """
    folders = [str(setting.scratch / ours), str(setting.scratch / theirs)]
    command = [sys.executable, str(_COMPARING), *folders, str(setting.models / "base")]
    if merge.selects:
        command += [*merge.selects, *(str(setting.models / name) for name in merge.models)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    behind = f"{_share(found, 'differ')} of {found['elements'] / 1e6:.0f} M differ"
    if merge.selects:
        behind += f"; {_share(found, 'at_limit')} at a limit of {merge.selects[0]}, where mergekit's sort decides, and not counted"
    behind += f"; {merge.note}" if merge.note else ""
    return Row(
        f"{merge}: share of weights more than one step of bf16 from mergekit's",
        found["beyond_rounding"] / found["elements"],
        behind,
    )


def _share(found: dict[str, int], name: str) -> str:
    return f"{found[name] / found['elements']:.3%}"
