"""A server on loopback that answers as chat interfaces do, or as they should not."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """Answers every question by a function; use it in a `with`.

    Args:
        answer: Given the question and its number, returns the answer's text, or a dict that is sent as it is, or (status, bytes).
    """

    def __init__(self, answer: Callable[[dict[str, Any], int], Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append({**body, "path": self.path})
                server.headers.append(dict(self.headers))
                server.reply(self, answer(body, len(server.asked)))

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients that hang up are what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @staticmethod
    def reply(handler: BaseHTTPRequestHandler, answer: Any) -> None:
        if isinstance(answer, float):  # a byte now and then, for ever
            handler.send_response(200)
            handler.end_headers()
            for _ in range(100):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(answer)
            return
        status, data = answer if isinstance(answer, tuple) else (200, completion(answer))
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        if status == 302:
            handler.send_header("Location", "http://127.0.0.1:9/")
        handler.end_headers()
        handler.wfile.write(data)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def completion(answer: Any) -> bytes:
    if isinstance(answer, str):
        message = {"role": "assistant", "content": answer}
        answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return json.dumps(answer).encode()
