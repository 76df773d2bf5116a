"""A commit in vLLM: straight from the store against from a folder, switched against started again.

Needs vLLM for a CPU, which is installed into the work folder (some minutes, gigabytes); where that
cannot be, the rows say so. Every server loads bf16 weights, without a tokenizer and eagerly.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.benchmarks.measuring import Measured, Sample, in_turns, megabytes, ratio_row
from tests.benchmarks.setting import Setting, setting_of, size_of
from tests.benchmarks.table import Row, not_measured
from tests.vllm.servers import Load, Running, running, under_load

__all__ = ["rows"]

VERSION = "0.32.0"
_ROOT = Path(__file__).parents[2]
_CHANGED = 0.01
_PROMPTS = [[1 + (13 * i + 7 * j) % 1000 for j in range(8 + i)] for i in range(8)]
_TOKENS = 24
_PUSHES = 4
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
_TITLES = ("Wall: start of vLLM from tvc:// against from a folder",)


def rows(work: Path, *, small: bool) -> list[Row]:
    """Measure; see tests/benchmarks/__main__.py."""
    programs = work.absolute() / "vllm" / "bin"
    script = _ROOT / "scripts" / "vllm_environment.sh"
    ready = (programs.parent / "ready").is_file()
    if small and not ready:
        return [not_measured(title, f"vLLM {VERSION} is not installed") for title in _TITLES]
    done = subprocess.run([script, VERSION, programs.parent], capture_output=True, check=False)
    if done.returncode:
        return [not_measured(title, f"vLLM {VERSION} cannot be installed") for title in _TITLES]
    with setting_of(work, "tiny" if small else "256m", group="serving") as setting:
        setting.make(["t1"])
        repository = setting.repository()
        setting.stock(repository, ["t1"])
        _make_sparse(setting.models / "base", setting.scratch / "few")
        setting.branch(repository, "few")
        setting.commit(repository, "few", setting.scratch / "few")
        return _rows(setting, repository, programs, runs=1 if small else 2)


def _make_sparse(base: Path, folder: Path) -> None:
    """Write a fine-tune that moved one weight of a hundred, by one unit in the last place."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(1)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for tensor in tensors.values():
            chosen = torch.rand(tensor.shape, generator=generator) < _CHANGED
            tensor.view(torch.int16)[chosen] += 1
        save_file(tensors, path, metadata={"format": "pt"})


def _rows(setting: Setting, repository: Path, programs: Path, *, runs: int) -> list[Row]:
    tvc = programs / "tvc"
    places = {name: setting.scratch / name for name in ("out", "kept", "cache")}
    setting.checkout(repository, "main", out="kept")

    def start(*command: object) -> AbstractContextManager[Running]:
        return running(
            *command,
            "--skip-tokenizer-init",
            cwd=repository,
            log=setting.scratch / "log",
            dtype="bfloat16",
            programs=programs,
            **_ENVIRONMENT,
            VLLM_CACHE_ROOT=str(places["cache"]),
        )

    def streamed() -> Sample:
        return _started(lambda: start(tvc, "serve", "main", "--stream", "--"))

    def from_folder() -> Sample:
        return _started(lambda: start(programs / "vllm", "serve", places["kept"]))

    def checked_out() -> Sample:
        written = setting.checkout(repository, "main")
        started = _started(lambda: start(programs / "vllm", "serve", places["out"]))
        return Sample(written.wall + started.wall, 0.0, 0)

    got = in_turns({"tvc://": streamed, "folder": from_folder, "checkout": checked_out}, runs=runs)
    beside = sum(size_of(path) for path in (places["cache"] / "tvc").glob("*"))
    whole = size_of(places["out"])
    with start(tvc, "serve", "main", "--stream", "--") as server:
        switched, paused, told = _switched(tvc, repository, server, runs=runs)
        loads = {mode: _under_load(tvc, repository, server, mode) for mode in ("paused", "hogwild")}
    return [
        *_load_rows(loads),
        ratio_row("start of vLLM from tvc:// against checkout and start", got["tvc://"], got["checkout"], "wall"),
        ratio_row("start of vLLM from tvc:// against from a folder that is there", got["tvc://"], got["folder"], "wall"),
        _bytes("Bytes written to start vLLM: tvc:// against checkout", beside, whole),
        ratio_row("a live server becomes another commit, all weights, against a start from tvc://", switched["t1"], got["tvc://"], "wall"),
        ratio_row("requests held back meanwhile, all weights, against a start from tvc://", paused["t1"], got["tvc://"], "wall"),
        ratio_row("the same, one weight of a hundred", switched["few"], got["tvc://"], "wall"),
        ratio_row("requests held back meanwhile, one weight of a hundred", paused["few"], got["tvc://"], "wall"),
        _bytes("Bytes moved: changed elements, one weight of a hundred, against the model", told["few"]["bytes"], told["few"]["model_bytes"]),
        _bytes("Bytes moved: all weights of a fine-tune against the model", told["t1"]["bytes"], told["t1"]["model_bytes"]),
    ]  # fmt: skip


