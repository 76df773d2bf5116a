"""tvc doctor: what it says of a sound installation, and of each thing that can be wrong."""

import re
import subprocess
import sys

import pytest

from tvc.merging import loops as merging_loops
from tvc_store.codecs import native
from tvc_store.lock import Lock

LEVELS = {"AVX-512", "AVX2", "plain C", "NumPy"}


@pytest.fixture
def loops():
    """Whatever a test makes of the loops in use is taken back."""
    coding, merging = native.in_use(), merging_loops.level()
    yield
    native.use(coding)
    merging_loops.use(merging)


@pytest.fixture(autouse=True)
def all_compiled():
    """Where nothing was compiled, doctor calls that a problem, rightly."""
    if "NumPy" in {native.supported()[0], merging_loops.levels()[0]}:
        pytest.skip("the compiled loops are not installed here")


def files_of(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_all_is_well(tvc, repo):
    before = files_of(repo)
    said = tvc("doctor")
    assert said.endswith("all is well\n")
    facts = dict(re.findall(r"^(\w+): +(.+)$", said, re.MULTILINE))
    assert re.fullmatch(r"\d+\.\d+\.\d+", facts["tvc"])
    assert re.match(r"\d+\.\d+", facts["git"])
    assert facts["coding"] in LEVELS
    assert facts["merging"] in LEVELS
    assert facts["repository"] == str(repo)
    assert re.fullmatch(r"tvc-store \d, \d+ objects, [\d.]+ kB", facts["store"])
    assert "lock" not in facts
    assert files_of(repo) == before


def test_torch_is_not_loaded(repo):
    command = [sys.executable, "-X", "importtime", "-m", "tvc", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    assert "tvc" in names
    assert "torch" not in names


def test_json_has_the_same_facts(tvc, repo):
    facts = tvc.json("doctor")
    assert facts["problems"] == []
    assert facts["repository"]["root"] == str(repo)
    assert facts["repository"]["objects"] == len(list((repo / ".tvc" / "objects").glob("??/*")))
    assert facts["repository"]["object_bytes"] == sum(
        path.stat().st_size for path in (repo / ".tvc" / "objects").glob("??/*")
    )
    assert facts["repository"]["free_bytes"] > 0
    assert facts["repository"]["shares_blocks"] in {True, False}
    assert set(facts["loops"].values()) <= LEVELS
    assert facts["cores"] >= 1


def test_outside_a_repository(tvc):
    assert re.search(r"^repository: +none here$", tvc("doctor"), re.MULTILINE)
    assert tvc.json("doctor")["repository"] is None


def test_plain_loops_are_a_problem(tvc, repo, loops):
    merging_loops.use("NumPy")
    said = tvc("doctor", code=1)
    assert "problem: merging is done by NumPy" in said
    assert "install a C compiler" in said
    assert "1 thing should be put right" in tvc.err
    native.use("NumPy")
    said = tvc("doctor", code=1)
    assert "problem: coding is done by NumPy" in said
    assert "2 things should be put right" in tvc.err


def test_an_unknown_store_is_a_problem(tvc, repo):
    place = repo / ".tvc" / "objects" / "format"
    place.chmod(0o644)
    place.write_text("tvc-store 99\n")
    said = tvc("doctor", code=1)
    assert "'tvc-store 99'" in said
    assert "a newer version" in said
    facts = tvc("doctor", "--json", code=1)
    assert '"format": null' in facts


def test_a_clone_without_objects_is_well(tvc, repo):
    for path in sorted((repo / ".tvc").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert tvc.json("doctor")["repository"]["objects"] == 0


def test_a_lock_is_named_and_no_problem(tvc, repo):
    with Lock.exclusive(repo / ".tvc" / "lock", command="tvc commit slow"):
        said = tvc("doctor")
    assert re.search(r"^lock: +lock: held by 'tvc commit slow' \(process \d+", said, re.MULTILINE)
    assert tvc.json("doctor")["repository"]["locks"] == []


def test_git_that_is_not_there(tvc, repo, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = tvc("doctor", code=1)
    assert "git was not found" in said
    assert re.search(r"^git: +not there$", said, re.MULTILINE)


def test_a_repository_that_may_only_be_read_is_not_written_to(tvc, repo):
    private = repo / ".tvc"
    private.chmod(0o555)
    try:
        assert tvc("doctor").endswith("all is well\n")
    finally:
        private.chmod(0o755)
