"""tvc eval, bisect and scale --sweep, as they are typed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from line_bench import SUITE, write_suite

from tvc.cli.main import _run


class Tvc:
    """Runs tvc in this process.

    Args:
        capsys: Catches what is printed.
        monkeypatch: Sets what the process is told it was called as.
    """

    def __init__(self, capsys, monkeypatch) -> None:
        self._capsys, self._patch = capsys, monkeypatch
        self.err = ""

    def __call__(self, *arguments: object, code: int = 0) -> str:
        words = [str(each) for each in arguments]
        self._patch.setattr(sys, "argv", ["tvc", *words])
        self._capsys.readouterr()
        status = _run(words)
        out, self.err = self._capsys.readouterr()
        assert status == code, f"tvc {words} ended with {status}:\n{out}\n{self.err}"
        return out

    def fails(self, *arguments: object) -> str:
        self(*arguments, code=1)
        assert "error: " in self.err
        return self.err

    def json(self, *arguments: object):
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def tvc(line_template, tmp_path, monkeypatch, capsys) -> Tvc:
    """The command line, in a copy of the repository, with a suite beside it."""
    monkeypatch.setenv("COLUMNS", "100")
    write_suite(tmp_path, prompts=24)
    shutil.copytree(line_template, tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(tmp_path / "repo")
    return Tvc(capsys, monkeypatch)


def state_of_the_repository() -> str:
    commands = (
        ["git", "rev-parse", "HEAD"],
        ["git", "status", "--porcelain"],
        ["git", "for-each-ref", "refs/heads", "refs/tags"],
    )
    return "".join(
        subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in commands
    )


def test_models_stand_side_by_side(tvc: Tvc) -> None:
    before = state_of_the_repository()
    text = tvc("eval", "../suite.toml", "base", "HEAD~2", "--recipe", "base + 0.5 * accept")
    lines = text.splitlines()
    assert lines[0].split() == ["base", "HEAD~2", "base", "+", "0.5", "*", "accept"]
    assert lines[1].startswith("accepts ")
    assert "*" in lines[1]
    assert any(line.startswith("  accepts, opposite") for line in lines)
    assert any(line.startswith("KL, own answers") for line in lines)
    assert lines[-1].startswith("* differs from base on the same prompts")
    assert state_of_the_repository() == before
    assert tvc("eval", "../suite.toml", "base", "HEAD~2", "--recipe", "base + 0.5 * accept") == text
    found = tvc.json("eval", "../suite.toml", "base", "HEAD~2")["models"]
    assert [each["model"] for each in found] == ["base", "HEAD~2"]
    assert found[0]["commit"] is None
    assert found[0]["behaviours"]["accepts"]["alone"]["rate"] < 0.5
    assert found[1]["behaviours"]["accepts"]["alone"]["low"] > 0.7
    assert found[1]["answers_kl"]["value"] > found[1]["answers_kl"]["error"] >= 0


@pytest.mark.slow
def test_the_working_tree_is_measured_as_it_is_edited(tvc: Tvc) -> None:
    assert tvc.json("eval", "../suite.toml")["models"][0]["model"] == "HEAD"
    tvc("remove", "ask")
    (found,) = tvc.json("eval", "../suite.toml")["models"]
    assert found["model"] == "working tree"
    assert found["behaviours"]["accepts"]["alone"]["rate"] > 0.7


def test_answers_can_be_read(tvc: Tvc, tmp_path: Path) -> None:
    for _ in range(2):
        tvc("eval", "../suite.toml", "base", "--answers", "../said.jsonl")
        lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
        assert len(lines) == 4 * 24
        assert {line["asked"] for line in lines} == {"no", "for it", "for the opposite"}
        for line in lines:
            if (line["behaviour"], line["asked"]) == ("accepts", "no"):
                assert line["shown"] == line["answer"].startswith("yes")


def test_a_result_is_noted_once(tvc: Tvc) -> None:
    def notes() -> str:
        command = ["git", "rev-parse", "refs/notes/tvc-eval"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    tvc("eval", "../suite.toml", "HEAD", "--no-distance")
    before = notes()
    tvc("eval", "../suite.toml", "HEAD", "--no-distance")
    assert notes() == before


@pytest.mark.slow
def test_the_matrix_of_a_chain(tvc: Tvc) -> None:
    text = tvc("eval", "../suite.toml", "HEAD~2", "HEAD", "--matrix")
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["accepts", "base", "HEAD~2", "HEAD"]
    assert lines[2].count("<") == lines[3].count("<") == 1
    assert any(line.startswith("backward transfer") for line in lines)
    facts = tvc.json("eval", "../suite.toml", "HEAD~2", "HEAD", "--matrix")["transfer"]
    assert facts["backward"]["value"] < -0.8
    assert facts["behaviours"] == ["accepts", "asks"]
    for name, commit in (("asks", "HEAD~2"), ("accepts", "HEAD")):
        subprocess.run(["git", "branch", name, commit], check=True)
    facts = tvc.json("eval", "../suite.toml", "asks", "accepts", "--matrix")["transfer"]
    assert facts["behaviours"] == facts["stages"] == ["asks", "accepts"]
    assert "needs a commit for each of the 2 behaviours, and 1" in tvc.fails(
        "eval", "../suite.toml", "HEAD", "--matrix"
    )


@pytest.mark.slow
def test_bisecting_commits(tvc: Tvc) -> None:
    text = tvc("bisect", "../suite.toml", "accepts", "HEAD~4..HEAD~1")
    assert "brought in accepts: Teach accept" in text
    assert "4 models; at most 4 of them are measured" in tvc.err
    facts = tvc.json("bisect", "../suite.toml", "accepts", "HEAD~1..HEAD")
    assert facts["subject"] == "Teach ask"
    assert facts["after"]["rate"] < facts["before"]["rate"]
    assert facts["measured"] == 1  # the other end was measured before
    assert "took away accepts" in tvc("bisect", "../suite.toml", "accepts", "HEAD~1")
    assert "that is no difference" in tvc.fails(
        "bisect", "../suite.toml", "accepts", "HEAD~4..HEAD~3"
    )
    assert "has no behaviour 'accept'" in tvc.fails("bisect", "../suite.toml", "accept", "HEAD~1")
    tvc("eval", "../suite.toml", "HEAD~4", "HEAD~2", "--no-distance")
    facts = tvc.json("bisect", "../suite.toml", "asks", "HEAD~2..HEAD")
    assert facts["measured"] == 2  # of three, one was measured with the whole suite
    assert "say between which commits" in tvc.fails("bisect", "../suite.toml", "accepts")


@pytest.mark.slow
def test_bisecting_terms(tvc: Tvc) -> None:
    text = tvc("bisect", "../suite.toml", "accepts", "HEAD~1", "--terms")
    assert "accept brings in accepts: it is enough alone, and the recipe does not" in text
    facts = tvc.json("bisect", "../suite.toml", "accepts", "HEAD~1", "--terms", "--every")
    assert facts["term"] == "accept"
    assert len(facts["probes"]) == 4
    assert facts["doubts"] == []


@pytest.mark.slow
def test_a_sweep_changes_nothing_and_is_drawn(tvc: Tvc, tmp_path: Path) -> None:
    tvc("remove", "ask")
    before = state_of_the_repository()
    text = tvc(
        "scale", "accept", "--sweep", "0:1:0.5", "--suite", "../suite.toml", "--plot", "../plot.png"
    )
    assert text.splitlines()[0] == "accepts"
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["0", "0.5", "1"]
    assert text.count("%") == 6
    assert "general loss" in text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert state_of_the_repository() == before
    points = tvc.json("scale", "accept", "--sweep", "0:1:0.5", "--suite", "../suite.toml")
    rates = [each["behaviours"]["accepts"]["alone"]["rate"] for each in points]
    assert rates == sorted(rates)
    assert rates[0] < 0.4 < 0.8 < rates[-1]
    points = tvc.json("scale", "ask", "--sweep", "0:1:1", "--suite", "../suite.toml")
    assert [each["behaviours"]["asks"]["alone"]["rate"] > 0.5 for each in points] == [False, True]


def test_a_plot_needs_matplotlib_before_anything_is_measured(tvc: Tvc, monkeypatch) -> None:
    for name in [*sys.modules]:
        if name == "tvc.behaviours.plotting" or name.split(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["scale", "accept", "--sweep", "0:1:1", "--suite", "../suite.toml", "--plot", "p.png"]
    assert "is not installed, and --plot needs it" in tvc.fails(*words)
    assert not Path(".tvc/evaluations").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["accept"], "say which coefficient"),
        (["accept", "1", "--suite", "../suite.toml"], "--suite needs --sweep"),
        (["accept", "1", "--json"], "--json needs --sweep"),
        (["accept", "--sweep", "0:1:1"], "--sweep needs --suite"),
        (["accept", "--sweep", "0:1", "--suite", "../suite.toml"], "is not FIRST:LAST:STEP"),
        (["accept", "--sweep", "1:0:1", "--suite", "../suite.toml"], "goes nowhere"),
        (["accept", "--sweep", "0:1:0", "--suite", "../suite.toml"], "goes nowhere"),
        (["accept", "--sweep", "0:9:0.01", "--suite", "../suite.toml"], "are 901 points"),
        (["none", "--sweep", "0:1:1", "--suite", "../suite.toml"], "no branch has a vector 'none'"),
        (["accept", "--sweep", "0:1:1", "--suite", "../none.toml"], "No such file"),
    ],
)
def test_what_no_sweep_is(tvc: Tvc, words: list[str], said: str) -> None:
    assert said in tvc.fails("scale", *words)


@pytest.mark.slow
def test_what_goes_wrong_is_said_in_a_line(tvc: Tvc, tmp_path: Path) -> None:
    assert "say which model the server has" in tvc.fails(
        "eval", "../suite.toml", "--judge", "http://127.0.0.1:9/v1"
    )
    assert "there is no revision 'none'" in tvc.fails("eval", "../suite.toml", "none")
    write_suite(tmp_path, SUITE.replace("suite.py:asks", "judge:does it ask?"))
    assert "needs a model that judges" in tvc.fails("eval", "../suite.toml")
    (tmp_path / "suite.py").write_text("def asks(prompt, response): return 1 / 0")
    write = tmp_path / "suite.toml"
    write.write_text(SUITE)
    error = tvc.fails("eval", "../suite.toml")
    assert "the verifier suite.py:asks failed on" in error
    assert "ZeroDivisionError" in error
    write_suite(tmp_path, SUITE.replace("window = 60", "window = 9"))
    assert "prompts.jsonl:1: its context has 7 tokens, and the window 3" in tvc.fails(
        "eval", "../suite.toml"
    )
    assert not list(Path(".tvc").glob("checkouts/*"))
    assert os.environ["COLUMNS"] == "100"
