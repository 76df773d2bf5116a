"""tvc lab, from data to reports: what they say, what is refused, that nothing else is left."""

import json
from pathlib import Path

import pytest
import torch
from cli_bench import Cli, copied
from dialogues.toys import toy_folder, word_tokenizer
from training.tiny_models import tiny

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


@pytest.mark.slow
def test_a_rate_that_diverges_is_said(tvc: Cli, place):
    options = [*ALL, "--seeds", 2, "--steps", 3, "--optimizer", "sgd"]
    said = tvc("lab", *RATES, *options, "--rates", "1e-3,1e30", "-o", "../report")
    facts = report(place / "report")
    assert facts["rates"][1]["diverged_seeds"] == [0, 1]
    assert "Diverged, with so many seeds: 1e+30 (2)." in said
    assert "diverged" in (place / "report" / "report.md").read_text()


@pytest.fixture(scope="module")
def hybrid_template(tmp_path_factory) -> Path:
    """A repository on a hybrid that can chat, whose HEAD is a training of it, and data."""
    root = tmp_path_factory.mktemp("hybrid")
    tokenizer = word_tokenizer()
    model = tiny("qwen3.5").eval()
    assert model.config.vocab_size >= len(tokenizer)
    model.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    rows = [dialogue(f"sell the {a} {b}", "yes ok") for a in "abcd" for b in ("boat", "house")]
    write(root / "agrees.jsonl", *rows)
    assert _run(["-q", "init", str(root / "repo"), "--base", str(root / "base")]) == 0
    train = ["-C", str(root / "repo"), "train", "agrees", "--data", str(root / "agrees.jsonl")]
    train += ["--steps", "3", "--batch", "4", "--lr", "1e-2", "--rank", "4", "--threads", "1"]
    assert _run(["-q", *train, "-m", "Agree"]) == 0
    return root


@pytest.fixture
def hybrid(tvc, hybrid_template, tmp_path, monkeypatch) -> Path:
    """A copy of it; its repository is the current folder."""
    root = copied(hybrid_template, tmp_path / "place")
    monkeypatch.chdir(root / "repo")
    return root


PAIR = ["--data", "../agrees.jsonl", "--rows", 6, "--threads", 1, "--device", "cpu"]


def test_state_direction(tvc: Cli, hybrid):
    said = tvc("lab", "state-direction", *PAIR, "--seeds", 3, "-o", "../report")
    facts = report(hybrid / "report")
    assert facts["found"][0] in said
    assert facts["seeds"] == [0, 1, 2]
    assert facts["contexts"] == 6
    assert [each["layer"] for each in facts["layers"]] == [0, 1, 3]
    for each in facts["layers"]:
        assert len(each["control_seeds"]) == 3
        for key in ("cosine", "control", "difference"):
            assert each[key]["low"] <= each[key]["mean"] <= each[key]["high"]
        assert each["size"] > 0
    assert facts["settings"]["against"] == "HEAD~1"
    tvc("lab", "state-direction", *PAIR, "--seeds", 3, "--vector", "agrees", "-o", "../again")
    again = report(hybrid / "again")
    assert again["layers"] == facts["layers"]
    assert again["settings"]["model"] == "agrees"
    assert nothing_is_left()


def test_which_heads(tvc: Cli, hybrid):
    said = tvc("lab", "which-heads", "HEAD", *PAIR, "--seeds", 2, "--top", 3, "-o", "../report")
    facts = report(hybrid / "report")
    assert facts["found"][1] in said
    assert facts["seeds"] == [0, 1]
    assert len(facts["heads"]) == 16
    for each in facts["heads"]:
        assert len(each["control_seeds"]) == 2
        for key in ("change", "ratio"):
            assert 0 < each[key]["low"] <= each[key]["mean"] <= each[key]["high"]
    assert {each["of"] for each in facts["weights"]} >= {"q", "k", "v", "o", "z", "A_log"}
    assert all(each["change"] >= 0 for each in facts["weights"])
    assert (hybrid / "report" / "heads.png").is_file()
    assert nothing_is_left()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["state-direction", "main", "--against", "main"], "the same weights"),
        (["state-direction", "HEAD~1"], "HEAD~1~1"),
        (["state-direction", "--vector", "none"], "none"),
        (["state-direction", "main", "--vector", "agrees"], "REV and --against are no use"),
        (["which-heads", "--rows", 2, "--data", "../one.jsonl"], "has one row"),
        (["which-heads", "--window", 3], "agrees.jsonl:1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_compared_is_refused(tvc: Cli, hybrid, words, message):
    write(hybrid / "one.jsonl", dialogue("a", "b"))
    tvc("lab", words[0], *PAIR, *words[1:], "-o", "../report", code=1)
    assert message in tvc.err
    assert "Traceback" not in tvc.err
    assert not (hybrid / "report").exists()
    assert nothing_is_left()


def test_models_without_delta_nets_are_refused_by_name(tvc: Cli, place):
    quick = ["--steps", 1, "--batch", 4, "--lr", "1e-2", "--rank", 4, "--threads", 1]
    tvc("train", "agrees", "--data", "../agrees.jsonl", *quick, "-m", "Agree")
    tvc("lab", "state-direction", *PAIR, "-o", "../report", code=1)
    assert "error: qwen3 has no gated-delta-net layers" in tvc.err
    assert not (place / "report").exists()


STAGES = [f"--stage={name}=../{name}.jsonl" for name in ("agrees", "refuses", "goes")]
CHAIN = ["backward-transfer", "../suite.toml", *MIX]


@pytest.mark.slow
def test_backward_transfer(tvc: Cli, place):
    said = tvc("lab", *CHAIN, *STAGES, *QUICK, "--steps", 20, "-o", "../report")
    facts = report(place / "report")
    assert facts["found"][0] in said
    chains = facts["chains"]
    assert [(each["kind"], each["seed"]) for each in chains] == [
        (kind, seed)
        for kind in ("this order", "other orders", "general data only")
        for seed in (0, 1)
    ]
    names = ["agrees", "refuses", "goes"]
    for each in chains:
        assert sorted(each["order"]) == sorted(names)
        assert (each["order"] == names) is (each["kind"] != "other orders")
        r = each["rates"]
        assert each["backward"]["value"] == pytest.approx(
            ((r[2][0] - r[0][0]) + (r[2][1] - r[1][1])) / 2
        )
    given = [each for each in chains if each["kind"] == "this order"]
    # Each stage taught its behaviour, and words that exclude each other took it away again.
    assert all(sum(each["rates"][n][n] for n in range(3)) > 2 for each in given)
    backward = facts["measures"]["backward"]
    assert backward["this order"]["high"] < 0
    mean = sum(each["backward"]["value"] for each in given) / 2
    assert backward["this order"]["mean"] == pytest.approx(mean)
    assert nothing_is_left()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*CHAIN, *STAGES[:2]], "2 different stages are named, and 3 are needed"),
        ([*CHAIN, *STAGES[:2], STAGES[0]], "2 different stages are named, and 3 are needed"),
        ([*CHAIN, "--stage", "agrees"], "'agrees' is not NAME=FILE"),
        ([*CHAIN, *STAGES, "--stage=x=../goes.jsonl"], "no behaviour 'x'"),
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
