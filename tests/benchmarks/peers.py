"""Programs to measure against, each in an environment of its own that the benchmark makes.

What is installed is pinned, and torch is the version that tvc runs on, so that no other build of it
comes along. Not here: BitX, which is a few lines in coding.py, and FM-Delta, which is published as
source only and is not on the package registry.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["PEERS", "Peer", "environment"]

PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "mergekit": ("mergekit==0.1.5", "torch"),
    "codecs": ("zipnn==0.5.4", "hf-xet==1.8.0", "zstandard==0.25.0", "numpy", "torch"),
}
"""By environment: what is installed. Those without a version are installed in the version that tvc
runs on."""

_INSTALLED: Final = "installed.json"


class Peer(NamedTuple):
    """An environment, or why there is none.

    Args:
        folder: The environment, or None.
        says: Its programs and their versions, or what stood in the way.
    """

    folder: Path | None
    says: str

    def program(self, name: str) -> str:
        """Return the path of one of its programs, such as "python".

        Raises:
            RuntimeError: There is no environment.
        """
        if self.folder is None:
            raise RuntimeError(self.says)
        return str(self.folder / "bin" / name)


def environment(work: Path, name: str, *, install: bool) -> Peer:
    """Return an environment, made where it is missing.

    Args:
        work: Folder of the benchmarks; environments are in `peers` in it.
        name: One of PEERS.
        install: Make it. Otherwise only one that is there is returned.
    """
    folder = work.absolute() / "peers" / name
    pins = [_pin(requirement) for requirement in PEERS[name]]
    if not _is_made(folder, pins):
        if not install:
            return Peer(None, f"{pins[0]} is not installed (--peers installs it)")
        problem = _make(folder, pins)
        if problem is not None:
            return Peer(None, f"{pins[0]} could not be installed: {problem}")
    own = [requirement for requirement in PEERS[name] if "==" in requirement]
    return Peer(folder, ", ".join(pin.replace("==", " ") for pin in own))


def _pin(requirement: str) -> str:
    if "==" in requirement:
        return requirement
    return f"{requirement}=={version(requirement).partition('+')[0]}"


def _is_made(folder: Path, pins: list[str]) -> bool:
    try:
        return json.loads((folder / _INSTALLED).read_text()) == pins
    except (OSError, ValueError):
        return False


def _make(folder: Path, pins: list[str]) -> str | None:
    """Make an environment, and return what went wrong, if anything did."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", *quiet, *pins],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
            return said[-1]
    (folder / _INSTALLED).write_text(json.dumps(pins))
    return None
