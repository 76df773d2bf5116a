"""tvc branch, switch and tag."""

import subprocess

import pytest


def names(listed) -> list[str]:
    return [each["name"] for each in listed]


def test_list(tvc, repo):
    listed = tvc.json("branch")
    assert names(listed) == ["brief", "hedging", "listen", "main"]
    assert [each["current"] for each in listed] == [False, False, False, True]
    assert listed[0]["subject"] == "Teach brief"
    lines = tvc("branch").splitlines()
    assert lines[3].startswith("* main  ")
    assert lines[0] == f"  brief  {listed[0]['commit'][:10]}  Teach brief"


def test_make_and_switch(tvc, repo):
    assert tvc("branch", "new", "listen") == "branch new at listen\n"
    assert tvc("switch", "new") == "now on branch new\n"
    assert tvc.recipe() == "base + listen"
    assert tvc("switch", "-c", "newer", "brief") == "now on branch newer\n"
    assert tvc.recipe() == "base + brief"
    assert (repo / "vectors" / "brief.toml").exists()
    assert not (repo / "vectors" / "listen.toml").exists()
    tvc("branch", "team/ada")
    assert "team/ada" in names(tvc.json("branch"))


def test_delete_rename_and_undo(tvc, repo):
    before = tvc.json("branch")
    assert tvc("branch", "-d", "brief").startswith("deleted brief, which was at ")
    assert "brief" not in names(tvc.json("branch"))
    tvc("branch", "hedging", "-m", "hedge")
    tvc("branch", "main", "-m", "trunk")
    assert tvc.json("status")["branch"] == "trunk"
    for _ in range(3):
        tvc("undo")
    assert tvc.json("branch") == before


def test_tags(tvc, repo):
    assert tvc("tag") == ""
    tvc("tag", "v1", "listen")
    tvc("tag", "v2")
    assert names(tvc.json("tag")) == ["v1", "v2"]
    assert tvc.json("show", "v1")["recipe"] == "base + listen"
    assert "v1" in tvc("log", "listen")
    assert tvc("tag", "-d", "v1") == "deleted tag v1\n"
    assert names(tvc.json("tag")) == ["v2"]
    tvc("undo")
    assert names(tvc.json("tag")) == ["v1", "v2"]


def test_tags_that_are_objects_of_their_own(tvc, repo):
    subprocess.run(["git", "tag", "-a", "-m", "signed off", "v1", "listen"], check=True)
    assert tvc.json("tag")[0]["commit"] == tvc.json("branch")[2]["commit"]
    tvc("merge", "v1", "--no-ff")
    assert tvc.recipe() == "base + listen"
    tvc("switch", "--detach", "v1")
    assert tvc.json("status")["commit"] == tvc.json("tag")[0]["commit"]


def test_detached(tvc, repo):
    said = tvc("switch", "--detach", "listen~1")
    assert said.endswith(", on no branch\n")
    assert "on no branch, at " in tvc("status")
    assert tvc.json("status")["branch"] is None
    assert tvc("branch").startswith("* (detached at ")
    tvc("add", "brief")
    assert "[detached HEAD " in tvc("commit", "-m", "off the road")
    assert tvc.recipe() == "base + brief"
    # Kept by a branch made here, and by the operation log without one.
    tvc("switch", "main")
    tvc("undo")
    assert tvc.recipe() == "base + brief"
    tvc("switch", "-c", "found")
    assert tvc.json("show", "found")["message"] == "off the road"


ERRORS = {
    "unknown branch": (["switch", "lisen"], "there is no branch 'lisen'", "did you mean 'listen'?"),
    "unknown to delete": (["branch", "-d", "breif"], "there is no branch 'breif'", "did you mean 'brief'?"),
    "unknown tag": (["tag", "-d", "v1"], "there is no tag 'v1'", ""),
    "taken": (["branch", "listen"], "there is 'listen' already", "choose a name"),
    "taken in other case": (["branch", "Listen"], "there is 'listen' already", ""),
    "taken as a folder": (["branch", "listen/more"], "there is 'listen' already", ""),
    "taken by a rename": (["branch", "brief", "-m", "listen"], "there is 'listen' already", ""),
    "the current one": (["branch", "-d", "main"], "main is the current branch", "`tvc switch` away first"),
    "a start that is not": (["branch", "new", "nowhere"], "there is no revision 'nowhere'", ""),
    "a name that cannot be": (["branch", "-d", "--", "-x"], "there is no branch '-x'", ""),
    "a hostile name": (["branch", "a..b"], "'a..b' cannot name a branch", "use letters"),
    "a device": (["branch", "con"], "'con' cannot name a branch", ""),
    "HEAD is no branch": (["switch", "HEAD"], "there is no branch 'HEAD'", ""),
    "detach from nothing": (["switch", "--detach", "nowhere"], "there is no revision 'nowhere'", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, tvc, repo):
    arguments, message, hint = ERRORS[case]
    before = tvc.json("branch")
    error = tvc.fails(*arguments)
    assert message in error
    assert hint in error
    assert tvc.json("branch") == before


def test_a_tag_is_no_branch(tvc, repo):
    tvc("tag", "v1", "listen")
    assert "tvc switch --detach v1" in tvc.fails("switch", "v1")


def test_edits_are_not_lost(tvc, repo):
    tvc("add", "brief")
    assert "uncommitted changes: recipe.toml" in tvc.fails("switch", "listen")
    tvc("switch", "--discard-changes", "listen")
    assert tvc.recipe() == "base + listen"
    tvc("undo")
    assert tvc.recipe() == "base + brief"


def test_other_files_move_along_and_are_not_overwritten(tvc, repo):
    tvc("switch", "listen")
    (repo / "notes.txt").write_text("about listening\n")
    subprocess.run(["git", "add", "notes.txt"], check=True)
    subprocess.run(["git", "commit", "-q", "-m", "notes"], check=True)
    tvc("switch", "main")
    assert not (repo / "notes.txt").exists()
    (repo / "notes.txt").write_text("mine, and not committed\n")
    assert "notes.txt" in tvc.fails("switch", "listen")
    assert tvc.json("status")["branch"] == "main"
    (repo / "notes.txt").unlink()
    tvc("switch", "listen")
    assert (repo / "notes.txt").read_text() == "about listening\n"
    assert subprocess.run(["git", "status", "--porcelain"], capture_output=True).stdout == b""
