"""A server is asked as it wants to be, and believed nothing."""

import json
import socket
import time

import pytest
from chat_server import ChatServer

from tvc.dialogues import endpoint as module
from tvc.dialogues.endpoint import Endpoint, EndpointFailed, Reply, ask_all
from tvc.domain.errors import InputError

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0, 0.0))


def test_a_question_and_its_answer() -> None:
    with ChatServer(lambda body, n: f"hi {body['messages'][0]['content']}") as server:
        asked = Endpoint(server.url, "m", key="secret")
        assert asked.ask(HELLO, {"temperature": 0}) == Reply("hi hello", True)
    assert server.asked == [
        {"path": "/v1/chat/completions", "model": "m", "messages": HELLO, "temperature": 0, "n": 1}
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(asked)


def test_many_answers_stand_in_their_order() -> None:
    def slow(body, n):
        time.sleep(0.02 if n % 3 else 0)
        return body["messages"][0]["content"]

    questions = [([{"role": "user", "content": str(n)}], {}) for n in range(30)]
    told: list[int] = []
    with ChatServer(slow) as server:
        replies = ask_all(Endpoint(server.url, "m"), questions, on_reply=told.append)
    assert [reply.text for reply in replies] == [str(n) for n in range(30)]
    assert sum(told) == 30


def test_one_that_was_cut_off_did_not_end() -> None:
    cut = {"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}]}
    with ChatServer(lambda body, n: cut) as server:
        assert Endpoint(server.url, "m").ask(HELLO, {}) == Reply("hi", False)


def test_a_busy_server_is_asked_again() -> None:
    with ChatServer(lambda body, n: (503, b"busy") if n < 3 else "hi") as server:
        assert Endpoint(server.url, "m").ask(HELLO, {}).text == "hi"
    with ChatServer(lambda body, n: (429, b"too \x1b[31mmany")) as server:
        with pytest.raises(EndpointFailed, match=r"answered 429: too \\x1b\[31mmany"):
            Endpoint(server.url, "m").ask(HELLO, {})
        assert len(server.asked) == 4


BAD = {
    "no JSON": (200, b"<html>"),
    "no object": (200, b"[]"),
    "no choices": (200, b"{}"),
    "none of them": (200, b'{"choices": []}'),
    "another kind": (200, b'{"choices": {"0": 1}}'),
    "no message": (200, b'{"choices": [{"text": "hi"}]}'),
    "no object inside": (200, b'{"choices": ["hi"]}'),
    "no text": (200, b'{"choices": [{"message": {"content": null}}]}'),
    "a key twice": (200, b'{"choices": [], "choices": []}'),
    "nested": (200, b"[" * 100_000),
    "not found": (404, b'{"error": "no such model"}'),
    "elsewhere": (302, b""),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_what_is_no_answer_is_refused(answer) -> None:
    with ChatServer(lambda body, n: answer) as server, pytest.raises(EndpointFailed) as caught:
        Endpoint(server.url, "m").ask(HELLO, {})
    assert server.url in str(caught.value)
    assert len(server.asked) == 1


def test_half_a_character_becomes_a_mark() -> None:
    answer = b'{"choices": [{"message": {"content": "a\\ud800"}, "finish_reason": "stop"}]}'
    with ChatServer(lambda body, n: (200, answer)) as server:
        assert Endpoint(server.url, "m").ask(HELLO, {}).text == "a?"


def test_an_endless_answer_is_cut_off() -> None:
    with (
        ChatServer(lambda body, n: (200, b" " * (9 << 20))) as server,
        pytest.raises(EndpointFailed, match="longer than 8 MiB"),
    ):
        Endpoint(server.url, "m").ask(HELLO, {})


def test_a_slow_answer_is_given_up_however_it_drips() -> None:
    began = time.monotonic()
    with ChatServer(lambda body, n: 0.05) as server:
        with pytest.raises(EndpointFailed, match=r"took longer than 0\.4 s"):
            Endpoint(server.url, "m", seconds=0.4).ask(HELLO, {})
        assert time.monotonic() - began < 2


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EndpointFailed, match="does not answer") as caught:
            Endpoint(url, "m").ask(HELLO, {})
    assert caught.value.hint == "is the server running there?"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "file:///etc/passwd",
        "http://",
        "http://a b/v1",
        "http://h:99999/",
        "http://h/v1?x=1",
        "http://me:word@h/v1",
        "http://h/\r\nX: y",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        Endpoint(url, "m")
    assert "word" not in str(caught.value)


def test_a_key_cannot_smuggle_a_header() -> None:
    with pytest.raises(InputError, match="the key for the server"):
        Endpoint("http://h/v1", "m", key="a\r\nX: y")


def test_questions_are_json() -> None:
    with ChatServer(lambda body, n: json.dumps(body["messages"])) as server:
        said = [{"role": "user", "content": 'a "quoted" \u2028 é'}]
        assert json.loads(Endpoint(server.url, "m").ask(said, {}).text) == said
