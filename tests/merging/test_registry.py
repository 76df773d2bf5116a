"""A merge method is added by an installed package, without touching tvc."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tvc.merging.installed import method_names
from tvc.merging.registry import load_methods

MODULE = """
from typing import Annotated

from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.options import Number


@merge_method("loudest", summary="The longest of the vectors.", paper="none")
def loudest(
    deltas: Tensor, *, gain: Annotated[float, Number("factor", minimum=0)] = 1.0
) -> Tensor:
    return gain * max(deltas, key=lambda delta: float(delta.abs().sum()))
"""

ASK = """
import json, sys, torch
from tvc.domain.errors import InputError
from tvc.merging.registry import find_method, load_methods
try:
    method = find_method(sys.argv[1])
    deltas = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    merged = method.merge(deltas, options=method.check_options({"gain": 2}))
    answer = [sorted(load_methods()), merged.tolist()]
except InputError as error:
    answer = [type(error).__name__, error.message, error.hint]
json.dump(answer, sys.stdout)
"""


def package(folder: Path, name: str, entries: str, module: str = MODULE) -> None:
    """Lay out a distribution as pip leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tvc.merge_methods]\n{entries}\n")
    (folder / f"{name}.py").write_text(module)


def ask(folder: Path, name: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, name],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_method_from_outside_the_package(tmp_path: Path) -> None:
    package(tmp_path, "loud", "loudest = loud:loudest")
    names, merged = ask(tmp_path, "loudest")
    assert names == sorted([*method_names(), "loudest"])
    assert merged == [0.0, 6.0]


def test_a_name_claimed_twice_is_refused(tmp_path: Path) -> None:
    package(tmp_path, "loud", "ties = loud:loudest")
    answer = ask(tmp_path, "ties")
    assert answer == [
        "MethodUnusable",
        "merge method 'ties' is claimed by loud:loudest and tvc.merging.ties:ties",
        "uninstall one of the packages",
    ]


def test_a_method_that_does_not_import_is_named(tmp_path: Path) -> None:
    package(tmp_path, "loud", "loudest = loud:loudest", "import nothing_of_this_name\n")
    kind, message, _ = ask(tmp_path, "loudest")
    assert kind == "MethodUnusable"
    assert "loud:loudest" in str(message)
    assert "nothing_of_this_name" in str(message)


def test_what_is_no_method_is_refused(tmp_path: Path) -> None:
    package(tmp_path, "loud", "loudest = loud:Number")
    assert ask(tmp_path, "loudest")[:2] == [
        "MethodUnusable",
        "loud:Number is not the merge method 'loudest'",
    ]


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys; from tvc.merging.installed import method_names; method_names();"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert tuple(load_methods()) == method_names()
