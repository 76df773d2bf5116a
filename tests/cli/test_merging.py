"""tvc merge without a method: three-way, as git merges lines."""

import json
from pathlib import Path

import pytest
from cli_bench import save_model, tensors, tuned


def branch_with(tvc, name: str, coefficient: str, start: str = "listen") -> None:
    tvc("switch", "-c", name, start)
    tvc("scale", "listen", coefficient)
    tvc("commit", "-m", f"listen at {coefficient}")


def parents(tvc, revision: str = "HEAD") -> list[str]:
    return tvc.json("show", revision)["parents"]


def commit_of(tvc, revision: str) -> str:
    return tvc.json("show", revision)["commit"]


def test_terms_of_both_sides_are_joined(tvc, repo, models):
    tvc("switch", "listen")
    said = tvc("merge", "brief")
    assert "added brief" in said
    assert "of the weights changed" in said
    assert tvc.recipe() == "base + brief + listen"
    assert parents(tvc) == [commit_of(tvc, "HEAD^1"), commit_of(tvc, "brief")]
    assert tvc.json("show")["message"] == "Merge brief"


def test_fast_forward_moves_the_branch(tvc, repo):
    said = tvc("merge", "listen")
    assert "fast-forward" in said
    assert commit_of(tvc, "HEAD") == commit_of(tvc, "listen")
    assert tvc.json("status")["branch"] == "main"


@pytest.mark.parametrize("flag", ["--no-ff", "--no-commit"])
def test_no_fast_forward(flag, tvc, repo):
    tvc("merge", flag, "listen", "-m", "mine")
    if flag == "--no-commit":
        assert tvc.json("status")["merging"]
        assert "a merge is under way" in tvc("status")
        tvc("commit")
    assert len(parents(tvc)) == 2
    assert tvc.json("show")["message"] == "mine"
    assert tvc.recipe() == "base + listen"


def test_already_up_to_date(tvc, repo):
    before = commit_of(tvc, "HEAD")
    tvc("switch", "listen")
    assert tvc("merge", "main") == "already up to date.\n"
    assert tvc("merge", "listen") == "already up to date.\n"
    tvc("switch", "main")
    assert commit_of(tvc, "HEAD") == before


def test_octopus(tvc, repo):
    tvc("merge", "listen", "brief", "hedging", "-m", "all")
    assert tvc.recipe() == "base + brief + hedging + listen"
    assert parents(tvc) == [
        commit_of(tvc, name) for name in ("main~1", "listen", "brief", "hedging")
    ]
    assert "*-" in tvc("log", "--graph")


def test_octopus_with_a_conflict_is_refused_whole(tvc, clash):
    tvc("switch", "main")
    error = tvc.fails("merge", "less", "more", code=4)
    assert "more conflicts with the others" in error
    assert "one at a time" in error
    assert tvc.json("status") | {"commit": ""} == {
        "branch": "main",
        "commit": "",
        "recipe": "base",
        "changes": [],
        "new_vectors": [],
        "removed_vectors": [],
        "merging": False,
        "conflicted": False,
    }
    tvc("merge", "less", "more", "--theirs")
    assert tvc.recipe() == "base + 2 * listen"


def test_conflict_is_marked_and_named(tvc, clash):
    error = tvc.fails("merge", "less", code=4)
    assert error.startswith("error: 1 conflict in recipe.toml\nhint: ")
    text = (clash / "recipe.toml").read_text()
    assert text == (
        'format = 1\nbase = "base"\nterms = [\n'
        '<<<<<<< more\n  "2 * listen",\n=======\n  "0.5 * listen",\n>>>>>>> less\n]\n'
    )
    status = tvc.json("status")
    assert status["merging"]
    assert status["conflicted"]
    assert "recipe.toml has conflicts" in tvc("status")
    # What reads commits goes on; what would change something does not.
    tvc("log")
    tvc("show")
    tvc("vectors")
    tvc("vectors", "inspect", "listen")
    assert "unresolved conflicts" in tvc.fails("commit", code=4)
    assert "unresolved conflicts" in tvc.fails("add", "brief", code=4)
    assert "unresolved conflicts" in tvc.fails("diff", code=4)
    for command in (
        ["switch", "main"],
        ["merge", "brief"],
        ["revert", "HEAD"],
        ["cherry-pick", "brief"],
    ):
        assert "a merge is under way" in tvc.fails(*command)


