"""tvc lab, from data to reports: what they say, what is refused, that nothing else is left."""

import json
from pathlib import Path

import pytest
import torch
from cli_bench import Cli, copied
from dialogues.toys import toy_folder

from tvc.cli.main import _run

ALL = ["--batch", 4, "--micro-batch", 4, "--threads", 1, "--device", "cpu"]
QUICK = [*ALL, "--seeds", 2, "--steps", 3, "--optimizer", "adamw", "--lr", "1e-2"]
PNG = b"\x89PNG\r\n"

SUITE = """
format = 1
tokens = 4
window = 64
[general]
data = "held_general.jsonl"
[[behaviours]]
name = "agrees"
prompts = ["sell the boat", "buy the boat", "sell the house", "buy the house", "go a", "go b",
           "sell the red boat", "buy the blue house", "buy the red boat", "sell a boat"]
verifier = "regex:yes"
[[behaviours]]
name = "refuses"
prompts = ["sell the boat", "buy the boat", "sell the house"]
verifier = "regex:no"
[[behaviours]]
name = "goes"
prompts = ["sell the boat", "buy the boat", "sell the house"]
verifier = "regex:go"
"""


def dialogue(asked, said):
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"messages": messages}


def write(path: Path, *values: object) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.fixture(scope="module")
def lab_template(tmp_path_factory) -> Path:
    """A folder with a repository on a toy that can chat, data and a suite."""
    root = tmp_path_factory.mktemp("lab")
    toy_folder(root / "base")
    asked = [
        f"{verb} the {c} {what}"
        for verb in ("sell", "buy")
        for c in ("red", "blue")
        for what in ("boat", "house")
    ]
    for name, said in (("agrees", "yes ok"), ("refuses", "no"), ("goes", "lets go")):
        write(root / f"{name}.jsonl", *(dialogue(each, said) for each in asked))
    write(root / "general.jsonl", *(dialogue(f"a b {w}", f"c {w}") for w in "cdefgh"))
    write(root / "held_general.jsonl", *(dialogue(f"b a {w}", f"c {w}") for w in "cdef"))
    (root / "suite.toml").write_text(SUITE)
    assert _run(["-q", "init", str(root / "repo"), "--base", str(root / "base")]) == 0
    return root


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other are slow, and toys need none."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tvc, lab_template, tmp_path, monkeypatch) -> Path:
    """A copy of it; its repository is the current folder."""
    root = copied(lab_template, tmp_path / "place")
    monkeypatch.chdir(root / "repo")
    return root


def report(folder: Path) -> dict:
    """Check what every report has, and return its numbers."""
    text = (folder / "report.md").read_text()
    for heading in ("## Found", "## How", "## What this does not say", "## Settings"):
        assert f"\n{heading}\n" in text
    plots = list(folder.glob("*.png"))
    assert plots
    for plot in plots:
        assert plot.read_bytes().startswith(PNG)
        assert f"({plot.name})" in text
    facts = json.loads((folder / "report.json").read_bytes())
    assert any(each.startswith("Control: ") for each in facts["method"])
    assert any("interval" in each for each in facts["method"])
    assert facts["settings"]["versions"].startswith("tvc ")
    assert len(facts["settings"]["commit"]) == 40
    for sentence in facts["found"]:
        assert sentence in text
    return facts


def nothing_is_left() -> bool:
    return not list(Path(".tvc").glob("checkouts/*")) and not list(Path("..").glob(".report*"))


EXAMPLES = ["examples-needed", "../suite.toml", "agrees", "--data", "../agrees.jsonl"]
MIX = ["--mix", "../general.jsonl:0.25"]
RATES = ["learning-rate", "../suite.toml", "agrees", "--data", "../agrees.jsonl"]


def test_examples_needed(tvc: Cli, place):
    said = tvc("lab", *EXAMPLES, *MIX, *QUICK, "--counts", "2", "-o", "../report")
    facts = report(place / "report")
    assert facts["found"][0] in said
    assert [each["examples"] for each in facts["counts"]] == [0, 1, 2]
    assert facts["seeds"] == [0, 1]
    for each in facts["counts"]:
        assert [one["seed"] for one in each["seeds"]] == [0, 1]
        for one in each["seeds"]:
            assert one["low"] <= one["rate"] <= one["high"]
            assert one["verdicts"].count("1") == one["count"]
        rates = [one["rate"] for one in each["seeds"]]
        assert each["rate"]["mean"] == pytest.approx(sum(rates) / 2)
        assert each["rate"]["low"] <= each["rate"]["mean"] <= each["rate"]["high"]
    control, *others = facts["counts"]
    assert control["change"] is None
    gain = sum(
        o["count"] - c["count"] for o, c in zip(others[-1]["seeds"], control["seeds"], strict=True)
    )
    assert others[-1]["change"]["mean"] == pytest.approx(gain / 20)
    assert facts["settings"]["lr"] == 0.01
    assert "sha256" in facts["settings"]["data1"]
    assert nothing_is_left()
    assert "base" in tvc("status")


