"""What depends on the terminal: colours, the pager, progress, narrow screens, completion, pipes."""

import os
import pty
import re
import select
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

TVC = Path(sysconfig.get_path("scripts")) / "tvc"
ESCAPE = "\x1b"


def in_terminal(*arguments: str, columns: int = 100, **environment: str) -> str:
    """Run the installed program in a terminal of its own and return what it shows."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tvc", *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **environment},
    )
    os.close(child)
    shown = b""
    while True:
        ready, _, _ = select.select([parent], [], [], 60)
        assert ready, shown
        try:
            data = os.read(parent, 65536)
        except OSError:  # the other end was closed
            break
        if not data:
            break
        shown += data
    os.close(parent)
    process.wait(timeout=60)
    return shown.decode("utf-8", "replace").replace("\r\n", "\n")


def piped(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvc", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def pager(tmp_path) -> Path:
    """A pager that notes that it was called, and with what."""
    path = tmp_path / "pager"
    path.write_text(f'#!/bin/sh\necho "LESS=$LESS" > {tmp_path}/paged\ncat >> {tmp_path}/paged\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("variable", ["PAGER", "GIT_PAGER", "TVC_PAGER"])
def test_the_pager_is_used_in_a_terminal(variable, repo, pager, tmp_path):
    shown = in_terminal("log", **{variable: str(pager)})
    paged = (tmp_path / "paged").read_text()
    assert paged.startswith("LESS=FRX\n")
    assert "Start on " in paged
    assert "Start on " not in shown


@pytest.mark.parametrize(
    "words",
    [["show"], ["diff", "listen", "brief"], ["vectors"], ["op", "log"]],
    ids=" ".join,
)
@pytest.mark.slow
def test_what_is_paged(words, repo, pager, tmp_path):
    in_terminal(*words, PAGER=str(pager))
    assert (tmp_path / "paged").exists()


def test_tvc_s_own_pager_comes_first_and_less_is_the_user_s(repo, pager, tmp_path):
    in_terminal("log", TVC_PAGER=str(pager), PAGER="false", LESS="S")
    assert (tmp_path / "paged").read_text().startswith("LESS=S\n")


def test_no_pager_where_none_is_wanted(repo, pager, tmp_path):
    assert "Start on " in in_terminal("--no-pager", "log", PAGER=str(pager))
    assert "Start on " in piped("log", PAGER=str(pager)).stdout
    assert not (tmp_path / "paged").exists()


def test_colours_in_a_terminal_only(repo):
    assert ESCAPE in in_terminal("--no-pager", "log", "--graph")
    assert ESCAPE not in in_terminal("--no-pager", "log", "--graph", NO_COLOR="1")
    assert ESCAPE not in piped("log", "--graph").stdout
    assert f"{ESCAPE}[31m" in in_terminal("switch", "nowhere")
    assert ESCAPE not in in_terminal("switch", "nowhere", NO_COLOR="1")
    assert ESCAPE not in piped("switch", "nowhere").stderr


@pytest.mark.slow
def test_nothing_but_text_goes_into_a_pipe(repo, models):
    for words in (
        ["status"],
        ["show", "listen"],
        ["branch"],
        ["vectors"],
        ["diff", "listen", "brief"],
        ["vectors", "inspect", "listen"],
        ["merge", "--dry-run", "--ties", "listen", "brief"],
        ["checkout", "listen", "-o", "../out"],
        ["commit", str(models / "formal"), "-m", "x"],
    ):
        done = piped(*words)
        assert done.returncode == 0, done.stderr
        assert ESCAPE not in done.stdout + done.stderr
        assert "\r" not in done.stdout + done.stderr
        assert done.stderr == ""


def test_progress_is_shown_in_a_terminal_and_goes_away(repo):
    shown = in_terminal("checkout", "listen", "-o", "../out")
    assert "wrote ../out: 5 tensors" in shown
    # The bar is drawn on lines that are erased again.
    assert "checking out" not in shown or f"{ESCAPE}[2K" in shown
    assert "checking out" not in in_terminal("-q", "checkout", "listen", "-o", "../out2")


@pytest.mark.parametrize("columns", [20, 40, 59])
@pytest.mark.slow
def test_narrow_terminals(columns, repo):
    shown = in_terminal("checkout", "listen", "-o", "../out", columns=columns)
    assert "wrote ../out" in shown
    assert "Traceback" not in shown
    assert "Usage: tvc" in in_terminal("--help", columns=columns)


def test_a_reader_that_goes_away_is_no_error(repo):
    command = f"{sys.executable} -m tvc --no-pager log | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("0", "141")
    assert "Traceback" not in done.stderr


def complete(line: str) -> list[str]:
    """Return what bash would offer at the end of a line."""
    words = line.split(" ")
    environment = {
        "_TVC_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['tvc']; from tvc.cli.main import main; main()",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.stderr == ""
    return [each.split(",", 1)[1] for each in done.stdout.split()]


COMPLETED = {
    "tvc me": ["merge"],
    "tvc vectors ins": ["inspect"],
    "tvc op re": ["restore"],
    "tvc switch li": ["listen"],
    "tvc merge --ties listen b": ["brief"],
    "tvc add li": ["listen"],
    "tvc scale li": [],
    "tvc vectors inspect l": ["listen"],
    "tvc vectors compare br": ["brief"],
    "tvc merge --from-m": ["--from-mergekit"],
    "tvc merge --like ": ["mergekit", "peft", "paper"],
    "tvc checkout li": ["listen"],
    "tvc completion z": ["zsh"],
    "tvc -C repo switch h": ["hedging"],
    "tvc export l": ["listen"],
}


@pytest.mark.slow
@pytest.mark.parametrize("line", COMPLETED)
def test_completion(line, repo, monkeypatch):
    if "-C" in line:
        monkeypatch.chdir(repo.parent)
    assert complete(line) == COMPLETED[line]


def test_completion_outside_of_a_repository_is_silent(tvc):
    assert complete("tvc switch li") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, tvc):
    script = tvc("completion", shell)
    assert "_TVC_COMPLETE" in script
    assert f"{shell}_complete" in script
    assert "tvc" in script


@pytest.mark.slow
def test_the_bash_script_works_in_bash(repo):
    """As a person's shell has it: evaluated, then asked for what follows `tvc swit`."""
    script = (
        'PATH="$1:$PATH"; eval "$(tvc completion bash)"; COMP_WORDS=(tvc swit); COMP_CWORD=1;'
        ' COMP_LINE="tvc swit"; COMP_POINT=8; f=$(complete -p tvc); f=${f#*-F }; ${f%% *} tvc;'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(TVC.parent)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["switch"]


def test_an_unknown_shell(tvc):
    assert "'tcsh' is not one of" in tvc.fails("completion", "tcsh")


def test_the_installed_program(repo):
    done = subprocess.run([TVC, "status"], capture_output=True, text=True, check=True)
    assert re.match(r"branch main, at [0-9a-f]{10}\n", done.stdout)
    assert subprocess.run([TVC, "switch", "x"], capture_output=True, check=False).returncode == 1
    done = subprocess.run([TVC], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: tvc")
