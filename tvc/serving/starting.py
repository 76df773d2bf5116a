"""Starts vLLM on a commit: on a folder in the repository's private part, or straight on its store.

The process becomes vLLM. A folder's lock stays open in it, so that the folder is there as long as
the server is, and goes with the next start after that. Absent: what the flags of vLLM mean.
"""

import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Final

from tvc.checkout.writing import Checkout, Written
from tvc.domain.errors import InputError
from tvc.domain.recipe import recipe_id
from tvc.models.writer import SHARD_BYTES
from tvc.repository.layout import Layout
from tvc.repository.leftovers import SERVED_LOCK, remove_served
from tvc.repository.objects import Objects, open_objects
from tvc.repository.state import State
from tvc.serving.server import Unfit
from tvc.serving.versions import SUPPORTED, is_supported
from tvc_store.durable import make_folder
from tvc_store.lock import Lock

__all__ = ["Command", "is_local", "serve_command", "served_folder"]

_REMOVING_SECONDS: Final = 60.0
_DEV_MODE: Final = {"VLLM_SERVER_DEV_MODE": "1"}
_LOCAL: Final = ("127.0.0.1", "localhost", "::1")
_HOST: Final = "--host"
_NAME: Final = "--served-model-name"
_SHORTEST: Final = len("--h")
_OURS: Final = ("--load-format", "--weight-transfer-config", "--additional-config")


@dataclass(frozen=True, slots=True)
class Command:
    """What starts a server.

    Args:
        program: vLLM's.
        arguments: With the program's name first.
        environment: What is added to the environment.
    """

    program: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


def is_local(flags: Sequence[str]) -> bool:
    """Say whether vLLM's flags name no address but this machine's own."""
    hosts = [after for flag, after in pairwise(flags) if "=" not in flag and _means(flag, _HOST)]
    hosts += [flag.partition("=")[2] for flag in flags if "=" in flag and _means(flag, _HOST)]
    return all(host in _LOCAL for host in hosts)


def _means(flag: str, option: str) -> bool:
    """Say whether vLLM reads a flag as an option.

    It takes underscores for dashes and a beginning for the whole, and `--option.key value` sets
    what an option holds. A beginning that several options have it refuses itself.
    """
    name = flag.partition("=")[0].partition(".")[0].replace("_", "-")
    return len(name) >= _SHORTEST and option.startswith(name)


def serve_command(
    model: str,
    name: str,
    flags: Sequence[str],
    *,
    live: bool,
    roots: Sequence[Path],
    beside: Path,
) -> Command:
    """Return what starts vLLM on a model.

    Args:
        model: A folder, or `tvc://…`.
        name: What clients call it, unless the flags say.
        flags: vLLM's own.
        live: Let the server be asked and changed.
        roots: Folders that changes may be read from.
        beside: Where programs of this environment are.

    Raises:
        Unfit: vLLM is not installed, or not in a version that the plugin was tried with.
        InputError: A flag is one that tvc sets.
    """
    needs_plugin = live or not Path(model).is_dir()
    taken = [each for each in _OURS if any(_means(flag, each) for flag in flags)]
    if taken and needs_plugin:
        raise InputError(f"{taken[0]} is set by tvc serve", hint="see: tvc serve --help")
    program = shutil.which("vllm", path=str(beside)) or shutil.which("vllm")
    if program is None:
        raise Unfit("vLLM is not installed here", hint="pip install vllm, where tvc is installed")
    if needs_plugin:
        _require_plugin(program, beside)
    arguments = [program, "serve", model]
    # Before the user's own, and before what a --config names, which vLLM reads before these.
    if not any(_means(flag, _HOST) for flag in flags):
        arguments += [_HOST, _LOCAL[0]]
    if not any(_means(flag, _NAME) for flag in flags):
        arguments += [_NAME, name]
    if needs_plugin:
        arguments += ["--load-format", "tvc"]
    if live:
        settings = {"tvc_roots": [str(root) for root in roots]}
        arguments += ["--weight-transfer-config", json.dumps({"backend": "tvc"})]
        arguments += ["--additional-config", json.dumps(settings)]
    return Command(program, (*arguments, *flags), dict(_DEV_MODE) if live else {})


@contextmanager
def served_folder(
    layout: Layout,
    state: State,
    *,
    commit: str,
    on_plan: Callable[[int], Callable[[int], None]],
    workers: int = 2,
) -> Generator[tuple[Path, Written | None]]:
    """Yield a folder with a model; it is kept while this context or its process's heir lasts.

    Args:
        layout: The repository.
        state: Whose recipe is evaluated.
        commit: Full hash.
        on_plan: Told of the bytes that will be written, returns what is told of every tensor's.
        workers: Tensors at a time.

    Yields:
        The folder; and what was written, None where it was there already.

    Raises:
        Unservable: vLLM would serve it wrongly.
        Unservable: vLLM would serve it wrongly.
        TvcError: It cannot be computed or written.
    """
    make_folder(layout.served)
    with open_objects(layout) as store:
        planned = Checkout(Objects(store, state), state.recipe, commit=commit, workers=workers)
        planned.check_servable()
        place = layout.served / recipe_id(planned.normal)[:32]
        remove_served(layout, but=place)
        with Lock.shared(place.with_suffix(SERVED_LOCK), timeout=_REMOVING_SECONDS) as lock:
            written = None
            if not place.is_dir():
                on_bytes = on_plan(planned.work_bytes)
                written = planned.write(
                    place, title="model", shard_size=SHARD_BYTES, on_bytes=on_bytes
                )
            if lock.fd is not None:
                os.set_inheritable(lock.fd, True)  # noqa: FBT003 -- os has no name for it
            yield place, written


def _require_plugin(program: str, beside: Path) -> None:
    try:
        found = version("vllm")
    except PackageNotFoundError:
        found = ""
    if Path(program).parent != beside or not found:
        raise Unfit(
            f"{program} is in another environment than tvc, and does not know its plugin",
            hint="install tvc where vLLM is, or serve a plain checkout: --no-live",
        )
    if not is_supported(found):
        raise Unfit(
            f"tvc's plugin was not tried with vLLM {found}",
            hint=f"it was with {', '.join(SUPPORTED)}; or serve a plain checkout: --no-live",
        )