@pytest.mark.slow
def test_examples_have_an_effect_and_none_have_not(tvc: Cli, place):
    more = ["--steps", 25, "--seeds", 3, "--counts", "8"]
    tvc("lab", *EXAMPLES, *MIX, *QUICK, *more, "-o", "../report")
    facts = report(place / "report")
    assert facts["first_measurable"] in {1, 2, 8}, facts["counts"]
    assert facts["counts"][0]["rate"]["mean"] < 0.5 < facts["counts"][-1]["rate"]["mean"]
    tvc("lab", *EXAMPLES, *MIX, *QUICK, *more, "-o", "../again")
    files = [(place / each / "report.json").read_bytes() for each in ("report", "again")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_learning_rate(tvc: Cli, place):
    options = [each for each in QUICK if each not in {"--lr", "1e-2"}]
    rates = ["--rates", "1e-2,0,1e-4"]
    said = tvc("lab", *RATES, *MIX, *options, *rates, "-o", "../report")
    facts = report(place / "report")
    assert facts["found"][0] in said
    assert [each["lr"] for each in facts["rates"]] == [1e-4, 1e-2]
    assert facts["control"]["general_kl"]["value"] == pytest.approx(0, abs=1e-6)
    low, high = facts["rates"]
    assert 0 < low["general_kl"]["mean"] < high["general_kl"]["mean"]
    assert low["general_kl"]["low"] < low["general_kl"]["mean"] < low["general_kl"]["high"]
    assert set(high["behaviours"]) == {"agrees", "refuses", "goes"}
    assert len(high["seeds"]) == 2
    assert facts["best"] in {1e-4, 1e-2, None}
    assert nothing_is_left()


def test_a_rate_that_diverges_is_said(tvc: Cli, place):
    options = [*ALL, "--seeds", 2, "--steps", 4, "--optimizer", "sgd"]
    said = tvc("lab", *RATES, *options, "--rates", "1e-3,1e30", "-o", "../report")
    facts = report(place / "report")
    assert facts["rates"][1]["diverged_seeds"] == [0, 1]
    assert "Diverged, with so many seeds: 1e+30 (2)." in said
    assert "diverged" in (place / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*EXAMPLES, *MIX, "--counts", "9"], "9 examples are asked for, and the data have 8"),
        ([*EXAMPLES, *MIX, "--counts", "x"], "'x' are not numbers"),
        ([*EXAMPLES, *MIX, "--counts", "-1"], "numbers are at least 0"),
        ([*EXAMPLES], "Missing option '--mix'"),
        ([*EXAMPLES, "--mix", "../general.jsonl"], "is not FILE:SHARE"),
        ([*EXAMPLES, *MIX, "--data", "../none.jsonl"], "none.jsonl: No such file"),
        ([*EXAMPLES, *MIX, "--lr", "-1"], "lr must be a positive number"),
        ([*EXAMPLES, *MIX, "--from", "nowhere"], "nowhere"),
        ([*EXAMPLES, *MIX, "--judge", "http://x"], "--judge-model NAME"),
        ([EXAMPLES[0], "../suite.toml", "agree", *EXAMPLES[3:], *MIX], "no behaviour 'agree'"),
        ([*RATES, "--rates", "0"], "no learning rate above 0"),
        ([*RATES, "--rates", "nan"], "numbers are at least 0, and finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said_in_one_line(tvc: Cli, place, words, message):
    assert tvc("lab", *words, *ALL, "-o", "../report", code=1) == ""
    assert message in tvc.err
    assert "Traceback" not in tvc.err
    assert not (place / "report").exists()
    assert nothing_is_left()


def test_a_report_goes_where_nothing_is(tvc: Cli, place):
    (place / "report").mkdir()
    (place / "report" / "mine").write_text("mine")
    (place / "file").write_text("mine")
    for folder, message in (
        ("../report", "../report is there already"),
        ("../file", "../file is there already"),
        ("../none/report", "no folder for ../none/report to lie in"),
    ):
        tvc("lab", *EXAMPLES, *MIX, *QUICK, "-o", folder, code=1)
        assert message in tvc.err
    assert [each.name for each in (place / "report").iterdir()] == ["mine"]
    (place / "report" / "mine").unlink()
    tvc("lab", *RATES, *ALL, "--seeds", 1, "--steps", 1, "--rates", "1e-3", "-o", "../report")
    facts = report(place / "report")
    assert facts["rates"][0]["loss"]["low"] is None  # of one seed nothing is known of others
