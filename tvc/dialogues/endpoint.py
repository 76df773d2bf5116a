"""Asks a running model through the chat interface that OpenAI's, vLLM's and others' servers share.

Of the answer nothing is believed (exchange.py); its form is checked here. Absent: what is asked,
and where a key comes from.
"""

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

from tvc.dialogues.exchange import Answer, EndpointFailed, HttpServer
from tvc.models.strict_json import BadJson, parse_object

__all__ = ["Endpoint", "EndpointFailed", "Reply", "ask_all"]

_MAX_ANSWER: Final = 8 << 20
_BUSY: Final = {429, 500, 502, 503, 504}
_PAUSES: Final = (0.5, 2.0, 8.0)  # seconds before another attempt


class Reply(NamedTuple):
    """What a model said.

    Args:
        text: Its words.
        ended: Whether it ended by itself, and not at the limit of tokens.
    """

    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server with a model.

    Args:
        url: Up to the version: `http://127.0.0.1:8000/v1`.
        model: As the server names it.
        key: Sent as a bearer token; None for none. It is in no message and no repr.
        seconds: For one answer, from connecting to its last byte.
        at_once: Questions that may be under way together.

    Raises:
        InputError: The address is not one.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 300.0
    at_once: int = 8

    def __post_init__(self) -> None:
        _ = self._server  # whose address is checked

    @property
    def _server(self) -> HttpServer:
        return HttpServer(self.url, self.key, self.seconds, _MAX_ANSWER)

    def ask(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> Reply:
        """Return what the model says after `messages`.

        Args:
            messages: As chat interfaces know them.
            options: temperature, max_tokens, seed and such.

        Raises:
            EndpointFailed: There is no answer in time, or not one of a model.
        """
        body = {"model": self.model, "messages": list(messages), **options, "n": 1}
        data = json.dumps(body).encode()
        for pause in (*_PAUSES, None):
            status, answer = self._post(data, last=pause is None)
            if status == http.client.OK:
                return _reply(answer, self.url)
            if status not in _BUSY or pause is None:
                said = Answer(status, answer).said
                raise EndpointFailed(f"{self.url} answered {status}: {said}")
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _post(self, data: bytes, *, last: bool) -> Answer:
        server = self._server
        try:
            return server.exchange("POST", "/chat/completions", data)
        except ConnectionError as error:
            if not last:
                return Answer(http.client.SERVICE_UNAVAILABLE, b"")
            raise server.unreachable(error) from None


def ask_all(
    endpoint: Endpoint,
    questions: Sequence[tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]],
    *,
    on_reply: Callable[[int], None] = lambda _: None,
) -> list[Reply]:
    """Ask many questions, several at once; the replies stand in their order.

    Args:
        endpoint: Whom.
        questions: Messages and options of each.
        on_reply: Told of every reply, with 1.

    Raises:
        EndpointFailed: One was not answered; those not yet asked are not asked any more.
    """

    def ask(question: tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]) -> Reply:
        reply = endpoint.ask(*question)
        on_reply(1)
        return reply

    pool = ThreadPoolExecutor(endpoint.at_once)
    try:
        return list(pool.map(ask, questions))
    finally:
        pool.shutdown(cancel_futures=True)


def _reply(answer: bytes, url: str) -> Reply:
    try:
        choices: Any = parse_object(answer, what="the answer")["choices"]
        choice = cast("dict[str, Any]", choices[0])
        text: Any = choice["message"]["content"]
        reason: Any = choice.get("finish_reason")
    except (BadJson, LookupError, TypeError, AttributeError):
        raise EndpointFailed(f"{url} answered something else than a chat completion") from None
    if not isinstance(text, str):
        raise EndpointFailed(f"{url} answered with no text")
    # Half a character can be in JSON, and in no file.
    return Reply(text.encode("utf-8", "replace").decode(), reason == "stop")
