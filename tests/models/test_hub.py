"""The hub's client for real: its cache on disk, and a server on loopback that says no."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from model_files import write_model

from tvc.models.hub import BadSource, ModelSource, parse_source

_COMMIT = "a" * 40
_SCRIPT = """
import sys
from tvc.domain.errors import InputError
from tvc.models.hub import fetch, parse_source
try:
    folder, source = fetch(parse_source(sys.argv[1]))
    print(folder, source, source.pinned)
except InputError as error:
    print(f"{type(error).__name__}: {error.message} | {error.hint}")
"""


def _fetch(text, tmp_path, **environment):
    """Run in a process of its own: the client reads its settings when it is imported."""
    keep = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    settings = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", _SCRIPT, text]
    done = subprocess.run(
        command,
        env=keep | settings | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


def _cache(tmp_path):
    cache = tmp_path / "hf" / "hub" / "models--org--name"
    snapshot = cache / "snapshots" / _COMMIT
    (cache / "refs").mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "refs" / "main").write_text(_COMMIT)
    write_model(snapshot)
    for n, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(cache / "blobs" / str(n))
        file.symlink_to(f"../../blobs/{n}")
    return snapshot


@pytest.mark.parametrize("text", ["org/name", "org/name@main", f"org/name@{_COMMIT}"])
def test_a_cached_model_is_found_offline_and_pinned(text, tmp_path):
    snapshot = _cache(tmp_path)
    printed = _fetch(text, tmp_path, HF_HUB_OFFLINE="1")
    assert printed == f"{snapshot} org/name@{_COMMIT} True"


def test_what_is_not_cached_offline(tmp_path):
    _cache(tmp_path)
    for text in ["org/other", "org/name@v2"]:
        printed = _fetch(text, tmp_path, HF_HUB_OFFLINE="1")
        assert printed.startswith(f"FetchFailed: {text} is not in the cache, and the hub cannot")


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does when it refuses, by the name of the model."""

    answers = {  # noqa: RUF012 -- read only
        "missing": (404, "RepoNotFound"),
        "private": (401, "RepoNotFound"),
        "gated": (403, "GatedRepo"),
        "norevision": (404, "RevisionNotFound"),
        "broken": (418, None),
    }

    def do_GET(self):
        name = self.path.split("/")[4]
        status, code = self.answers[name]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"error": "no\nnot \x1b[31m today"}).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("org/missing", "the hub has no model org/missing, or it is private | check the name"),
        ("org/private", "the hub has no model org/private, or it is private | check the name"),
        ("org/gated", "org/gated is gated: its owner gives access | log in"),
        ("org/norevision@v9", "org/norevision has no revision v9 | name a branch"),
        ("org/broken", "org/broken is not in the cache, and the hub cannot be reached | check"),
    ],
)
def test_refusals_are_one_line(text, printed, endpoint, tmp_path):
    assert _fetch(text, tmp_path, HF_ENDPOINT=endpoint).startswith(f"FetchFailed: {printed}")


def test_nobody_answers(tmp_path):
    printed = _fetch("org/name", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert printed.startswith("FetchFailed: org/name is not in the cache, and the hub cannot be")


def test_a_folder_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "tiny").mkdir(parents=True)
    assert parse_source("Qwen/tiny") == ModelSource("path", "Qwen/tiny")
    assert parse_source("other/tiny") == ModelSource("hub", "other/tiny")
    assert parse_source("Qwen/tiny@main") == ModelSource("hub", "Qwen/tiny", "main")
    with pytest.raises(BadSource, match=r"no folder 'Qwen/tinny'") as caught:
        parse_source("Qwen/tinny")
    assert caught.value.hint == "did you mean 'tiny'?"
    with pytest.raises(BadSource, match=r"no folder 'Qwen/0.6B'") as caught:
        parse_source("Qwen/0.6B")
    assert caught.value.hint == "write Qwen/0.6B@main for the model on the hub"


@pytest.mark.parametrize(
    "text",
    [
        "", "gpt2", "/nowhere/at/all", "../x/y/z", "a/b/c", "org/", "/name", "org/na me",
        "org/name@", "org/name@../x", "org/name@a..b", "org/name@-x", "org/name@x\n", "org/-name",
        "--upload-pack=x/y", "org/a--b", "org/name.git", "org/name\x1b[31m", "org/na\x00me",
        "örg/name", "org/" + "x" * 97, "https://huggingface.co/org/name",
    ],
)  # fmt: skip
def test_what_names_nothing(text):
    with pytest.raises(Exception, match=r"there is no folder|neither a folder|cannot be") as caught:
        parse_source(text)
    assert caught.value.exit_code == 1
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pin_is_a_whole_commit():
    assert ModelSource("hub", "a/b", _COMMIT).pinned
    assert not ModelSource("hub", "a/b", "main").pinned
    assert not ModelSource("hub", "a/b", _COMMIT[:12]).pinned
    assert str(ModelSource("hub", "a/b", "main")) == "a/b@main"