def _started(start: Callable[[], AbstractContextManager[Running]]) -> Sample:
    with start() as server:
        return Sample(server.seconds, 0.0, 0)


def _switched(
    tvc: Path, repository: Path, server: Running, *, runs: int
) -> tuple[dict[str, Measured], dict[str, Measured], dict[str, dict[str, int]]]:
    """Push each commit over main, and main again; what each push took, and how long it paused."""
    walls: dict[str, list[Sample]] = {"t1": [], "few": []}
    pauses: dict[str, list[Sample]] = {"t1": [], "few": []}
    told: dict[str, dict[str, int]] = {}
    subprocess.run([tvc, "-q", "push-live", server.url, "main"], cwd=repository, check=True)
    for _ in range(runs):
        for name in ("t1", "few"):
            began = time.perf_counter()
            done = subprocess.run(
                [tvc, "-q", "push-live", server.url, name, "--json"],
                cwd=repository,
                check=True,
                capture_output=True,
                text=True,
            )
            walls[name].append(Sample(time.perf_counter() - began, 0.0, 0))
            told[name] = json.loads(done.stdout)
            pauses[name].append(Sample(told[name]["paused_seconds"], 0.0, 0))
            subprocess.run([tvc, "-q", "push-live", server.url, "main"], cwd=repository, check=True)
    return (
        {name: Measured(tuple(each)) for name, each in walls.items()},
        {name: Measured(tuple(each)) for name, each in pauses.items()},
        told,
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What came of requests while commits were pushed.

    Args:
        load: The requests.
        seconds: How long there were some.
        torn: Forwards during which weights were written, of `forwards`.
        forwards: See `torn`.
    """

    load: Load
    seconds: float
    torn: int
    forwards: int


def _under_load(tvc: Path, repository: Path, server: Running, mode: str) -> _Loaded:
    """Push all weights to and fro while four clients ask without a break."""
    before = server.live.describe().raw["forwards"]
    began = time.perf_counter()
    with under_load(server.port, _PROMPTS, tokens=_TOKENS) as load:
        for name in ("t1", "main") * _PUSHES:
            command = [tvc, "-q", "push-live", server.url, name, "--mode", mode]
            subprocess.run(command, cwd=repository, check=True)
    seconds = time.perf_counter() - began
    after = server.live.describe().raw["forwards"]
    torn, done = (after[key] - before[key] for key in ("torn", "done"))
    return _Loaded(load, seconds, torn, done)


def _load_rows(loads: Mapping[str, _Loaded]) -> list[Row]:
    paused, hogwild = loads["paused"], loads["hogwild"]
    rates = [len(each.load.answers) / each.seconds for each in (hogwild, paused)]
    slowest = [max(each.load.seconds) for each in (hogwild, paused)]
    return [
        Row(
            "Requests answered while commits are pushed: hogwild against paused",
            rates[0] / rates[1],
            f"{rates[0]:.1f} against {rates[1]:.1f} in a second",
        ),
        Row(
            "The longest of them: hogwild against paused",
            slowest[0] / slowest[1],
            f"{slowest[0]:.2f} s against {slowest[1]:.2f} s",
        ),
        *(
            row
            for mode, each in loads.items()
            for row in (
                _share(f"{mode}: requests that failed", len(each.load.failures), each.load.asked),
                _share(
                    f"{mode}: answers of two commits", each.load.of_two_versions, each.load.asked
                ),
            )
        ),
        _share("hogwild: forwards that saw a write", hogwild.torn, hogwild.forwards),
    ]


def _share(what: str, part: int, whole: int) -> Row:
    return Row(f"Under load, {what}, of all", part / max(whole, 1), f"{part} of {whole}")


def _bytes(what: str, over: int, under: int) -> Row:
    return Row(what, over / under, f"{megabytes(over)} against {megabytes(under)}")
