"""Adapters of a running server: what is sent, and what is made of answers, whoever gives them."""

import contextlib
import http.server
import json
import threading
from dataclasses import dataclass, field

import pytest
import safetensors.torch
import torch

from tvc.dialogues.exchange import EndpointFailed
from tvc.domain.errors import InputError
from tvc.models.adapters import AdapterDirectory, MisfitAdapter
from tvc.serving.adapters import AdapterRefused, AdapterServer, ServedModel, check_fits

BASE = {"id": "base", "object": "model", "root": "/models/base", "parent": None}
CALM = {"id": "calm", "object": "model", "root": "/adapters/calm", "parent": "base"}
LISTED = (200, json.dumps({"object": "list", "data": [BASE, CALM]}).encode())


@dataclass
class Stranger:
    """A server that answers what it was told to."""

    models: tuple[int, bytes] = LISTED
    changed: tuple[int, bytes] = (200, b"Success")
    asked: list = field(default_factory=list)
    url: str = ""


@pytest.fixture
def stranger():
    told = Stranger()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # as vLLM speaks

        def do_GET(self):
            self._answer(*told.models)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.asked.append((self.path, json.loads(body), self.headers["Authorization"]))
            self._answer(*told.changed)

        def _answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        told.url = f"http://127.0.0.1:{server.server_port}"
        yield told
        server.shutdown()


def test_what_is_asked_of_it(stranger, tmp_path):
    server = AdapterServer(f"{stranger.url}/v1/", "secret", 5)
    assert server.models() == {
        "base": ServedModel("base", "/models/base", is_adapter=False),
        "calm": ServedModel("calm", "/adapters/calm", is_adapter=True),
    }
    assert server.load("brief", tmp_path) is None
    assert server.load("calm", tmp_path) == ServedModel("calm", "/adapters/calm", is_adapter=True)
    server.unload("calm")
    body = {"lora_name": "brief", "lora_path": str(tmp_path), "load_inplace": False}
    key = "Bearer secret"
    assert stranger.asked == [
        ("/v1/load_lora_adapter", body, key),
        ("/v1/load_lora_adapter", body | {"lora_name": "calm", "load_inplace": True}, key),
        ("/v1/unload_lora_adapter", {"lora_name": "calm"}, key),
    ]
    assert "secret" not in repr(server)


# As vLLM 0.32 answers: without the variable, without --enable-lora, and for lack of rank.
NOT_FOUND = (404, b'{"detail":"Not Found"}')
WORKER = (
    "Call to add_lora method failed: Worker failed with error '{}', "
    "please check the stack trace above for the root cause"
)


def vllm_error(status, message):
    error = {"message": message, "type": "InternalServerError", "param": None, "code": status}
    return status, json.dumps({"error": error}).encode()


