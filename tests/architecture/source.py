"""The source files of tvc and its store, parsed once, and what they import."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Module:
    """A source file.

    Args:
        path: Of the file.
        name: As it is imported: `tvc.domain.plan`.
    """

    path: Path
    name: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def package(self) -> str:
        """`tvc.domain`, or `tvc_store` for everything in the store; `tvc` for its own two files."""
        parts = self.name.split(".")
        if parts[0] == "tvc_store" or len(parts) == 1:
            return parts[0]
        is_folder = (ROOT / "tvc" / parts[1]).is_dir()
        return ".".join(parts[:2]) if is_folder else "tvc"

    def imports(self) -> Iterator[tuple[str, int]]:
        """Yield every import, wherever it stands: the module's full name, and the line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: a relative import"
                # `from package import module` imports the module too.
                yield node.module or "", node.lineno
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def where(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


def _modules() -> Iterator[Module]:
    for top, above in ((ROOT / "tvc", ROOT), (ROOT / "store" / "tvc_store", ROOT / "store")):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(above).with_suffix("").parts
            yield Module(path, ".".join(parts).removesuffix(".__init__"))


MODULES = {module.name: module for module in _modules()}