def resolve(repo: Path, coefficient: str) -> None:
    lines = (repo / "recipe.toml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if line[:7] not in ("<<<<<<<", "=======", ">>>>>>>")]
    wanted = [line for line in kept if " * listen" not in line or f'"{coefficient} *' in line]
    (repo / "recipe.toml").write_text("".join(wanted))


@pytest.mark.parametrize("coefficient", ["0.5", "2"])
def test_conflict_resolved_by_hand(coefficient, tvc, clash):
    """Also to what our side had, which changes no weight."""
    ours = commit_of(tvc, "HEAD")
    tvc.fails("merge", "less", "-m", "settled", code=4)
    resolve(clash, coefficient)
    assert not tvc.json("status")["conflicted"]
    said = tvc("commit")
    assert "of the weights changed" in said
    assert tvc.recipe() == f"base + {coefficient} * listen"
    assert parents(tvc) == [ours, commit_of(tvc, "less")]
    assert tvc.json("show")["message"] == "settled"
    assert not tvc.json("status")["merging"]


def test_the_message_of_a_resolution_can_be_another(tvc, clash):
    tvc.fails("merge", "less", code=4)
    resolve(clash, "0.5")
    tvc("commit", "-m", "I decided")
    assert tvc.json("show")["message"] == "I decided"


@pytest.mark.parametrize(("side", "coefficient"), [("--ours", "2"), ("--theirs", "0.5")])
def test_one_side_is_taken(side, coefficient, tvc, clash):
    ours = commit_of(tvc, "HEAD")
    tvc("merge", side, "less")
    assert tvc.recipe() == f"base + {coefficient} * listen"
    assert parents(tvc) == [ours, commit_of(tvc, "less")]


def test_abort_goes_back(tvc, clash):
    before = tvc.json("status")
    text = (clash / "recipe.toml").read_text()
    tvc.fails("merge", "less", code=4)
    assert tvc("merge", "--abort") == "back to before the merge\n"
    assert tvc.json("status") == before
    assert (clash / "recipe.toml").read_text() == text
    assert "there is no merge to abort" in tvc.fails("merge", "--abort")


def test_undo_of_a_conflict_and_of_its_abort(tvc, clash):
    before = tvc.json("status")
    tvc.fails("merge", "less", code=4)
    tvc("undo")
    assert tvc.json("status") == before
    tvc.fails("merge", "less", code=4)
    tvc("merge", "--abort")
    tvc("undo")
    assert tvc.json("status")["conflicted"]
    tvc("undo")
    assert tvc.json("status") == before


def test_dry_run_says_conflicts_and_changes_nothing(tvc, clash):
    before = tvc.json("status")
    said = tvc("-q", "merge", "--dry-run", "less")
    assert "conflict: listen was 1, is 2 here and 0.5 there\nagreed on: base\n" in said
    assert "interference of more and less" in said
    assert tvc.json("status") == before


def test_removed_here_and_changed_there_is_a_conflict(tvc, clash):
    tvc("remove", "listen")
    tvc("commit", "-m", "gone")
    assert "was 1, is absent here and 0.5 there" in tvc("merge", "--dry-run", "less")
    tvc.fails("merge", "less", code=4)
    assert (
        '<<<<<<< more\n=======\n  "0.5 * listen",\n>>>>>>> less\n'
        in (clash / "recipe.toml").read_text()
    )


def test_the_same_change_on_both_sides_is_made_once(tvc, repo):
    branch_with(tvc, "one", "0.5")
    tvc("switch", "-c", "two", "listen")
    tvc("scale", "listen", "1/2")
    tvc("add", "brief")
    tvc("commit", "-m", "half, and brief")
    tvc("merge", "one", "--ours")
    assert tvc.recipe() == "base + brief + 0.5 * listen"


def test_a_merge_that_changes_nothing_is_refused(tvc, repo):
    tvc("switch", "-c", "around", "listen")
    tvc("add", "brief")
    tvc("commit", "-m", "there")
    tvc("remove", "brief")
    tvc("commit", "-m", "and back")
    tvc("switch", "listen")
    tvc("add", "hedging")
    tvc("commit", "-m", "apart")
    before = tvc.json("status")
    error = tvc.fails("merge", "around")
    assert "this would change no weight and no file" in error
    assert tvc.json("status") == before


def test_uncommitted_edits_are_in_the_way(tvc, repo):
    tvc("add", "listen")
    assert "uncommitted changes" in tvc.fails("merge", "brief")


def test_different_chat_templates_conflict(tvc, talkers):
    assert "conflict: chat_template.jinja is that of casual here and of formal there" in tvc(
        "merge", "--dry-run", "formal"
    )
    tvc.fails("merge", "formal", code=4)
    text = (talkers / "recipe.toml").read_text()
    assert '"chat_template.jinja" = "casual"' in text
    assert '"chat_template.jinja" = "formal"' in text
    lines = [
        line for line in text.splitlines() if line[:7] not in ("<<<<<<<", "=======", ">>>>>>>")
    ]
    (talkers / "recipe.toml").write_text(
        "\n".join(line for line in lines if '= "casual"' not in line)
    )
    tvc("commit")
    tvc("checkout", "-o", "../served")
    assert (talkers.parent / "served" / "chat_template.jinja").read_text().startswith("formal")


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("method", [[], ["--ties"]])
def test_a_side_decides_on_chat_templates(method, side, tvc, talkers):
    tvc("merge", *method, f"--{side}", "formal")
    tvc("checkout", "-o", "../served")
    expected = "casual" if side == "ours" else "formal"
    assert (talkers.parent / "served" / "chat_template.jinja").read_text().startswith(expected)


def test_one_name_for_two_vectors_is_refused(tvc, repo, models, tmp_path):
    tvc("switch", "-c", "other", "main")
    other = save_model(tmp_path / "x", tuned(tensors(models / "base"), 50))
    tvc("commit", other, "-m", "another listen", "--name", "listen")
    assert "vector 'listen' is another one on the other side" in tvc.fails("merge", "listen")


def test_no_common_history(tvc, repo, tmp_path, models, monkeypatch):
    import subprocess

    monkeypatch.chdir(tmp_path)
    tvc("init", "elsewhere", "--base", models / "base")
    monkeypatch.chdir(repo)
    subprocess.run(["git", "fetch", "-q", "../elsewhere", "main:stranger"], check=True)
    # Made at the same second by the same person the two would be one commit.
    if commit_of(tvc, "stranger") != commit_of(tvc, "main"):
        assert "no common history" in tvc.fails("merge", "stranger")


def test_merging_a_merge(tvc, repo):
    tvc("merge", "--ties", "listen", "brief")
    tvc("merge", "hedging")
    assert tvc.recipe() == "base + hedging + ties(brief, listen; density=0.2)"


def test_record_of_a_merge_that_is_damaged(tvc, clash):
    tvc.fails("merge", "less", code=4)
    resolve(clash, "0.5")
    record = clash / ".tvc" / "merging.json"
    for text in (
        "",
        "{}",
        "[]",
        json.dumps({"parents": ["--help"], "message": "x", "by_hand": True}),
    ):
        record.write_text(text)
        assert "damaged" in tvc.fails("commit")
    tvc("merge", "--abort")
    assert not tvc.json("status")["merging"]


def test_dry_run_json(tvc, clash):
    facts = tvc.json("merge", "--dry-run", "less")
    assert facts["conflicts"] == ["conflict: listen was 1, is 2 here and 0.5 there"]
    assert facts["interference"][0]["total"]["cosine"] < -0.999
    tvc("switch", "main")
    facts = tvc.json("merge", "--dry-run", "listen")
    assert facts["fast_forward"] == commit_of(tvc, "listen")
    assert facts["changes"] == ["added listen"]
    assert facts["interference"] == []
    facts = tvc.json("merge", "--dry-run", "--ties", "listen", "brief")
    assert facts["recipe"] == "base + ties(brief, listen; density=0.2)"
    assert [pair["between"] for pair in facts["interference"]] == [["listen", "brief"]]
    assert "--json is for --dry-run" in tvc.fails("merge", "listen", "--json")


def test_what_another_branch_has_already_is_not_merged_twice(tvc, clash):
    tvc("switch", "main")
    tvc("tag", "v1", "less")
    for names in (["less", "listen"], ["listen", "less"], ["less", "less"], ["less", "v1"]):
        tvc("merge", "--no-ff", *names)
        assert tvc.recipe() == "base + 0.5 * listen"
        assert parents(tvc)[1:] == [commit_of(tvc, "less")]
        tvc("undo")
    assert "one commit is named twice" in tvc.fails("merge", "--ties", "less", "v1")
    tvc("merge", "--ties", "less", "listen")
    assert tvc.recipe() == "base + ties((0.5 * listen), listen; density=0.2)"
