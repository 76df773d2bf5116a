"""tvc sharpness, from data to a table with intervals; what it refuses; that it leaves nothing."""

import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
from cli_bench import Cli, copied
from dialogues.toys import toy_folder

from tvc.cli.main import _run
from tvc.cli.work.sharpness import _conclusions, _verdict
from tvc.optimizers.readings import Reading

QUICK = ["--data", "../held.jsonl", "--batches", 3, "--warmup", 2, "--batch", 4, "--rank", 4]


@pytest.fixture(scope="module")
def measurable_template(tmp_path_factory) -> Path:
    """A folder with a repository on a toy that can chat, and data."""
    root = tmp_path_factory.mktemp("measurable")
    toy_folder(root / "base")
    drawn = random.Random(1)
    with (root / "held.jsonl").open("w") as file:
        for _ in range(24):
            asked = " ".join(drawn.choices("abcdefgh", k=4))
            messages = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": asked[::-1]},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
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
def place(tvc, measurable_template, tmp_path, monkeypatch) -> Path:
    """A copy of it; its repository is the current folder."""
    root = copied(measurable_template, tmp_path / "place")
    monkeypatch.chdir(root / "repo")
    return root


def test_optimizers_are_measured_and_ordered(tvc: Cli, place):
    said = tvc("sharpness", *QUICK)
    assert re.match(
        r"directional sharpness of HEAD \(\w{7}\), exact: 3 batches after 2 AdamW", said
    )
    for name in ("sgd", "adamw", "apollo", "apollo-mini"):
        row = re.search(rf"^ *{name} +(\S+) \[(\S+), (\S+)\]", said, re.MULTILINE)
        assert row, said
        mean, low, high = map(float, row.groups())
        assert low < mean < high
    assert re.search(r"^sharpest to flattest: \S+ [>~] \S+ [>~] \S+ [>~] \S+$", said, re.MULTILINE)
    assert "table 10 (sgd > adamw > apollo > apollo-mini): " in said
    assert "seen more than once" not in said
    assert not list(Path(".tvc/checkouts").iterdir())


def test_facts_are_json_and_the_same_again(tvc: Cli, place):
    asked = [*QUICK, "--optimizers", "apollo,sgd", "--json"]
    facts = json.loads(tvc("sharpness", "main", *asked))
    assert list(facts["optimizers"]) == ["apollo", "sgd"]
    found = facts["optimizers"]["sgd"]
    assert len(found["readings"]) == 3
    mean = math.fsum(each["sharpness"] for each in found["readings"]) / 3
    assert found["sharpness"]["mean"] == pytest.approx(mean)
    assert facts["differences"][0]["of"] == ["apollo", "sgd"]
    assert facts["batches_are_independent"] is True
    again = json.loads(tvc("sharpness", *asked))
    assert again == facts


def test_the_estimate_is_near(tvc: Cli, place):
    asked = [*QUICK, "--json", "--optimizers", "sgd,adamw"]
    exact, estimated = (
        json.loads(tvc("sharpness", *asked, *more)) for more in ([], ["--estimate"])
    )
    assert (exact["kind"], estimated["kind"]) == ("exact", "estimate")
    for name in ("sgd", "adamw"):
        one, two = (each["optimizers"][name]["sharpness"]["mean"] for each in (exact, estimated))
        assert two == pytest.approx(one, rel=0.1)


def test_one_optimizer_has_no_order_to_confirm(tvc: Cli, place):
    said = tvc("sharpness", *QUICK, "--optimizers", "apollo", "--batches", 1)
    assert "table 10" not in said
    assert "[" not in said  # one batch has no interval


def test_batches_that_come_again_are_said(tvc: Cli, place):
    said = tvc("sharpness", *QUICK, "--batches", 5, "--optimizers", "sgd")
    assert "24 rows are seen more than once: batches are not independent" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--optimizers", "sgd,adam"], "'adam' is none of sgd, adamw, apollo, apollo-mini"),
        (["--optimizers", "sgd,sgd"], "an optimizer is named twice"),
        (["--data", "none.jsonl"], "none.jsonl: "),
        (["--lr", "-1"], "lr cannot be -1"),
        (["--lr", "nan"], "lr cannot be nan"),
        (["--mix", "held.jsonl:2"], "the share 2 of held.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(tvc: Cli, place, more, message):
    assert tvc("sharpness", *QUICK, *more, code=1) == ""
    assert message in tvc.err
    assert tvc.err.startswith("error: ")
    assert not list(Path(".tvc").glob("checkouts/*"))


def test_a_model_that_cannot_chat_is_refused(tvc: Cli, repo):
    Path("../held.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    tvc("sharpness", *QUICK, code=1)
    assert "transformers cannot load" in tvc.err


def readings(level: float, *, noise: float = 0.1) -> list[Reading]:
    return [Reading(-1.0, level + sign * noise) for sign in (1, -1, 1, -1)]


def test_the_verdict_needs_every_neighbour_apart():
    found = {"sgd": readings(4), "adamw": readings(3), "apollo": readings(2)}
    swapped = {name: list(reversed(each)) for name, each in found.items()}
    assert _verdict(found) == "confirmed here"
    assert _verdict({**found, "adamw": readings(1)}) == "contradicted here, adamw < apollo"
    unclear = {**found, "adamw": list(reversed(readings(2.01)))}
    assert _verdict(unclear) == "neither confirmed nor contradicted here"
    assert _conclusions(unclear)[0] == "sharpest to flattest: sgd > adamw ~ apollo"
    assert _verdict({"sgd": swapped["sgd"]}) == ""
