"""Benchmarks: `python -m tests.benchmarks [--only GROUPS] [--work DIR] [--small] [--write]`.

Everything is a ratio against a named other thing, measured in the same run. No figure is asserted
anywhere; kept results are in RESULTS.md beside this file, where each group has a section. A group is
a module with `rows(work, *, small)`, listed in group.py: `work` is a folder that models and the
peers' environments stay in, `small` asks for the same rows in a minute.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.group import TITLES
from tests.benchmarks.peers import PEERS, environment
from tests.benchmarks.table import Section, keep, load_rows, section_text

RESULTS = Path(__file__).with_name("RESULTS.md")
ROOT = Path(__file__).parents[2]


def machine() -> list[str]:
    """Say what this is measured on; no names of hosts or folders."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(
        (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "unknown"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout
    programs = ("tvc", "torch", "numpy", "zstandard")
    versions = ", ".join(f"{name} {version(name)}" for name in programs)
    return [
        f"{datetime.datetime.now(datetime.UTC).date()}, load {os.getloadavg()[0]:.1f} before the run; "
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}",
        f"Python {platform.python_version()}, {versions}, {git.strip()}",
    ]


def measure(name: str, work: Path, *, small: bool) -> Section | None:
    """Run a group in a process of its own; None where it failed, which it has said then."""
    facts = [*machine(), *(["the small form, on models of a few MB"] if small else [])]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "tests.benchmarks.group", name, str(work), str(file)]
        done = subprocess.run([*command, *(["--small"] if small else [])], cwd=ROOT, check=False)
        if done.returncode:
            return None
        rows = load_rows(file.read_text())
    if small:  # the targets are for models of full size
        rows = [replace(row, at_most=None, at_least=None) for row in rows]
    return Section(TITLES[name], facts, rows)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ",".join(TITLES)
    parser.add_argument("--only", default=names, metavar="GROUPS", help=f"some of: {names}")
    parser.add_argument("--small", action="store_true", help="small models, a few minutes in all")
    parser.add_argument("--peers", action="store_true", help="install peers with --small too")
    parser.add_argument("--write", action="store_true", help=f"keep the results in {RESULTS.name}")
    parser.add_argument(
        "--work", type=Path, help="folder that models and peers stay in (default: a temporary one)"
    )
    asked = parser.parse_args()
    unknown = set(asked.only.split(",")) - set(TITLES)
    if unknown:
        parser.error(f"no group {sorted(unknown)}: there are {names}")
    return asked


def main() -> int:
    """Measure, print, and keep the results where that is asked for."""
    asked = parse()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        work: Path = asked.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for peer in PEERS if asked.peers else ():
            print(environment(work, peer, install=True).says, flush=True)
        for name in asked.only.split(","):
            section = measure(name, work, small=asked.small)
            if section is None:
                failed.append(name)
                continue
            print(f"## {section.title}\n\n{section_text(section)}", flush=True)
            if asked.write:
                keep(RESULTS, [section], order=list(TITLES.values()))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
