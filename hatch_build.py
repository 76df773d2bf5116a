"""The build of the compiled parts: C extensions of the stable ABI, one library for every Python.

An extension whose folder of sources exists is compiled into the tree, beside the Python modules
that load it, for wheels and for editable installs alike; the libraries are ignored by git. Each has
a twin in Python that gives the same bytes, so where there is no compiler, or it fails, this warns
and the wheel is a pure one.

Developers rebuild in place with `python hatch_build.py`.

Absent on purpose: NumPy's and torch's headers (the extensions take buffers), flags of the building
machine's processor (the extensions look at run time), and a build requirement beyond hatchling.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from platform import machine
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["EXTENSIONS", "CannotCompile", "CompiledParts", "build", "main"]

EXTENSIONS: Final = {
    "store/tvc_store/codecs/_coding": "store/tvc_store/codecs/native",
    "tvc/merging/_fused": "tvc/merging/native",
}
"""The libraries, without their suffix, and the folders of their C sources."""

_SUFFIX: Final = ".abi3.so"
_OLDEST: Final = "cp311"
_FLAGS: Final = [
    "-DPy_LIMITED_API=0x030B0000",
    "-D_POSIX_C_SOURCE=200809L",
    "-std=c11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    # Without the first two no loop with a comparison is vectorised; with contraction the compiled
    # sums would differ from the plain ones in the last bit.
    "-fno-trapping-math",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror=implicit-function-declaration",
]
_SHARED: Final = {"darwin": ["-bundle", "-undefined", "dynamic_lookup"]}


class CannotCompile(Exception):
    """There is no compiler, or it refused."""


class CompiledParts(BuildHookInterface[Any]):
    """The hook that hatchling runs for a wheel, editable or not."""

    def initialize(
        self,
        version: str,  # noqa: ARG002 -- hatchling's signature
        build_data: dict[str, Any],
    ) -> None:
        """Compile, and say in the wheel's tag what that made of it."""
        try:
            built = build(Path(self.root))
        except CannotCompile as error:
            self.app.display_warning(f"{error}\ntvc will work, several times slower")
            return
        if built:
            build_data["pure_python"] = False
            build_data["tag"] = f"{_OLDEST}-abi3-{_platform()}"
            build_data["artifacts"] += [path.relative_to(self.root).as_posix() for path in built]


def build(root: Path) -> list[Path]:
    """Compile every extension whose sources are there, all or none.

    Args:
        root: The project's folder.

    Returns:
        The libraries, in the tree.

    Raises:
        CannotCompile: There is no compiler, or it refused; no library is left then, an old one
            included, since it may be of another version.
    """
    libraries = {
        root / f"{name}{_SUFFIX}": sorted((root / folder).glob("*.c"))
        for name, folder in EXTENSIONS.items()
    }
    wanted = {library: sources for library, sources in libraries.items() if sources}
    try:
        for library, sources in wanted.items():
            _compile(sources, library)
    except CannotCompile:
        for library in libraries:
            library.unlink(missing_ok=True)
        raise
    return list(wanted)


def _compile(sources: list[Path], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as folder:
        made = Path(folder) / library.name
        command = [
            *_compiler(),
            *_FLAGS,
            f"-I{sysconfig.get_path('include')}",
            *_SHARED.get(sys.platform, ["-shared"]),
            *map(str, sources),
            "-o",
            str(made),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotCompile(f"{shlex.join(command)}\n{done.stderr.strip()}")
        print(done.stderr, end="", file=sys.stderr)  # noqa: T201 -- warnings of the compiler
        # A running Python may have the old library mapped: a new file takes its name.
        made.replace(library)


def _compiler() -> list[str]:
    """Return the command of the compiler: the environment's, the one that made Python, or any."""
    names = [os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    for name in names:
        command = shlex.split(name or "")
        if command and shutil.which(command[0]):
            return command
    raise CannotCompile("no C compiler was found")


def _platform() -> str:
    # A universal Python compiles for the machine's own processor here.
    name = sysconfig.get_platform().replace("universal2", machine())
    return name.replace("-", "_").replace(".", "_")


def main() -> int:
    """Rebuild in place; return the exit status."""
    try:
        built = build(Path(__file__).parent)
    except CannotCompile as error:
        print(error, file=sys.stderr)  # noqa: T201 -- a developer's command
        return 1
    for library in built:
        print(library)  # noqa: T201 -- a developer's command
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
