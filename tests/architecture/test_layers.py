"""Imports point down, and a few doors are each in one place."""

import ast
from graphlib import TopologicalSorter

import pytest
from source import MODULES, ROOT, Module

LAYERS = {
    "tvc_store": 0,
    "tvc.domain": 1,
    "tvc.merging": 2,
    "tvc.evaluation": 2,
    "tvc.optimizers": 2,
    "tvc.dialogues": 3,
    "tvc.models": 3,
    "tvc.repository": 3,
    "tvc.behaviours": 4,
    "tvc.checkout": 4,
    "tvc.lab": 4,
    "tvc.recording": 4,
    "tvc.serving": 4,
    "tvc.training": 4,
    "tvc.upkeep": 4,
    "tvc.versioning": 4,
    "tvc.cli": 5,
    "tvc.vllm": 5,
}
SIDEWAYS = {
    ("tvc.evaluation", "tvc.merging"): "the engine runs the merge methods",
    ("tvc.training", "tvc.recording"): "a training ends in the record that a commit reads",
    ("tvc.dialogues", "tvc.models"): "folders and JSON are checked before transformers reads them",
    ("tvc.behaviours", "tvc.checkout"): "what is measured is a model of a commit",
    ("tvc.behaviours", "tvc.training"): "the loss of decisions is one thing",
    ("tvc.behaviours", "tvc.versioning"): "recipes that nobody committed are edits of one",
    ("tvc.serving", "tvc.behaviours"): "commits and recipes are named alike",
    ("tvc.serving", "tvc.checkout"): "what is served is a checkout, or its plan",
    ("tvc.lab", "tvc.behaviours"): "experiments measure what suites measure",
    ("tvc.lab", "tvc.training"): "experiments train as tvc train does",
}
"""Imports inside a layer from one package to another, each with its reason."""

EVERYONES = {"tvc"}
"""`tvc/__init__.py` holds the version and imports nothing."""

BANNED_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}


def in_packages(*packages: str) -> list[Module]:
    return [module for module in MODULES.values() if module.package in packages]


def outside(*packages: str) -> list[Module]:
    return [module for module in MODULES.values() if module.package not in packages]


def importers_of(*libraries: str, among: list[Module]) -> list[str]:
    return [
        f"{module.where(line)} imports {name}"
        for module in among
        for name, line in module.imports()
        if name.split(".")[0] in libraries
    ]


def test_every_package_has_a_layer() -> None:
    assert {module.package for module in MODULES.values()} - EVERYONES == set(LAYERS)


def test_imports_point_down() -> None:
    wrong = []
    for module in outside(*EVERYONES):
        for name, line in module.imports():
            imported = MODULES.get(name)
            if imported is None or imported.package in {module.package, *EVERYONES}:
                continue
            pair = (module.package, imported.package)
            if LAYERS[pair[1]] >= LAYERS[pair[0]] and pair not in SIDEWAYS:
                wrong.append(f"{module.where(line)} imports {name}")
    assert not wrong


def test_the_version_is_below_everything() -> None:
    assert not list(MODULES["tvc"].imports())


@pytest.mark.parametrize("pair", SIDEWAYS, ids=" to ".join)
def test_every_import_to_the_side_is_used(pair: tuple[str, str]) -> None:
    importer, imported = pair
    assert LAYERS[importer] == LAYERS[imported]
    names = [name for module in in_packages(importer) for name, _ in module.imports()]
    assert any(name.startswith(imported) for name in names), "take it off the list"


def test_no_import_goes_round_in_a_circle() -> None:
    graph = {
        module.name: {
            name
            for name, _ in module.imports()
            # A package that gathers its own modules is imported together with them.
            if name in MODULES and not module.name.startswith(f"{name}.")
        }
        for module in MODULES.values()
    }
    TopologicalSorter(graph).prepare()


def test_lower_layers_know_no_torch() -> None:
    among = in_packages("tvc_store", "tvc.domain", "tvc.repository")
    assert not importers_of("torch", among=among)


def test_the_domain_knows_the_standard_library_and_the_store_only() -> None:
    libraries = ("blake3", "click", "git", "numpy", "rich", "torch", "yaml", "zstandard")
    assert not importers_of(*libraries, among=in_packages("tvc.domain"))


def test_only_the_repository_knows_git() -> None:
    assert not importers_of("git", "gitdb", among=outside("tvc.repository"))
    assert importers_of("git", among=in_packages("tvc.repository"))


def test_only_the_plugin_knows_vllm() -> None:
    assert not importers_of("vllm", among=outside("tvc.vllm"))
    assert importers_of("vllm", among=in_packages("tvc.vllm"))


def test_nothing_imports_the_plugin() -> None:
    wrong = [
        module.where(line)
        for module in outside("tvc.vllm")
        for name, line in module.imports()
        if name.startswith("tvc.vllm")
    ]
    assert not wrong


def test_arithmetic_knows_no_files() -> None:
    files = ("git", "glob", "io", "os", "pathlib", "shutil", "subprocess", "tempfile")
    assert not importers_of(
        *files, among=in_packages("tvc.merging", "tvc.evaluation", "tvc.optimizers")
    )


def test_only_the_command_line_talks_and_listens() -> None:
    assert not importers_of("argparse", "click", "getpass", "rich", among=outside("tvc.cli"))
    wrong = []
    for module in outside("tvc.cli"):
        for node in ast.walk(module.tree):
            spoken = isinstance(node, ast.Call) and ast.unparse(node.func) in {"input", "print"}
            read = isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "os.environ",
                "os.environb",
                "os.getenv",
                "os.putenv",
                "sys.argv",
                "sys.stderr",
                "sys.stdin",
                "sys.stdout",
            }
            if spoken or read:
                wrong.append(f"{module.where(node.lineno)}: {ast.unparse(node)[:60]}")
    # What `from os import environ` would hide.
    wrong += [
        f"{module.where(line)} imports {name}"
        for module in outside("tvc.cli")
        for name, line in module.imports()
        if name in {"os.environ", "os.environb", "os.getenv", "sys.argv", "sys.stdout"}
    ]
    assert not wrong


BY_NAME = {"tvc.cli.lazy", "tvc.merging.runner"}


def test_imports_stand_at_the_top() -> None:
    """But for two places that import by name: the command line's lazy table, and what merges."""
    wrong = []
    for module in MODULES.values():
        top = {id(node) for node in module.tree.body}
        for node in module.tree.body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                top |= {id(each) for each in node.body}
            if isinstance(node, ast.Try):  # a compiled module, which need not be there
                top |= {id(each) for each in node.body}
        for node in ast.walk(module.tree):
            hidden = isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top
            by_name = isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "__import__",
                "import_module",
                "importlib.import_module",
            }
            if hidden or (by_name and module.name not in BY_NAME):
                wrong.append(f"{module.where(node.lineno)}: {ast.unparse(node)[:60]}")
    assert not wrong


def test_no_star_imports() -> None:
    wrong = [
        module.where(line)
        for module in MODULES.values()
        for name, line in module.imports()
        if name.endswith(".*")
    ]
    assert not wrong


def test_nothing_is_called_utils() -> None:
    folders = [ROOT / "tvc", ROOT / "store", ROOT / "tests", ROOT / "examples"]
    paths = [path for folder in folders for path in folder.rglob("*")]
    wrong = [
        str(path)
        for path in paths
        if BANNED_NAMES & {path.stem.lower(), *path.stem.lower().split("_")}
        and (path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py"))))
    ]
    assert not wrong
