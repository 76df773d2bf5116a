"""Asks a running model through the chat interface that OpenAI's, vLLM's and others' servers share.

Of the answer nothing is believed: its size, the time it takes and its form are bounded and checked,
redirects are not followed, and no proxy of the environment is asked. Absent: what is asked, and
where a key comes from.
"""

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast
from urllib.parse import SplitResult, urlsplit

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.models.strict_json import BadJson, parse_object

__all__ = ["Endpoint", "EndpointFailed", "Reply", "ask_all"]

_MAX_ANSWER: Final = 8 << 20
_PIECE: Final = 1 << 16
_BUSY: Final = {429, 500, 502, 503, 504}
_PAUSES: Final = (0.5, 2.0, 8.0)  # seconds before another attempt
_SAID: Final = 200


class EndpointFailed(InputError):
    """A server does not answer, or not as it should."""


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
        parts = _split(self.url)
        bad = any(char.isspace() or not char.isprintable() for char in self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or bad:
            raise InputError(
                f"'{printable(self.url)}' is not the address of a server",
                hint="write http://127.0.0.1:8000/v1",
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise InputError("the address of the server holds more than host, port and path")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise InputError("the key for the server holds characters that no key has")

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
                said = printable(answer.decode("utf-8", "replace"), limit=_SAID)
                raise EndpointFailed(f"{self.url} answered {status}: {said}")
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _post(self, data: bytes, *, last: bool) -> tuple[int, bytes]:
        try:
            return self._exchange(data)
        except (OSError, http.client.HTTPException, _TooLong) as error:
            if isinstance(error, ConnectionError) and not last:
                return http.client.SERVICE_UNAVAILABLE, b""
            words = printable(str(error), limit=_SAID) or type(error).__name__
            raise EndpointFailed(
                f"{self.url} does not answer: {words}", hint="is the server running there?"
            ) from None

    def _exchange(self, data: bytes) -> tuple[int, bytes]:
        connection = self._connection()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        late, found = threading.Event(), (0, b"")
        try:
            connection.connect()
            # Timeouts of sockets begin anew with every byte; this one does not.
            timer = threading.Timer(self.seconds, _hang_up, (connection.sock, late))
            timer.daemon = True
            timer.start()
            try:
                path = f"{_split(self.url).path.rstrip('/')}/chat/completions"
                connection.request("POST", path, data, headers)
                response = connection.getresponse()
                found = response.status, _read(response)
            finally:
                timer.cancel()
        except (OSError, http.client.HTTPException):
            # A socket that was shut down looks like one that the other side closed.
            if not late.is_set():
                raise
        finally:
            connection.close()
        if late.is_set():
            raise TimeoutError(f"it took longer than {self.seconds:g} s")
        return found

    def _connection(self) -> http.client.HTTPConnection:
        parts = _split(self.url)
        assert parts.hostname is not None
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.seconds)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=self.seconds, context=context
        )


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


class _TooLong(Exception):
    """An answer that is larger than any answer."""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is looked at only now
    except ValueError:
        return SplitResult("", "", "", "", "")
    return parts


def _read(response: http.client.HTTPResponse) -> bytes:
    found = bytearray()
    while piece := response.read(_PIECE):
        found += piece
        if len(found) > _MAX_ANSWER:
            raise _TooLong(f"its answer is longer than {_MAX_ANSWER >> 20} MiB")
    return bytes(found)


def _hang_up(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


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
