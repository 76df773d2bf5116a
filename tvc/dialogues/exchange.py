"""One question to a server over HTTP, and its answer, of which nothing is believed.

Its size and the time it takes are bounded, redirects are not followed, and no proxy of the
environment is asked. Absent: what is asked, and trying again.
"""

import http.client
import json
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from tvc.domain.errors import InputError
from tvc.domain.names import printable

__all__ = ["Answer", "EndpointFailed", "HttpServer"]

_PIECE: Final = 1 << 16
_SAID: Final = 200


class EndpointFailed(InputError):
    """A server does not answer, or not as it should."""


class Answer(NamedTuple):
    """What a server answered.

    Args:
        status: HTTP's.
        body: Its bytes.
    """

    status: int
    body: bytes

    @property
    def said(self) -> str:
        """The beginning of the body, fit to be printed."""
        return printable(self.body.decode("utf-8", "replace"), limit=_SAID)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server.

    Args:
        url: Up to what all its paths begin with: `http://127.0.0.1:8000`.
        key: Sent as a bearer token; None for none. It is in no message and no repr.
        seconds: For one answer, from connecting to its last byte.
        max_answer: Bytes that an answer may have.

    Raises:
        InputError: The address is not one.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 300.0
    max_answer: int = 8 << 20

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

    @classmethod
    def at_root(cls, url: str, key: str | None, seconds: float, max_answer: int) -> Self:
        """Return a server by an address that may name the version of its chat interface."""
        return cls(url.rstrip("/").removesuffix("/v1"), key, seconds, max_answer)

    def exchange(self, method: str, path: str, data: bytes | None = None) -> Answer:
        """Ask once.

        Args:
            method: GET or POST.
            path: After the address; begins with a slash.
            data: JSON to send.

        Raises:
            ConnectionError: Nobody is there, or hung up.
            EndpointFailed: The answer takes too long, is too long, or is none.
        """
        try:
            return self._exchange(method, path, data)
        except ConnectionError:
            raise
        except (OSError, http.client.HTTPException, _TooLong) as error:
            raise self.unreachable(error) from None

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Ask once, with `body` as JSON where there is one; raises as `exchange` does."""
        return self.exchange(method, path, None if body is None else json.dumps(body).encode())

    def unreachable(self, error: Exception) -> EndpointFailed:
        """Return what to raise where there was no answer."""
        words = printable(str(error), limit=_SAID) or type(error).__name__
        return EndpointFailed(
            f"{self.url} does not answer: {words}", hint="is the server running there?"
        )

    def _exchange(self, method: str, path: str, data: bytes | None) -> Answer:
        connection = self._connection()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        late, found = threading.Event(), Answer(0, b"")
        try:
            connection.connect()
            # Timeouts of sockets begin anew with every byte; this one does not.
            timer = threading.Timer(self.seconds, _hang_up, (connection.sock, late))
            timer.daemon = True
            timer.start()
            try:
                whole = _split(self.url).path.rstrip("/") + path
                connection.request(method, whole, data, headers)
                # Where a server hangs up after its answer, the response alone has the socket.
                with connection.getresponse() as response:
                    found = Answer(response.status, _read(response, self.max_answer))
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


class _TooLong(Exception):
    """An answer that is larger than any answer."""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is looked at only now
    except ValueError:
        return SplitResult("", "", "", "", "")
    return parts


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    found = bytearray()
    while piece := response.read(_PIECE):
        found += piece
        if len(found) > limit:
            raise _TooLong(f"its answer is longer than {limit >> 20} MiB")
    return bytes(found)


def _hang_up(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
