"""tvc undo and tvc op: every move can be taken back, and taken again."""

import pytest
from cli_bench import same


def facts(tvc) -> tuple:
    return tvc.json("status"), tvc.json("branch"), tvc.json("tag")


def test_undo_goes_back_step_by_step(tvc, repo):
    steps = [facts(tvc)]
    for command in (
        ["add", "listen"],
        ["scale", "listen", "0.5"],
        ["commit", "-m", "half"],
        ["tag", "v1"],
        ["merge", "brief"],
        ["revert", "HEAD~1"],
        ["switch", "-c", "other"],
        ["cherry-pick", "hedging"],
        ["remove", "brief"],
        ["branch", "-d", "main"],
    ):
        tvc(*command)
        steps.append(facts(tvc))
    for step in reversed(steps[:-1]):
        said = tvc("undo")
        assert said.startswith("undid ")
        assert facts(tvc) == step


def test_undo_names_what_it_takes_back(tvc, repo):
    tvc("add", "listen")
    number = tvc.json("op", "log")[0]["number"]
    assert tvc("undo").startswith(f"undid {number}: tvc add listen\nmain is at ")
    assert tvc.json("op", "log")[0]["undoes"] == number


def test_nothing_left_to_undo(tvc, models, tmp_path, monkeypatch):
    tvc("init", "new", "--base", models / "base")
    monkeypatch.chdir(tmp_path / "new")
    assert "there is nothing left to undo" in tvc.fails("undo")
    tvc("tag", "v1")
    tvc("undo")
    assert "there is nothing left to undo" in tvc.fails("undo")


def test_restore_goes_forward_again(tvc, repo):
    tvc("add", "listen")
    tvc("commit", "-m", "one")
    number, after = tvc.json("op", "log")[0]["number"], facts(tvc)
    tvc("undo")
    tvc("undo")
    assert tvc.recipe() == "base"
    said = tvc("op", "restore", number)
    assert "main is at " in said
    assert facts(tvc) == after
    tvc("undo")
    assert tvc.recipe() == "base"
    assert f"there is no operation {number + 100}" in tvc.fails("op", "restore", number + 100)


def test_work_after_an_undo_is_undone_first(tvc, repo):
    tvc("tag", "a")
    tvc("tag", "b")
    tvc("undo")
    tvc("tag", "c")
    tvc("undo")
    assert [each["name"] for each in tvc.json("tag")] == ["a"]
    tvc("undo")
    assert tvc.json("tag") == []


def test_edits_by_hand_are_operations_too(tvc, repo):
    path = repo / "recipe.toml"
    text = path.read_text()
    path.write_text(text.replace("terms = []", 'terms = ["0.5 * (0)"]'))
    tvc("tag", "v1")
    commands = [each["command"] for each in tvc.json("op", "log", "-n", "2")]
    assert commands == ["tvc tag v1", "(changes made without tvc)"]
    tvc("undo")
    tvc("undo")
    assert path.read_text() == text


def test_undo_gives_the_same_bytes(tvc, repo):
    tvc("switch", "listen")
    before = tvc.model()
    tvc("add", "brief", "--scale", "1/3")
    tvc("commit", "-m", "x")
    assert not same(tvc.model(), before)
    tvc("undo")
    tvc("undo")
    assert same(tvc.model(), before)


@pytest.mark.parametrize("count", [1, 3])
def test_log_of_operations(count, tvc, repo):
    for name in ("a", "b", "c", "d"):
        tvc("tag", name)
    lines = tvc("op", "log", "-n", count).splitlines()
    assert len(lines) == count
    assert lines[0].endswith("tvc tag d")
    assert len(tvc.json("op", "log", "-n", count)) == count


def test_quiet_commands_are_logged_too(tvc, repo):
    tvc("-q", "tag", "v1")
    assert tvc.json("op", "log")[0]["command"] == "tvc -q tag v1"
