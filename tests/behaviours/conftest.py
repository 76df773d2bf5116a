"""A repository of puppets: a base, and a line of commits of which one brings a behaviour in."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "dialogues"))
sys.path.insert(0, str(Path(__file__).parent))

from line_bench import LINE
from puppets import add_score, base_puppet, save

from tvc.models.directory import ModelDirectory
from tvc.recording.committing import commit_finetune
from tvc.recording.matching import Allowances
from tvc.recording.starting import start_repository
from tvc.repository.repository import Repository


@pytest.fixture(scope="session")
def line_template(tmp_path_factory) -> Path:
    """A repository on main with a commit for each vector of `LINE`."""
    folder = tmp_path_factory.mktemp("line")
    model = base_puppet()
    base = ModelDirectory.open(save(model, folder / "base"))
    repository = start_repository(
        folder / "repo",
        base,
        name="base",
        source=str(folder / "base"),
        revision=None,
        vendor=True,
        command="init",
    )
    for name, changes in LINE.items():
        for after, word, score in changes:
            add_score(model, after, word, score)
        tuned = ModelDirectory.open(save(model, folder / name))
        with repository.change(f"commit {name}") as change:
            commit_finetune(change, tuned, name=name, message=f"Teach {name}", allowed=Allowances())
    return folder / "repo"


@pytest.fixture
def repository(line_template, tmp_path) -> Repository:
    """A copy of it."""
    return Repository.open(Path(shutil.copytree(line_template, tmp_path / "repo", symlinks=True)))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
