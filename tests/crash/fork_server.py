"""Runs tvc commands in forks of one process that has imported everything already.

A cold start of a command that needs torch takes seconds; a fork takes milliseconds and runs the
same code, so that thousands of kills can be tried. Run as a program it is the server; `ForkServer`
is the client.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

COUNTED = (
    *("write", "pwrite", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir"),
    *("posix_fallocate", "ftruncate", "truncate", "utime", "copy_file_range"),
)
DIED = 137


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def killed(self) -> bool:
        return self.code in (-9, DIED)


class Running:
    """A command under way; its process leads a group of its own."""

    def __init__(self, server: "ForkServer", pid: int, stem: Path) -> None:
        self.pid = pid
        self._server = server
        self._stem = stem

    def kill(self, *, group: bool) -> None:
        """End the process, and with `group` its children too, unless it has ended itself."""
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Outcome:
        code = self._server.ask({"wait": self.pid})["code"]
        texts = [
            self._stem.with_suffix(end).read_text(errors="replace") for end in (".out", ".err")
        ]
        return Outcome(code, *texts)


class ForkServer:
    """The client; ends the server when it is closed."""

    def __init__(self, scratch: Path, **environment: str) -> None:
        self._scratch = scratch
        self._count = 0
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, request: dict) -> dict:
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the fork server has ended"
        return json.loads(answer)

    def start(
        self,
        *arguments: object,
        cwd: Path,
        die_at: int | None = None,
        file_limit: int | None = None,
    ) -> Running:
        """Start `tvc ARGUMENTS`.

        Args:
            arguments: The command line.
            cwd: Where it runs.
            die_at: End the process at this counted call; 0 counts and goes on.
            file_limit: Bytes that a file may have (RLIMIT_FSIZE).
        """
        self._count += 1
        stem = self._scratch / f"command-{self._count}"
        for end in (".out", ".err"):  # made here: it may be killed before it can
            stem.with_suffix(end).touch()
        request = {
            "run": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "stem": str(stem),
            "die_at": die_at,
            "file_limit": file_limit,
        }
        return Running(self, self.ask(request)["pid"], stem)

    def run(self, *arguments: object, cwd: Path, **options: int | None) -> Outcome:
        """Run `tvc ARGUMENTS` to its end."""
        return self.start(*arguments, cwd=cwd, **options).wait()

    def count_calls(self, *arguments: object, cwd: Path) -> tuple[Outcome, list[str]]:
        """Run a command and return the names of the calls at which it could have died."""
        running = self.start(*arguments, cwd=cwd, die_at=0)
        outcome = running.wait()
        return outcome, running._stem.with_suffix(".calls").read_text().split()


# From here on: the server.


class _Counter:
    """Counts the calls that change something, and ends the process at one of them."""

    def __init__(self, die_at: int) -> None:
        self.calls: list[str] = []
        self._die_at = die_at
        self._lock = threading.Lock()

    def arm(self) -> None:
        for name in COUNTED:
            self._arm_call(name)
        self._arm_git()

    def step(self, name: str) -> bool:
        with self._lock:
            self.calls.append(name)
            return len(self.calls) == self._die_at

    def _arm_call(self, name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            if self.step(name):
                if name in ("write", "pwrite"):  # half of it, as a crash may leave it
                    fd, data, *rest = arguments
                    real(fd, memoryview(data).cast("B")[: memoryview(data).nbytes // 2], *rest)
                os._exit(DIED)
            return real(*arguments, **options)

        setattr(os, name, call)

    def _arm_git(self) -> None:
        real = subprocess.Popen.__init__

        def start(process: subprocess.Popen, *arguments: object, **options: object) -> None:
            if self.step("git"):
                os._exit(DIED)
            real(process, *arguments, **options)
            if self.step("git-started"):  # dies, and git goes on without it
                os._exit(DIED)

        subprocess.Popen.__init__ = start


def _child(request: dict) -> None:
    os.setsid()
    stem = Path(request["stem"])
    copiers: list[subprocess.Popen] = []
    for fd, end in ((1, ".out"), (2, ".err")):
        file = os.open(stem.with_suffix(end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        if request["file_limit"] is not None:  # what is printed is not limited
            copier = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
            copiers.append(copier)
            file = copier.stdin.fileno()
        os.dup2(file, fd)
    os.chdir(request["cwd"])
    sys.argv = ["tvc", *request["run"]]
    counter = None
    if request["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    if request["die_at"] is not None:
        counter = _Counter(request["die_at"])
        counter.arm()
    from tvc.cli.main import _run

    code = _run(request["run"])
    if counter is not None:
        stem.with_suffix(".calls").write_text(" ".join(counter.calls))
    sys.stdout.flush()
    sys.stderr.flush()
    for fd, copier in zip((1, 2), copiers, strict=False):
        os.close(fd)
        copier.stdin.close()
    for copier in copiers:
        copier.wait()
    os._exit(code)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.set_inheritable(answers.fileno(), False)
    import tvc.cli.work
    from tvc.cli.main import _COMMANDS

    for lazy in _COMMANDS.values():
        with contextlib.suppress(ModuleNotFoundError):  # a command that is not written yet
            importlib.import_module(lazy.target.partition(":")[0])
    for module in pkgutil.iter_modules(tvc.cli.work.__path__, "tvc.cli.work."):
        importlib.import_module(module.name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                answers.close()
                _child(request)
            answer = {"pid": pid}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