REFUSALS = {
    "no variable": (
        NOT_FOUND,
        "URL takes no adapters while it runs",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
    ),
    "no --enable-lora": (
        vllm_error(500, WORKER.format("LoRA is not enabled. Use --enable-lora to enable LoRA.")),
        "x was not loaded: URL answered 500: LoRA is not enabled. Use --enable-lora to enable LoRA.",
        "start the server with --enable-lora",
    ),
    "rank": (
        vllm_error(500, WORKER.format("LoRA rank 16 is greater than max_lora_rank 8.")),
        "x was not loaded: URL answered 500: LoRA rank 16 is greater than max_lora_rank 8.",
        "a higher --max-lora-rank",
    ),
    "a path it cannot read": (
        vllm_error(404, "Loading lora x failed: No adapter found for /x"),
        "x was not loaded: URL answered 404: Loading lora x failed: No adapter found for /x",
        None,
    ),
    "no words": ((500, b""), "x was not loaded: URL answered 500: ", None),
    "another kind": ((418, b"[1]"), "x was not loaded: URL answered 418: [1]", None),
    "no text": (
        (400, b'{"error": {"message": ["a"]}}'),
        'x was not loaded: URL answered 400: {"error": {"message": ["a"]}}',
        None,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_it_refuses_is_said(stranger, tmp_path, case):
    stranger.changed, message, hint = REFUSALS[case]
    with pytest.raises(AdapterRefused) as told:
        AdapterServer(stranger.url, seconds=5).load("x", tmp_path)
    assert told.value.message == message.replace("URL", stranger.url)
    assert (told.value.hint is None) if hint is None else hint in (told.value.hint or "")


def test_terminals_are_safe_from_its_words(stranger, tmp_path):
    server = AdapterServer(stranger.url, seconds=5)
    stranger.changed = vllm_error(500, "\x1b]0;owned\x07" + "x" * 100_000)
    with pytest.raises(AdapterRefused) as told:
        server.load("x", tmp_path)
    assert told.value.message.isprintable()
    assert len(told.value.message) < 1000
    named = {"id": "\x1b[2J", "root": "\x1b[2J", "parent": "base"}
    stranger.models = (200, json.dumps({"data": [named]}).encode())
    with pytest.raises(InputError, match="serves no adapter") as told:
        server.unload("x")
    assert (told.value.hint or "").isprintable()


BAD_LISTS = {
    "an error": (503, b"\x1b[31mbusy"),
    "no JSON": (200, b"<html>"),
    "a list": (200, b"[]"),
    "no list": (200, b'{"data": {"id": "base"}}'),
    "deep": (200, b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "large": (200, b'{"data": [' + b" " * (9 << 20) + b"]}"),
    "many": (200, json.dumps({"data": [{}] * 100_001}).encode()),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_answers_that_are_no_list_of_models(stranger, tmp_path, case):
    stranger.models = BAD_LISTS[case]
    with pytest.raises(EndpointFailed) as told:
        AdapterServer(stranger.url, seconds=5).load("x", tmp_path)
    assert told.value.message.isprintable()
    assert not stranger.asked


def test_entries_of_another_form_are_no_models(stranger):
    entries = [None, 3, {}, {"id": 3}, {"id": "a", "root": 7, "parent": ["x"]}, {"id": "b"}]
    stranger.models = (200, json.dumps({"data": entries}).encode())
    assert AdapterServer(stranger.url, seconds=5).models() == {
        "a": ServedModel("a", "", is_adapter=False),
        "b": ServedModel("b", "", is_adapter=False),
    }


@pytest.mark.parametrize("name", ["", " x", "x\n", "\x1b[2J", "x" * 201])
def test_names_that_are_none(stranger, tmp_path, name):
    server = AdapterServer(stranger.url, seconds=5)
    for act in (lambda: server.load(name, tmp_path), lambda: server.unload(name)):
        with pytest.raises(InputError, match="cannot name an adapter"):
            act()
    assert not stranger.asked


def test_the_model_itself_is_no_adapter(stranger, tmp_path):
    with pytest.raises(InputError, match="is the model that"):
        AdapterServer(stranger.url, seconds=5).load("base", tmp_path)
    with pytest.raises(InputError, match="serves no adapter 'base'"):
        AdapterServer(stranger.url, seconds=5).unload("base")
    assert not stranger.asked


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    factors = {f"{key}A.weight": torch.ones(2, 6), f"{key}B.weight": torch.ones(4, 2)}
    safetensors.torch.save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return AdapterDirectory.open(folder)


def served(root):
    calm = ServedModel("calm", "/nowhere", is_adapter=True)
    return {"calm": calm, "base": ServedModel("base", str(root), is_adapter=False)}


def write_base(folder, shape):
    folder.mkdir()
    weight = {"model.layers.0.self_attn.q_proj.weight": torch.ones(shape)}
    safetensors.torch.save_file(weight, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def test_whether_an_adapter_fits_is_looked_at_where_it_can_be(adapter, tmp_path):
    assert check_fits(adapter, served(write_base(tmp_path / "same", (4, 6))))
    with pytest.raises(MisfitAdapter, match=r"of shape \[4, 6\], the base model has \[8, 6\]"):
        check_fits(adapter, served(write_base(tmp_path / "wide", (8, 6))))
    hidden = tmp_path / "hidden"
    write_base(hidden, (4, 6)).chmod(0)
    odd = ["", "org/model", "tvc:///repo@main", "/" + "x" * 5000, "/a\0b", "/\ud800"]
    for root in (*odd, tmp_path / "nowhere", tmp_path / "adapter", hidden / "inside"):
        assert not check_fits(adapter, served(root))
