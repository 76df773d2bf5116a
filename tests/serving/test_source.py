"""A model in a repository, by a name that vLLM can be given."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workbench import Bench

from tvc.domain.errors import InputError, TvcError
from tvc.serving.filing import filed
from tvc.serving.source import Location, served
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import tensor_id

SPEC = TensorSpec("F32", (3, 2))


def numbers(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    """Only read."""
    made = Bench(
        tmp_path_factory.mktemp("source"), {n: (SPEC, numbers(*range(6))) for n in ("a", "b", "c")}
    )
    tuned = {n: (SPEC, numbers(*range(6))) for n in ("a", "b")} | {"c": (SPEC, numbers(*[7] * 6))}
    made.commit("one", tuned)
    return made


@pytest.mark.parametrize(
    ("text", "root", "revision"),
    [
        ("tvc:///models/repo@main", "/models/repo", "main"),
        ("tvc:///models/repo", "/models/repo", "HEAD"),
        ("tvc:///a%40b/repo@x", "/a@b/repo", "x"),
        ("tvc:///repo@base%20+ 0.5*listen", "/repo", "base + 0.5*listen"),
    ],
)
def test_names_are_read(text, root, revision):
    assert Location.parse(text) == (Path(root), revision)


@pytest.mark.parametrize("text", ["tvc://repo@main", "/repo@main", "tvc:repo", "s3:///x", "tvc://"])
def test_other_names_are_refused(text):
    with pytest.raises(InputError, match="does not name a model"):
        Location.parse(text)


@given(
    st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1),
    st.from_regex(r"[a-z][a-z0-9/~^@{}%]{0,9}", fullmatch=True),
)
def test_names_are_read_as_they_were_written(folder, revision):
    place = Location(Path("/") / folder, revision)
    assert Location.parse(str(place)) == place


def test_tensors_are_those_of_the_commit(bench):
    with served(Location(bench.repository.layout.root, "main")) as source:
        assert source.commit == bench.repository.git.resolve("main")
        assert source.label == source.commit
        found = {name: content.tobytes() for name, content in source.tensors(source.specs)}
        ids = {name: source.id_of(name) for name in source.specs}
    assert found == {name: data for name, (_, data) in bench.tensors().items()}
    assert ids == {name: tensor_id(SPEC, data) for name, data in found.items()}


def test_recipes_are_computed(bench):
    with served(Location(bench.repository.layout.root, "base + 2 * one")) as source:
        assert source.commit == ""
        assert source.label.startswith("recipe:")
        assert source.known("c") is None
        found = dict(source.tensors(source.specs))
    assert found["c"].tobytes() == numbers(*(14 - n for n in range(6)))


@pytest.mark.parametrize("revision", ["nosuch", "--help", "main..main", "a-b", "base + nosuch"])
def test_what_is_not_there_is_refused(bench, revision):
    with pytest.raises(TvcError), served(Location(bench.repository.layout.root, revision)):
        pass


def test_files_are_put_beside_each_other_once(bench, tmp_path):
    root = bench.repository.layout.root
    pinned, folder = filed(Location(root, "main"), tmp_path / "a" / "cache")
    assert pinned == (root.resolve(), bench.repository.git.resolve("main"))
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "test"}
    assert {path.suffix for path in folder.iterdir()} == {".json"}
    written = (folder / "config.json").stat().st_mtime_ns
    assert filed(Location(root, "main"), tmp_path / "a" / "cache") == (pinned, folder)
    assert (folder / "config.json").stat().st_mtime_ns == written


def test_code_does_not_come_along(tmp_path):
    base = {"a": (SPEC, numbers(*range(6)))}
    (tmp_path / "x").mkdir()
    bench = Bench(tmp_path / "x", base)
    (tmp_path / "x" / "base" / "modeling.py").write_text("raise SystemExit")
    with served(Location(bench.repository.layout.root, "main")) as source:
        assert not [path for path, _ in source.files() if path.endswith(".py")]
