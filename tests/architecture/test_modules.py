"""Every module says what it is for and what it offers, and stays small."""

import ast
import re
import statistics

import pytest
from source import MODULES, ROOT, Module

LONG_FUNCTIONS = {
    "tvc.cli.adapters.import_": "its options are its parameters",
    "tvc.cli.work.checkout.checkout": "its options are its parameters",
    "tvc.cli.work.merging.merge": "its options are its parameters",
    "tvc.recording.finetune.record_finetune": "half of it is its documentation",
    "tvc.recording.starting.start_repository": "half of it is its documentation",
    "tvc.versioning.mergekit_models.prepare_mergekit": "half of it is its documentation",
}
LONG_FILES = {
    "tvc.domain.plan": "half of it are the types of a plan",
    "tvc.repository.repository": "reading and changing share one lock and one journal",
}


def exported(module: Module) -> list[str] | None:
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def defined(module: Module) -> set[str]:
    """Names that a module binds at its top level."""
    names: set[str] = set()
    for node in module.tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
    return names


def sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: ruff's order (RUF022)."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


@pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))
def test_a_module_says_what_it_is_for(module: Module) -> None:
    assert ast.get_docstring(module.tree)


@pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))
def test_a_module_says_what_it_offers(module: Module) -> None:
    names = exported(module)
    if names is None:
        # A package that gathers nothing, or the file behind `python -m tvc`, offers nothing.
        assert module.path.name in {"__init__.py", "__main__.py"}
        assert not any(
            isinstance(node, ast.FunctionDef | ast.ClassDef) for node in module.tree.body
        )
        return
    assert names == sorted(names, key=sort_key)
    assert len(names) == len(set(names))
    assert set(names) <= defined(module)
    assert not [name for name in names if name.startswith("_") and name != "__version__"]


def lengths() -> dict[str, int]:
    return {
        f"{module.name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in MODULES.values()
        for node in module.functions()
    }


def test_functions_are_short() -> None:
    """Docstrings count: a function that needs so many words does too much."""
    found = lengths()
    long = {name for name, length in found.items() if length > 50}
    assert long <= set(LONG_FUNCTIONS), "split it, or list it with a reason"
    assert max(found.values()) <= 75
    assert statistics.median(found.values()) <= 12


def test_files_are_short() -> None:
    found = {m.name: len(m.path.read_text().splitlines()) for m in MODULES.values()}
    long = {name for name, length in found.items() if length > 400}
    assert long <= set(LONG_FILES), "split it, or list it with a reason"
    assert max(found.values()) <= 500


def test_the_lists_name_what_there_is() -> None:
    assert set(LONG_FUNCTIONS) <= set(lengths())
    assert set(LONG_FILES) <= set(MODULES)


def test_the_code_map_names_every_package() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {module.package for module in MODULES.values()} - {"tvc"}
    folders = {name.replace("tvc_store", "store/tvc_store").replace(".", "/") for name in packages}
    named = set(re.findall(r"`((?:store/|tvc/)[a-z_]+)/?`", page))
    assert folders <= named


def test_the_code_map_names_nothing_that_is_gone() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    paths = re.findall(r"`((?:store|tvc|tests|examples|scripts)/[\w/.-]+)`", page)
    gone = [path for path in paths if not (ROOT / path).exists()]
    assert not gone
