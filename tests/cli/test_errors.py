"""Errors as people see them, kept as a file; exit codes; the boundary that prints them."""

import subprocess
import sys

import pytest
from golden_files import check_golden

import tvc.cli.inspecting as inspecting_module

COMMANDS = [
    "swich main",
    "merge",
    "merge lisen",
    "merge --ties --density 2 listen",
    "merge --method tiez listen",
    "switch lisen",
    "branch listen",
    "branch 'a b'",
    "add lisen",
    "add 'listen + + brief'",
    "add 'ties(listen, brief; density=)'",
    "add listen --scale x",
    "scale listen 2",
    "scale listen",
    "remove listen",
    "commit",
    "commit -m x",
    "commit ../nowhere -m x",
    "import ../nowhere --name x -m x",
    "export listen -o ../x",
    "revert HEAD",
    "cherry-pick nowhere",
    "rebase --onto base",
    "undo --now",
    "op restore 999",
    "show nowhere",
    "diff nowhere",
    "log -n 0",
    "checkout -o recipe.toml",
    "checkout --shard-size many",
    "vectors inspect lisen",
    "vectors compare listen",
    "tag -d v1",
    "completion tcsh",
    "init . --base ../nowhere",
    "--frobnicate",
    "-C nowhere status",
]


def test_messages(tvc, repo):
    """Every message is one line (a term has its caret below), with a hint where one is sensible."""
    import shlex

    said = []
    for command in COMMANDS:
        error = tvc.fails(*shlex.split(command))
        said.append(f"$ tvc {command}\n{error}".replace(str(repo.parent), "<here>"))
        lines = error.splitlines()
        assert lines[0].startswith("error: ")
        assert (
            not lines[0].endswith(".") or "…" in lines[0] or "option" in lines[0] or "'" in lines[0]
        )
        assert sum(line.startswith("hint: ") for line in lines) <= 1
        assert "Traceback" not in error
    check_golden("errors.txt", "\n".join(said))


def test_exit_codes(tvc, clash):
    tvc("status", code=0)
    tvc("status", "--nope", code=1)
    tvc("switch", "nowhere", code=1)
    tvc("merge", "less", code=4)
    tvc("commit", code=4)
    tvc("merge", "--abort", code=0)
    content = next(
        line
        for line in (clash / "vectors" / "listen.toml").read_text().splitlines()
        if line.startswith("content")
    )
    identity = content.split('"')[1]
    (clash / ".tvc" / "objects" / identity[:2] / identity[2:]).unlink()
    tvc("checkout", "-o", "../out", code=3)


def test_a_bug_says_that_it_is_one(tvc, repo, monkeypatch):
    """Whatever is not expected ends with 70, and with the lines that a report needs."""

    def broken(recipe):
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(inspecting_module, "format_recipe", broken)
    error = tvc.fails("status", code=70)
    assert "ZeroDivisionError: broken on purpose" in error
    assert "error: this is a bug in tvc\nhint: report it with the lines above\n" in error


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(KeyboardInterrupt(), 130, "interrupted"), (MemoryError(), 1, "there is not enough memory")],
)
def test_interruptions(raised, code, message, tvc, repo, monkeypatch):
    def stopped(recipe):
        raise raised

    monkeypatch.setattr(inspecting_module, "format_recipe", stopped)
    error = tvc.fails("status", code=code)
    assert message in error
    assert "Traceback" not in error


def test_another_tvc_is_waited_for_and_named(tvc, repo):
    holder = (
        "import sys; from pathlib import Path; from tvc.repository.repository import Repository\n"
        "with Repository.open(Path.cwd()).change('tvc merge slow'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        error = tvc.fails("--lock-timeout", "0.2", "tag", "v1")
        assert "tvc merge slow" in error
        assert str(process.pid) in error
        # Readers need not wait.
        assert tvc("--lock-timeout", "0", "status")
        process.communicate("")
    tvc("--lock-timeout", "0", "tag", "v1")


def test_a_read_only_repository_can_be_looked_at(repo, tvc):
    import os

    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    for path in [repo, *repo.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        tvc("status")
        tvc("log")
        tvc("vectors")
        error = tvc.fails("tag", "v1")
        assert error.startswith("error: ")
    finally:
        for path in [repo, *repo.rglob("*")]:
            path.chmod(0o755)
