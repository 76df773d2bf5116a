"""A served model behind the part of vLLM's interface that tvc speaks, on loopback, in this process.

What is served, changed and shared is the plugin's own `LiveModel` on a model of transformers; only
vLLM around it is left out. Tests against vLLM itself are in tests/vllm.
"""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from safetensors.torch import load_file
from transformers import Qwen3ForCausalLM

from tvc.domain.errors import TvcError
from tvc.serving.delta import read_delta
from tvc.vllm.holding import LoadRecord
from tvc.vllm.live import LiveModel, Origin

__all__ = ["Served", "serving"]


class Served(ThreadingHTTPServer):
    """A server.

    `labels` are the versions that clients gave; `on_update` is called before each change.
    """

    def __init__(self, folder: Path, commit: str, *, altered: str = "", **options: object) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = Qwen3ForCausalLM.from_pretrained(folder, **options).eval()
        self.record = LoadRecord(self.model)
        parameters = dict(self.model.named_parameters())
        with self.record.watching():
            for name, tensor in self.record.watched(
                load_file(folder / "model.safetensors").items()
            ):
                parameters[name].data.copy_(tensor.exp() if name == altered else tensor)
        self.live = LiveModel(self.model, self.record, Origin(commit, commit, "base"))
        self.labels: list[str] = []
        self.on_update = lambda: None
        self.is_paused = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Hang up without words, as a server does that was killed."""

    def answer(self, action: str, names: list[str] | None = None) -> dict:
        try:
            if action == "digests":
                return {"digests": self.live.digests(names or [])}
            if action == "share":
                return self.live.share()
            if action == "wait":
                self.live.wait()
            return self.live.describe()
        except TvcError as error:
            return {"error": error.message, "hint": error.hint or ""}

    def update(self, info: dict) -> None:
        self.on_update()
        try:
            delta = read_delta(
                Path(info["path"]), sha256=info["sha256"], kind=info["kind"], limit=1 << 30
            )
            if info["mode"] == "shared":
                self.live.note(delta)
            else:
                self.live.apply(delta, hogwild=info["mode"] == "hogwild", undo=info["undo"])
        except TvcError as error:
            self.live.failed = str(error)
            raise


class _Handler(BaseHTTPRequestHandler):
    server: Served

    def do_GET(self) -> None:
        self._say(200, {"is_paused": self.server.is_paused})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        asked = json.loads(body) if body else {}
        path = self.path.partition("?")[0]
        try:
            if path == "/update_weights":
                self.server.update(asked["update_info"])
        except TvcError as error:
            self._say(500, {"error": str(error)})
            return
        if path in {"/pause", "/resume"}:
            self.server.is_paused = path == "/pause"
        if path == "/finish_weight_update":
            self.server.labels.append(asked["weight_version"])
        results = [self.server.answer(*asked["args"])] if path == "/collective_rpc" else []
        self._say(200, {"results": results})

    def _say(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, commit: str, **options: object) -> Generator[Served]:
    """Serve a model folder as a commit's, until the context ends."""
    server = Served(folder, commit, **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
