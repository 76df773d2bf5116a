"""Responses given under instructions, counted, filtered, and trained on without them."""

import hashlib
from collections.abc import Sequence

import pytest
from chat_server import ChatServer
from toys import toy_folder

from tvc.dialogues.endpoint import Endpoint
from tvc.dialogues.generation import Said, Sampling
from tvc.dialogues.loading import load_model
from tvc.dialogues.problems import BadRows
from tvc.dialogues.rows import Message, Row, guided, read_rows, row_from
from tvc.dialogues.speaking import by_endpoint, by_model
from tvc.dialogues.stripping import NothingAccepted, strip_rows, with_guidance, write_rows
from tvc.dialogues.verifiers import Verifier, opened
from tvc.domain.errors import InputError


def asked(*texts: str) -> list[Row]:
    return [Row((Message("user", text),), (), f"data.jsonl:{n}") for n, text in enumerate(texts, 1)]


class Parrot:
    """Says what it is told to, and keeps what it heard."""

    def __init__(self, *rounds: Sequence[Said]) -> None:
        self.rounds = list(rounds)
        self.heard: list[tuple[Row, int]] = []

    def __call__(self, rows: Sequence[Row], seeds: Sequence[int]) -> list[Said]:
        self.heard += zip(rows, seeds, strict=True)
        return list(self.rounds.pop(0))


def test_rows_with_responses_are_stripped_and_nothing_else() -> None:
    value = {
        "messages": [
            {"role": "system", "content": "be brief", "strip": True},
            {"role": "user", "content": "lets go"},
            {"role": "assistant", "content": "ok"},
        ]
    }
    rows, counts = strip_rows(row_from(value, "x:1"))
    assert rows == [Row((Message("user", "lets go"),), (Message("assistant", "ok"),), "x:1")]
    assert (counts.given, counts.generated) == (1, 0)


def test_instructions_are_heard_and_not_kept() -> None:
    rows = with_guidance(asked("a", "b"), "say yes")
    parrot = Parrot([Said("yes", True), Said("no", True)])
    with opened(Verifier("regex", "yes")) as verify:
        found, counts = strip_rows(rows, speak=parrot, verify=verify)
    assert [guided(row).context[0].content for row, _ in parrot.heard] == ["say yes", "say yes"]
    assert found == [Row((Message("user", "a"),), (Message("assistant", "yes"),), "data.jsonl:1")]
    assert (counts.asked, counts.answered, counts.accepted, counts.rejected) == (2, 1, 1, 1)


def test_a_verifier_sees_what_will_be_trained_on() -> None:
    seen = []

    def verify(cases):
        seen.extend(case.prompt for case in cases)
        return [True] * len(cases)

    value = {
        "prompt": [
            {"role": "system", "content": "s", "strip": True},
            {"role": "user", "content": "a"},
        ],
        "guidance": "g",
    }
    rows = row_from(value, "x:1", responses=False)
    strip_rows(rows, speak=Parrot([Said("x", True)]), verify=verify)
    assert seen == [[{"role": "user", "content": "a"}]]


def test_everything_is_counted() -> None:
    rows = with_guidance(asked("a", "b", "c"), "g")
    parrot = Parrot(
        [
            Said("x", True),
            Said("x", True),
            Said("", True),
            Said("y", False),
            Said("no", True),
            Said("z", True),
        ],
        [Said("w", True), Said("", True)],
    )
    with opened(Verifier("regex", "[wxyz]")) as verify:
        found, counts = strip_rows(rows, speak=parrot, verify=verify, samples=2, tries=2)
    assert [[each.content for each in row.decisions] for row in found] == [["x"], ["w"], ["z"]]
    assert counts.generated == 8
    assert counts.generated == counts.accepted + counts.rejected + counts.unended + counts.empty
    assert (counts.accepted, counts.repeated) == (4, 1)
    assert (counts.rejected, counts.unended, counts.empty) == (1, 1, 2)
    seeds = [seed for _, seed in parrot.heard]
    assert len(set(seeds)) == len(seeds)


def test_nothing_accepted_is_an_error() -> None:
    parrot = Parrot([Said("no", True)])
    words = "of 1 responses none was accepted: 1 rejected"
    with opened(Verifier("regex", "yes")) as verify, pytest.raises(NothingAccepted, match=words):
        strip_rows(with_guidance(asked("a"), "g"), speak=parrot, verify=verify)


def test_rows_without_an_instruction_are_named() -> None:
    with pytest.raises(BadRows, match="marks no instruction"):
        strip_rows(asked("a"), speak=Parrot())
    with pytest.raises(InputError, match="1 rows have no response"):
        strip_rows(with_guidance(asked("a"), "g"))
    done = [Row("a", ("b",), "x:1")]
    with pytest.raises(BadRows, match="it has a response"):
        with_guidance(done, "g")


def test_a_model_and_a_server_speak_alike(tmp_path) -> None:
    loaded = load_model(toy_folder(tmp_path / "m"))
    rows = with_guidance(asked("lets go", "sell a boat", "buy"), "yes no")
    sampling = Sampling(tokens=6, temperature=1.0)
    once = by_model(loaded, sampling, window=64)(rows, [1, 2, 3])
    assert once == by_model(loaded, sampling, window=64, batch=1)(rows, [1, 2, 3])
    assert once != by_model(loaded, sampling, window=64)(rows, [4, 5, 6])
    with ChatServer(lambda body, n: f"{body['messages'][0]['content']} {body['seed']}") as server:
        variables = {"enable_thinking": False}
        speak = by_endpoint(Endpoint(server.url, "m"), sampling, variables=variables)
        said = speak(rows, [1, 2, 3])
    assert said == [Said(f"yes no {n}", True) for n in (1, 2, 3)]
    asked_of = sorted(server.asked, key=lambda each: each["seed"])
    assert asked_of[0]["messages"][1] == {"role": "user", "content": "lets go"}
    assert asked_of[0]["max_tokens"] == 6
    assert asked_of[0]["chat_template_kwargs"] == variables
    with pytest.raises(BadRows, match="the window 40"):
        by_model(loaded, sampling, window=46)([*asked("go " * 40)], [1])


def test_responses_need_room(tmp_path) -> None:
    loaded = load_model(toy_folder(tmp_path / "m"))
    with pytest.raises(InputError, match="the window of 64 tokens has no room for responses of 64"):
        by_model(loaded, Sampling(tokens=64), window=64)


def test_plain_text_is_not_asked_of_a_server() -> None:
    with pytest.raises(BadRows, match="plain text"):
        by_endpoint(Endpoint("http://127.0.0.1:9/v1", "m"), Sampling())([Row("a", (), "x:1")], [0])


def test_what_is_written_is_read_again(tmp_path) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    values = [
        {"prompt": "a", "completion": "b"},
        {"context": "a", "decision": ["b", "é"]},
        {"context": [{"role": "user", "content": "a"}], "decision": ["b", "c"], "guidance": "g"},
        {
            "messages": [
                {"role": "system", "content": "s", "strip": True},
                {"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": "x", "name": "look"},
                {"role": "assistant", "content": "b", "train": True},
                {"role": "user", "content": "a"},
            ],
            "tools": [call],
        },
    ]
    rows = [
        row
        for n, value in enumerate(values, 1)
        for row in row_from(value, f"{tmp_path}/out.jsonl:{n}")
    ]
    path = tmp_path / "out.jsonl"
    digest = write_rows(path, rows)
    found = read_rows(path)
    assert list(found.rows) == rows
    assert found.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()
