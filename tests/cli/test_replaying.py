"""tvc revert, cherry-pick and rebase."""

import pytest
import torch
from cli_bench import same, save_model, tensors, tuned, weights_of


def test_revert_gives_the_same_recipe_and_bytes(tvc, repo):
    tvc("switch", "listen")
    before, bytes_before = tvc.json("show"), tvc.model()
    tvc("add", "brief", "--scale", "1/3")
    tvc("commit", "-m", "Be brief")
    said = tvc("revert", "HEAD")
    assert "removed 1/3 * brief" in said
    after = tvc.json("show")
    assert after["recipe_id"] == before["recipe_id"]
    assert same(tvc.model(), bytes_before)
    assert after["message"] == f'Revert "Be brief"\n\nThis takes back commit {after["parents"][0]}.'


def test_revert_of_an_older_commit(tvc, repo):
    tvc("merge", "listen", "--no-ff")
    tvc("merge", "brief")
    assert "is a merge of 2 commits" in tvc.fails("revert", "HEAD~1")
    tvc("revert", "HEAD~1", "--mainline", "1", "-m", "no listening")
    assert tvc.recipe() == "base + brief"
    assert tvc.json("show")["message"] == "no listening"
    tvc("revert", "HEAD")
    assert tvc.recipe() == "base + brief + listen"
    assert "has 2 parents, not 3" in tvc.fails("revert", "main~2", "--mainline", "3")


def test_revert_of_a_merge_s_other_side(tvc, repo):
    tvc("switch", "listen")
    tvc("merge", "brief")
    tvc("revert", "HEAD", "--mainline", "2")
    assert tvc.recipe() == "base + brief"


def test_cherry_pick_takes_the_change_and_its_vectors(tvc, repo):
    said = tvc("cherry-pick", "listen")
    assert "added listen" in said
    assert tvc.recipe() == "base + listen"
    assert tvc.json("show")["message"] == "Teach listen"
    tvc("switch", "-c", "half", "brief")
    tvc("scale", "brief", "0.5")
    tvc("commit", "-m", "half as brief")
    tvc("switch", "main")
    tvc("cherry-pick", "half", "-m", "less")
    assert tvc.recipe() == "base - 0.5 * brief + listen"
    assert tvc.json("show")["message"] == "less"


@pytest.mark.parametrize("command", [["revert", "HEAD"], ["cherry-pick", "listen"]])
def test_no_commit_leaves_it_in_the_tree(command, tvc, repo):
    tvc("switch", "brief")
    before = tvc.json("show")["commit"]
    tvc(*command, "--no-commit")
    assert tvc.json("show")["commit"] == before
    assert tvc.json("status")["changes"]
    tvc("commit", "-m", "x")
    assert tvc.json("show")["parents"] == [before]


ERRORS = {
    "the first commit": (["revert", "main"], "main is the first commit"),
    "nothing there": (["cherry-pick", "nowhere"], "there is no revision 'nowhere'"),
    "not a merge": (["revert", "listen", "--mainline", "2"], "listen has 1 parents, not 2"),
    "the same base": (["rebase", "--onto", "base"], "the recipe stands on base already"),
    "no such base": (["rebase", "--onto", "./nowhere"], "nowhere"),
    "no base said": (["rebase"], "Missing option '--onto'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, tvc, repo):
    arguments, message = ERRORS[case]
    before = tvc.json("log", "--all")
    assert message in tvc.fails(*arguments)
    assert tvc.json("log", "--all") == before


@pytest.mark.parametrize("command", ["revert", "cherry-pick"])
def test_edits_are_in_the_way(command, tvc, repo):
    tvc("add", "brief")
    assert "uncommitted changes" in tvc.fails(command, "listen")


def test_rebase_keeps_the_sum(tvc, repo, models):
    tvc("switch", "listen")
    said = tvc("rebase", "--onto", models / "other_base")
    assert "base: base → other_base" in said
    assert tvc.recipe() == "other_base + listen"
    assert tvc.json("show")["message"].startswith("Rebase onto ")
    base, listen, other = (tensors(models / name) for name in ("base", "listen", "other_base"))
    for name, found in tvc.model().items():
        delta = listen[name].float() - base[name].float()
        assert torch.equal(found, (other[name].float() + delta).to(torch.bfloat16))
    # Back by its name, and the bytes are the fine-tune's again.
    tvc("rebase", "--onto", "base", "-m", "back")
    assert same(tvc.model(), listen)
    tvc("revert", "HEAD")
    assert tvc.recipe() == "other_base + listen"


def test_rebase_with_a_name_copied_in_and_not_committed(tvc, repo, models, tmp_path):
    import shutil

    shutil.copytree(models / "other_base", tmp_path / "moved")
    tvc("rebase", "--onto", "../moved", "--name", "second", "--vendor", "--no-commit")
    assert tvc.recipe() == "second"
    tvc("commit", "-m", "on second")
    shutil.rmtree(tmp_path / "moved")
    assert same(tvc.model(), tensors(models / "other_base"))
    assert "'second' is taken here" in tvc.fails(
        "rebase", "--onto", models / "base", "--name", "second"
    )


def test_a_base_that_does_not_fit(tvc, repo, tmp_path):
    narrow = {name: weight[..., :4] for name, weight in weights_of(3).items()}
    save_model(tmp_path / "narrow", narrow)
    tvc("switch", "listen")
    error = tvc.fails("rebase", "--onto", "../narrow")
    assert "has shape" in error
    assert tvc.recipe() == "base + listen"


def test_merges_across_bases_are_refused(tvc, repo, models):
    tvc("switch", "-c", "elsewhere", "listen")
    tvc("rebase", "--onto", models / "other_base")
    tvc("switch", "brief")
    assert "tvc rebase --onto BASE" in tvc.fails("merge", "--ties", "elsewhere", code=4)
    # Without a method: only one side changed the base, which is clear.
    tvc("merge", "elsewhere")
    assert tvc.recipe() == "other_base + brief + listen"
    on_top = tuned(tvc.model(), 80)
    tvc("commit", save_model(repo.parent / "x", on_top), "-m", "on top", "--name", "on_top")
    assert same(tvc.model(), on_top)


def test_both_sides_on_new_bases_conflict(tvc, repo, models, tmp_path):
    save_model(tmp_path / "third", weights_of(200))
    tvc("switch", "-c", "one", "main")
    tvc("rebase", "--onto", models / "other_base")
    tvc("switch", "-c", "two", "main")
    tvc("rebase", "--onto", tmp_path / "third")
    assert "stand on different base models" in tvc.fails("merge", "one", code=4)
