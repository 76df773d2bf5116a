"""Real servers, started as a user starts them, and requests to them while something else happens."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvc.domain.errors import TvcError
from tvc.serving.server import LiveServer

__all__ = ["Load", "Running", "ask", "free_port", "running", "under_load"]

PROGRAMS = Path(sys.executable).parent
SMALL = ("--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "8", "--enable-scale-out")


@dataclass
class Running:
    """A server that is up."""

    process: subprocess.Popen
    port: int
    log: Path
    seconds: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def live(self) -> LiveServer:
        return LiveServer(self.url, seconds=120)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(
    *command: object,
    cwd: Path,
    log: Path,
    dtype: str = "float32",
    programs: Path = PROGRAMS,
    **environment: str,
) -> Generator[Running]:
    """Start a command that ends in vLLM's flags, wait until it answers, and stop it at the end."""
    port = free_port()
    began = time.monotonic()
    with log.open("w") as said:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port), "--dtype", dtype, *SMALL],
            cwd=cwd,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **environment},
        )
    found = Running(process, port, log, 0.0)
    try:
        _wait(found)
        found.seconds = time.monotonic() - began
        yield found
    finally:
        stop(found)


def _wait(server: Running) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{server.log.read_text()[-4000:]}")
        try:
            server.live.ready(seconds=0)
        except TvcError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"the server does not answer:\n{server.log.read_text()[-4000:]}")


def stop(server: Running, number: int = signal.SIGTERM) -> None:
    """End a server and all its processes."""
    for each in (number, signal.SIGKILL):
        try:
            os.killpg(server.process.pid, each)
        except ProcessLookupError:
            break
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            continue
    server.process.wait(20)


def ask(port: int, prompt: Sequence[int], *, tokens: int = 16) -> dict[str, Any]:
    """Let a model go on with a prompt, greedily; return vLLM's answer: tokens and their versions."""
    body = {
        "token_ids": list(prompt),
        "sampling_params": {"temperature": 0, "max_tokens": tokens, "ignore_eos": True},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/inference/v1/generate", json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, (answer.status, data[:500])
        return json.loads(data)["choices"][0]
    finally:
        connection.close()


@dataclass
class Load:
    """What came of requests: prompt's number, tokens, and the versions that vLLM says they are of."""

    answers: list[tuple[int, tuple[int, ...], tuple[str, ...]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return len(self.answers) + len(self.failures)

    def mixed(self, wanted: Sequence[dict[int, tuple[int, ...]]]) -> int:
        """Count answers that are not, from first token to last, what one of several models says."""
        return sum(
            all(tokens != model[number] for model in wanted) for number, tokens, _ in self.answers
        )

    @property
    def of_two_versions(self) -> int:
        """Count answers whose tokens vLLM says are of more than one version."""
        return sum(len(set(versions)) > 1 for *_, versions in self.answers)


@contextmanager
def under_load(
    port: int, prompts: Sequence[Sequence[int]], *, tokens: int = 16, clients: int = 4
) -> Generator[Load]:
    """Ask without a break while the context lasts, by several clients at once."""
    load, over, lock = Load(), threading.Event(), threading.Lock()

    def work(first: int) -> None:
        number = first
        while not over.is_set():
            number = (number + 1) % len(prompts)
            began = time.monotonic()
            try:
                choice = ask(port, prompts[number], tokens=tokens)
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is a request that failed
                with lock:
                    load.failures.append(repr(error))
                continue
            spans = choice.get("weight_versions") or []
            versions = tuple(span["version"] for span in spans)
            with lock:
                load.seconds.append(time.monotonic() - began)
                load.answers.append((number, tuple(choice["token_ids"]), versions))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()
