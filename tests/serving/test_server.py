"""Servers that lie, answer garbage or hang up: one clear line, nothing changed, nothing left paused."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from workbench import Bench

from tvc.cli.main import _BUG, _run
from tvc.dialogues.exchange import EndpointFailed, HttpServer
from tvc.serving.attesting import attest
from tvc.serving.delta import state_id
from tvc.serving.pushing import push, undo_target
from tvc.serving.server import LiveServer, ServerGone, Unfit
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import TvcError
from tvc_store.ids import tensor_id

SPEC = TensorSpec("F32", (2, 2))
HANG_UP = (0, b"")
OK = (200, b"{}")


@dataclass
class Stranger:
    """A server that answers what it was told to, by path; `describes` is what it says it serves."""

    describes: dict
    digests: dict
    answers: dict[str, tuple[int, bytes] | Callable] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: dict) -> tuple[int, bytes]:
        self.asked.append(path)
        if path in self.answers:
            told = self.answers[path]
            return told(body) if callable(told) else told
        if path != "/collective_rpc":
            return OK
        if body["args"][0] == "digests":
            return results({"digests": self.digests})
        return results(self.describes)

    @property
    def is_left_paused(self) -> bool:
        paths = [path for path in self.asked if path in {"/pause", "/resume"}]
        return paths[-1:] == ["/pause"]


def results(*told) -> tuple[int, bytes]:
    return 200, json.dumps({"results": told}).encode()


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    """Commits `v1` on HEAD~1 and `v2` on HEAD over a base of zeros."""
    made = Bench(tmp_path_factory.mktemp("server"), {"a": (SPEC, bytes(16))})
    for n in (1, 2):
        made.commit(f"v{n}", {"a": (SPEC, content(n).tobytes())})
    return made


def content(n: int) -> np.ndarray:
    return np.full(4, n, np.float32)


@pytest.fixture
def stranger(bench):
    """A server that serves HEAD~1, as long as it tells the truth."""
    commit = bench.repository.git.resolve("HEAD~1")
    identity = tensor_id(SPEC, content(1).view(np.uint8))
    told = Stranger(
        {
            "label": commit,
            "commit": commit,
            "recipe": "base + v1",
            "repository": "",
            "state": state_id({"a": identity}),
            "failed": "",
            "before": [],
            "unheld": {},
            "groups": [],
            "forwards": {"done": 0, "torn": 0},
            "tensors": {"a": {"dtype": "F32", "shape": [2, 2], "id": identity}},
        },
        {"a": identity},
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer({})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._answer(json.loads(body) if body else {})

        def _answer(self, body):
            status, data = told.answer(self.path.partition("?")[0], body)
            if not status:
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        told.url = f"http://127.0.0.1:{server.server_port}"
        yield told
        server.shutdown()


@pytest.fixture
def tvc(bench, capsys, monkeypatch):
    """The command line in the repository: code and what it wrote, which no terminal is hurt by."""
    monkeypatch.chdir(bench.repository.layout.root)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        code = _run(["-q", *(str(each) for each in arguments)])
        out, err = capsys.readouterr()
        assert code != _BUG, err
        assert "\x1b" not in out + err
        return code, out, err

    return run


def refused(told: tuple[int, str, str]) -> str:
    code, out, err = told
    assert code in {1, 3}, told
    assert not out
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or lines[-1].startswith("hint: ") or "(((" in err, err
    assert len(err) < 1500
    return err


def without(name: str) -> Callable[[dict], dict]:
    return lambda told: {key: value for key, value in told.items() if key != name}


def but(name: str, value: object) -> Callable[[dict], dict]:
    return lambda told: told | {name: value}


def tensor(**wrong: object) -> Callable[[dict], dict]:
    return lambda told: told | {"tensors": {"a": told["tensors"]["a"] | wrong}}


ESCAPE = "\x1b]0;owned\x07\x1b[2J"
LIES = {
    **{f"no {name}": without(name) for name in ("label", "commit", "recipe", "repository")},
    **{f"no {name}": without(name) for name in ("state", "failed", "tensors", "unheld", "groups")},
    **{f"no {name}": without(name) for name in ("before", "forwards")},
    "a label of another form": but("label", ["x"]),
    "an endless label": but("label", "x" * 100_001),
    "a commit that is an option": but("commit", "--help"),
    "a commit that is a branch": but("commit", "HEAD"),
    "a commit that hurts a terminal": but("commit", ESCAPE),
    "a commit under another's name": but("label", "0" * 40),
    "tensors in a list": but("tensors", [1]),
    "a tensor of another form": but("tensors", {"a": 3}),
    "a type of another form": tensor(dtype=["F32"]),
    "no such type": tensor(dtype=ESCAPE),
    "a shape that is text": tensor(shape="22"),
    "a shape of numbers that are none": tensor(shape=[2.0, 2.0]),
    "a shape of truths": tensor(shape=[True, 4]),
    "a shape less than nothing": tensor(shape=[-2, -2]),
    "an impossible shape": tensor(shape=[1 << 62]),
    "an id of another form": tensor(id=7),
    "an id that is none": tensor(id="../../etc"),
    "unheld of another form": but("unheld", {"b": "x"}),
    "unheld without a reason": but("unheld", {"b": {"id": None}}),
    "unheld by a number": but("unheld", {"b": {"why": "x", "id": 3}}),
    "groups of another form": but("groups", [3]),
    "groups of text": but("groups", ["a"]),
    "groups of lists": but("groups", [[["a"]]]),
    "groups of nothing": but("groups", [["a", "nowhere"]]),
    "before of another form": but("before", [3]),
    "before in text": but("before", "x"),
    "counts of another form": but("forwards", {"done": "1", "torn": 0}),
    "counts in a list": but("forwards", [1]),
    "an error that hurts a terminal": but("error", ESCAPE * 1000),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_it_says_is_checked_for_form(stranger, tvc, lie):
    stranger.describes = LIES[lie](stranger.describes)
    for command in (["live", stranger.url], ["push-live", stranger.url, "HEAD"]):
        refused(tvc(*command))
    assert set(stranger.asked) == {"/collective_rpc"}


def deep(_body: dict) -> tuple[int, bytes]:
    return 200, b'{"results": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def slow(_body: dict) -> tuple[int, bytes]:
    time.sleep(1.5)
    return OK


GARBAGE = {
    "not found": ((404, b'{"detail":"Not Found"}'), "VLLM_SERVER_DEV_MODE=1"),
    "an error": ((500, ESCAPE.encode()), "tvc has to be installed where vLLM is"),
    "no key": ((401, b'{"error":"Unauthorized"}'), "--api-key"),
    "elsewhere": ((307, b""), "HTTP 307"),
    "a page": ((200, b"<html>"), "something else than JSON"),
    "nothing": ((200, b""), "something else than JSON"),
    "no results": ((200, b'{"results": []}'), "does not know tvc"),
    "other results": ((200, b'{"results": [3]}'), "does not know tvc"),
    "two devices": (results({}, {}), "several devices"),
    "twice": ((200, b'{"results": [], "results": []}'), "something else than JSON"),
    "deep": (deep, "something else than JSON"),
    "no number": ((200, b'{"results": [{"tensors": NaN}]}'), "does not say what it serves"),
    "hung up": (HANG_UP, "does not answer"),
    "slow": (slow, "does not answer"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused_in_one_line(stranger, tvc, case):
    stranger.answers["/collective_rpc"], words = GARBAGE[case]
    for command in (["live", stranger.url], ["push-live", stranger.url, "HEAD"]):
        assert words in refused(tvc(*command, "--timeout", 1 if case == "slow" else 20))
    assert set(stranger.asked) == {"/collective_rpc"}


def test_nobody_there(tvc):
    for command in (["live"], ["live", "show", "--resume"], ["push-live"]):
        assert "does not answer" in refused(tvc(*command, "http://127.0.0.1:1"))


BROKEN = {
    "hung up": (HANG_UP, "does not answer"),
    "not found": ((404, b""), "answered 404"),
    "refused": ((500, ESCAPE.encode()), "answered 500"),
    "no key": ((403, b""), "--api-key"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("path", ["/is_paused", "/resume"])
def test_what_fails_after_it_was_asked_is_one_line_too(stranger, tvc, path, case):
    stranger.answers[path], words = BROKEN[case]
    options = ["--resume"] if path == "/resume" else []
    assert words in refused(tvc("live", stranger.url, *options))
    if path == "/is_paused":
        assert words in refused(tvc("push-live", stranger.url))
        assert "/pause" not in stranger.asked


@pytest.mark.parametrize(
    "path",
    [
        *("/pause", "/init_weight_transfer_engine", "/start_weight_update", "/update_weights"),
        *("/finish_weight_update", "/reset_prefix_cache"),
    ],
)
@pytest.mark.parametrize("case", BROKEN)
def test_whatever_fails_while_it_is_paused_it_is_told_to_go_on(stranger, tvc, bench, path, case):
    stranger.answers[path] = BROKEN[case][0]
    error = refused(tvc("push-live", stranger.url, "HEAD"))
    assert not stranger.is_left_paused
    assert stranger.asked[-1] == "/resume"
    assert not list((bench.repository.layout.pushed).iterdir())
    if case == "hung up" and path not in {"/pause", "/reset_prefix_cache"}:
        assert "is gone" in error


def test_what_failed_first_is_what_is_said(stranger, bench):
    stranger.answers |= {"/update_weights": HANG_UP, "/resume": HANG_UP}
    with pytest.raises(ServerGone, match="stopped answering while it was being changed"):
        push(LiveServer(stranger.url, seconds=20), bench.repository, "HEAD")


def test_an_interrupt_resumes(stranger):
    server = LiveServer(stranger.url, seconds=20)
    with pytest.raises(KeyboardInterrupt), server.paused():
        raise KeyboardInterrupt
    assert stranger.asked == ["/is_paused", "/pause", "/resume"]


def test_what_is_paused_is_left_so(stranger, tvc):
    stranger.answers["/is_paused"] = (200, b'{"is_paused": true}')
    assert "--resume" in refused(tvc("push-live", stranger.url))
    assert "/pause" not in stranger.asked
    assert "/resume" not in stranger.asked
    assert "PAUSED" in tvc("live", stranger.url, "--json")[1].upper()


def test_the_words_of_a_refusal_are_its_own_and_hurt_nobody(stranger, tvc):
    stranger.answers["/update_weights"] = (500, b"an error of vLLM's")
    stranger.describes["failed"] = f"no room {ESCAPE}" + "x" * 5000
    assert "refused: no room" in refused(tvc("push-live", stranger.url, "HEAD"))


def test_one_that_takes_everything_and_changes_nothing_is_found_out(stranger, tvc):
    error = refused(tvc("push-live", stranger.url, "HEAD"))
    assert "does not serve" in error
    assert not stranger.is_left_paused


def test_one_that_always_writes_is_not_waited_for_for_ever(stranger):
    stranger.describes["writing"] = True
    with pytest.raises(EndpointFailed, match="still writing after 1 s"):
        LiveServer(stranger.url, seconds=1).wait()


@pytest.mark.parametrize("digests", [3, None, ["a"], {}, {"a": ESCAPE}, {"a": 3}, {"b": "0" * 64}])
def test_digests_that_are_none_are_not_equal(stranger, tvc, digests):
    stranger.digests = digests
    code, out, err = tvc("live", stranger.url)
    assert code in {1, 3}
    assert err.startswith("error: ")
    assert "1 of 1" not in out


def test_a_recipe_under_the_name_of_another_is_not_compared_with_it(stranger, bench):
    root = bench.repository.layout.root
    client = LiveServer(stranger.url, seconds=20)
    assert attest(client, client.describe(), root).with_commit
    stranger.describes |= {"commit": ""}
    assert not attest(client, client.describe(), root).with_commit


@pytest.mark.parametrize("dtype", ["I32", "BOOL", "C64", "F8_E8M0"])
def test_a_type_in_which_it_cannot_be_is_refused(stranger, tvc, dtype):
    stranger.describes = tensor(dtype=dtype)(stranger.describes)
    assert "cannot be said" in refused(tvc("push-live", stranger.url, "HEAD"))
    assert tvc("live", stranger.url)[0] == 3


def test_what_is_fused_with_what_cannot_change_cannot_change(stranger, tvc):
    stranger.describes |= {"groups": [["a", "b"]], "unheld": {"b": {"why": "packed", "id": None}}}
    assert "is fused with b" in refused(tvc("push-live", stranger.url, "HEAD"))
    assert "/pause" not in stranger.asked


@pytest.mark.parametrize("before", [[], [{}], [{"commit": 3}], [{"commit": "", "recipe": ""}]])
def test_nothing_to_go_back_to(stranger, tvc, before):
    stranger.describes["before"] = before
    assert "nothing was pushed over" in refused(tvc("push-live", stranger.url, "--undo"))


@pytest.mark.parametrize("target", ["--help", ESCAPE, "x\0y", "\ud800", "main..v1", "(" * 5000])
def test_what_it_says_it_served_is_no_command(stranger, tvc, target):
    stranger.describes["before"] = [{"commit": target}]
    assert undo_target(LiveServer(stranger.url).describe()) == target
    refused(tvc("push-live", stranger.url, "--undo"))
    assert set(stranger.asked) == {"/collective_rpc"}


def test_all_errors_are_the_tree_s(stranger):
    stranger.answers["/is_paused"] = HANG_UP
    with pytest.raises(TvcError):
        _ = LiveServer(stranger.url).is_paused
    stranger.answers["/is_paused"] = (401, b"")
    with pytest.raises(Unfit, match="without its key"):
        _ = LiveServer(stranger.url).is_paused


def test_an_answer_that_is_too_long_leaves_nothing_open(stranger):
    """This server hangs up after each answer, so that its response alone has the socket."""
    stranger.answers["/"] = (200, b"x" * (1 << 20))
    server = HttpServer(stranger.url, max_answer=1 << 10)
    before = sockets()
    with pytest.raises(EndpointFailed, match="longer than") as told:
        server.exchange("GET", "/")
    for _ in range(100):  # until the server's own end is closed
        if sockets() == before:
            break
        time.sleep(0.02)
    assert sockets() == before, told  # whose traceback holds all that nobody closed


def sockets() -> int:
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300", "0", "-1"])
def test_nobody_waits_for_ever_or_for_no_time(stranger, tvc, seconds):
    for command in (["live", stranger.url], ["live", "unload-lora", stranger.url, "x"]):
        assert "not in the range" in refused(tvc(*command, "--timeout", seconds))
    assert not stranger.asked
