"""The compiled parts are built in place, all or none of them."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hatch_build(tmp_path, monkeypatch):
    """The build, on a copy of our sources."""
    pytest.importorskip("hatchling")
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    for folder in ("store/tvc_store/codecs/native", "tvc/merging/native"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    spec = importlib.util.spec_from_file_location("hatch_build", tmp_path / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hatch_build", module)
    spec.loader.exec_module(module)
    return module


def test_without_a_working_compiler_no_old_library_is_left(hatch_build, tmp_path, monkeypatch):
    old = [tmp_path / f"{name}.abi3.so" for name in hatch_build.EXTENSIONS]
    for library in old:
        library.write_bytes(b"of another version")
    monkeypatch.setenv("CC", "false")
    with pytest.raises(hatch_build.CannotCompile, match="false"):
        hatch_build.build(tmp_path)
    assert not any(library.exists() for library in old)


@pytest.mark.slow
def test_every_part_is_built_beside_the_modules_that_load_it(hatch_build, tmp_path):
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no compiler")
    built = hatch_build.build(tmp_path)
    assert [path.name for path in built] == ["_coding.abi3.so", "_fused.abi3.so"]
    for library in built:
        assert b"PyInit_" + library.name.split(".")[0].encode() in library.read_bytes()
