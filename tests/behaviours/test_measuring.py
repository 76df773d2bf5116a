"""What is measured is what the model does, as it can be computed."""

import math
from pathlib import Path

import pytest
import torch
from line_bench import SUITE, write_suite
from puppets import ID, TOKENIZER, add_score, base_puppet
from torch.nn import functional

from tvc.behaviours.measuring import Bench, count_answers, measure
from tvc.behaviours.results import BadResult, Measured, format_measured, parse_measured
from tvc.behaviours.suite import read_suite
from tvc.dialogues.loading import Loaded


def loaded(**more: float) -> Loaded:
    model = base_puppet()
    for word, score in more.items():
        add_score(model, "<assistant>", word, score)
    return Loaded(model, TOKENIZER)


def inside(measured, expected: float) -> bool:
    low, high = measured.rate.interval
    return low <= expected <= high


def test_rates_are_those_of_the_table(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path))
    told: list[int] = []
    found = measure(loaded(), suite, Bench(on_answers=told.append))
    assert sum(told) == count_answers(suite) == 180
    accepts, asks = found.behaviours["accepts"], found.behaviours["asks"]
    assert accepts.guided is not None
    assert accepts.opposed is not None
    assert inside(accepts.alone, 1 / (1 + math.exp(1.5)))
    assert accepts.guided.rate.value > 0.9
    assert accepts.opposed.rate.value > 0.9
    assert asks.alone.rate.value == 0
    assert asks.guided is None
    more = measure(loaded(yes=4.0), suite, Bench(batch=7)).behaviours["accepts"]
    assert inside(more.alone, 1 / (1 + math.exp(-2.5)))
    assert more.opposed is not None
    assert more.opposed.rate.value > 0.5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_verdicts_in_every_batch(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path))
    one = measure(loaded(), suite, Bench(batch=64))
    assert measure(loaded(), suite, Bench(batch=5)) == one
    write_suite(tmp_path, SUITE.replace("seed = 3", "seed = 4"))
    other = measure(loaded(), read_suite(tmp_path / "suite.toml"), Bench())
    assert other.behaviours["accepts"].alone != one.behaviours["accepts"].alone


@torch.no_grad()
def plain(model, text: str) -> torch.Tensor:
    """Log probabilities after every word of a text, by one plain pass."""
    ids = torch.tensor([TOKENIZER(text)["input_ids"]])
    return model(input_ids=ids).logits[0].double().log_softmax(-1)


def test_loss_and_distance_on_general_data(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path))
    base, tuned = loaded(), loaded(yes=4.0)
    found = measure(tuned, suite, Bench(), base=base)
    losses, distances = [], []
    for text in (
        "<bos> <user> lets go <end> <assistant> no <end>",
        "<bos> <user> sell <end> <assistant> yes <end>",
    ):
        ids = TOKENIZER(text)["input_ids"]
        log_p, log_q = plain(tuned.model, text), plain(base.model, text)
        for place in (len(ids) - 2, len(ids) - 1):
            losses.append(-log_p[place - 1, ids[place]])
            distances.append(
                functional.kl_div(
                    log_q[place - 1], log_p[place - 1], log_target=True, reduction="sum"
                )
            )
    assert found.loss is not None
    assert found.general_kl is not None
    assert found.loss.value == pytest.approx(float(sum(losses)) / 4, abs=1e-5)
    assert found.general_kl.value == pytest.approx(float(sum(distances)) / 4, abs=1e-5)
    assert found.loss.error > 0


@pytest.mark.slow
def test_distance_on_own_answers_is_that_of_the_first_word(tmp_path: Path) -> None:
    """The tables differ after <assistant> only; each answer is two words, one of them the end."""
    suite = read_suite(write_suite(tmp_path))
    base, tuned = loaded(), loaded(yes=4.0)
    found = measure(tuned, suite, Bench(), base=base)
    expected = []
    for row in suite.behaviours[0].prompts:
        text = f"<bos> <user> {row.context[0].content} <end> <assistant>"
        log_p, log_q = plain(tuned.model, text)[-1], plain(base.model, text)[-1]
        expected.append(float((log_p.exp() * (log_p - log_q)).sum()))
    assert found.answers_kl is not None
    assert found.answers_kl.value == pytest.approx(sum(expected) / len(expected) / 2, rel=0.02)
    same = measure(loaded(), suite, Bench(), base=base)
    assert same.answers_kl is not None
    assert same.answers_kl.value == pytest.approx(0, abs=1e-6)
    assert measure(tuned, suite, Bench()).answers_kl is None


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    found = measure(loaded(yes=4.0), read_suite(write_suite(tmp_path)), Bench(), base=loaded())
    line = format_measured(found, recipe="r", suite="s").encode()
    assert b"\n" not in line
    assert parse_measured(line, what="x") == ("r", "s", found)
    bare = Measured(behaviours={}, about={"torch": "2"})
    assert (
        parse_measured(format_measured(bare, recipe="r", suite="s").encode(), what="x")[2] == bare
    )


BAD = [
    b'{"format": 2}',
    b"{}",
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": [], "about": {}}',
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": {"a": {"alone": ["012", 0]}}, "about": {}}',
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": {"a": {"alone": ["", 0]}}, "about": {}}',
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": {"a": {"alone": ["01", 3]}}, "about": {}}',
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": {}, "about": {}, "loss": ["1", 0]}',
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": {}, "about": {}, "loss": [NaN, 0]}',
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": {}, "about": {}, "loss": [1, 2, 3]}',
    b'{"format": 1, "recipe": "r", "suite": "s", "behaviours": {}, "about": {}, "loss": [1'
    + b"0" * 400
    + b", 0]}",
]


@pytest.mark.parametrize("line", BAD)
def test_what_is_no_result_is_refused(line: bytes) -> None:
    with pytest.raises(BadResult):
        parse_measured(line, what="x")


def test_scores_are_what_the_puppets_say() -> None:
    """The helper that everything here rests on."""
    log_p = plain(loaded().model, "<bos> <user> go <end> <assistant>")[-1]
    odds = float(log_p[ID["no"]] - log_p[ID["yes"]])
    assert odds == pytest.approx(1.5, rel=0.02)
    assert math.exp(float(log_p[ID["no"]])) + math.exp(float(log_p[ID["yes"]])) > 0.99
