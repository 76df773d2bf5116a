"""tvc add, negate, scale, remove, and edits by hand."""

import pytest
import torch
from cli_bench import same, tensors


def test_edits_say_what_they_change(tvc, repo):
    assert tvc("add", "listen") == (
        "added listen\nrecipe: base + listen\n(record it with: tvc commit -m …)\n"
    )
    assert tvc("scale", "listen", "1/3").startswith("listen: 1 → 1/3\n")
    assert tvc("negate", "brief").startswith("added -1 * brief\n")
    assert tvc("add", "brief", "--scale", "0.25").startswith("brief: -1 → -0.75\n")
    assert tvc("remove", "brief").startswith("removed -0.75 * brief\n")
    status = tvc.json("status")
    assert status["recipe"] == "base + 1/3 * listen"
    assert status["changes"] == ["added 1/3 * listen"]
    assert status["new_vectors"] == ["brief", "listen"]
    assert tvc("-q", "scale", "listen", "2") == ""


def test_negate_takes_out_what_is_there_once(tvc, repo):
    tvc("switch", "listen")
    assert "removed listen" in tvc("negate", "listen")
    assert tvc.recipe() == "base"
    tvc("commit", "-m", "without")
    assert same(tvc.model(), tvc.model("main"))


def test_terms_and_merges_of_other_branches(tvc, repo):
    tvc("add", "0.5 * ties(listen, 0.8 * brief; density=0.3) - 1/3 * hedging", "--scale", "2")
    assert tvc.recipe() == "base + ties(listen, 0.8 * brief; density=0.3) - 2/3 * hedging"
    assert tvc.json("status")["new_vectors"] == ["brief", "hedging", "listen"]
    tvc("scale", "brief", "0.5")
    tvc("scale", "listen", "-1")
    assert tvc.recipe() == "base + ties(-1 * listen, 0.5 * brief; density=0.3) - 2/3 * hedging"
    tvc("scale", "ties(-1 * listen, 0.5 * brief; density=0.3)", "3")
    tvc("remove", "listen")
    assert tvc.recipe() == "base + 3 * ties(0.5 * brief; density=0.3) - 2/3 * hedging"
    tvc("remove", "ties(0.5 * brief; density=0.3)")
    tvc("commit", "-m", "x")


def test_a_vector_brings_what_it_was_trained_on(tvc, repo, models, tmp_path):
    from cli_bench import save_model, tuned

    tvc("switch", "listen")
    on_top = save_model(tmp_path / "x", tuned(tvc.model(), 60))
    tvc("commit", on_top, "-m", "on top", "--name", "on_top")
    tvc("switch", "main")
    tvc("add", "on_top")
    assert tvc.json("status")["new_vectors"] == ["listen", "on_top"]
    tvc("commit", "-m", "x")
    assert tvc.recipe() == "base + on_top"
    tvc("add", "listen")
    tvc("commit", "-m", "both")
    assert same(tvc.model(), tensors(on_top))


def test_arithmetic_is_what_it_says(tvc, repo, models):
    tvc("add", "listen", "--scale", "0.5")
    tvc("negate", "brief")
    tvc("commit", "-m", "x")
    base, listen, brief = (tensors(models / name) for name in ("base", "listen", "brief"))
    for name, found in tvc.model().items():
        expected = (
            base[name].double()
            + 0.5 * (listen[name].double() - base[name].double())
            - (brief[name].double() - base[name].double())
        )
        assert torch.equal(found, expected.to(torch.bfloat16))


ERRORS = {
    "a vector that is not": (["add", "lisen"], "no branch has a vector 'lisen'", "did you mean 'listen'?"),
    "a method that is not": (["commit", "-m", "x"], "no merge method 'tiez'", "did you mean 'ties'?"),
    "a coefficient of zero": (["add", "listen", "--scale", "0"], "a term with the coefficient 0 adds nothing", ""),
    "a coefficient in words": (["add", "listen", "--scale", "half"], "'half' is not a number", "write 0.8, 1e-3 or 1/5"),
    "a division by zero": (["add", "listen", "--scale", "1/0"], "divides by zero", ""),
    "a term that does not parse": (["add", "listen +"], "expected the name of a vector", "^"),
    "a term not there": (["scale", "hedging", "2"], "the recipe has no term 'hedging'", ""),
    "a term nearly there": (["remove", "breif"], "the recipe has no term 'breif'", "did you mean 'brief'?"),
    "scaled to nothing": (["scale", "brief", "0"], "a coefficient of 0 removes the term", "tvc remove brief"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, tvc, repo):
    tvc("switch", "brief")
    arguments, message, hint = ERRORS[case]
    if arguments[0] == "commit":
        tvc("add", "tiez(listen, brief)")
    before = tvc.json("status")
    error = tvc.fails(*arguments)
    assert message in error
    assert hint in error
    assert tvc.json("status") == before


def test_a_vector_in_several_places_is_not_guessed(tvc, repo):
    tvc("add", "ties(listen, brief; density=0.2) + dare(listen; density=0.5)")
    assert "listen is in the recipe 2 times" in tvc.fails("scale", "listen", "2")


def test_a_vector_that_branches_disagree_on(tvc, repo, models, tmp_path):
    from cli_bench import save_model, tuned

    tvc("switch", "-c", "other", "main")
    other = save_model(tmp_path / "x", tuned(tensors(models / "base"), 50))
    tvc("commit", other, "-m", "another listen", "--name", "listen")
    tvc("switch", "main")
    error = tvc.fails("add", "listen")
    assert "vector 'listen' is not the same on listen, other" in error


def test_numbers_that_could_not_be_read_again(tvc, repo):
    """Sums of long fractions have longer denominators; a recipe must stay readable."""
    tvc("add", "listen", "--scale", "1/123456789012345678901234567")
    error = tvc.fails("add", "listen", "--scale", "1/98765432109876543210987653")
    assert "is not a number of at most 40 characters" in error
    assert tvc.recipe() == "base + 1/123456789012345678901234567 * listen"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 1\n", "base must be a string"),
        ('format = 2\nbase = "base"\nterms = []\n', "recipe.toml has format 2, expected 1"),
        ('format = 1\nbase = "bas"\nterms = []\n', "there is no base 'bas' here"),
        ('format = 1\nbase = "base"\nterms = ["listen listen"]\n', "expected the end of the term"),
        ('format = 1\nbase = "base"\nterms = ["breif"]\n', "there is no vector 'breif' here"),
        ('format = 1\nbase = "base"\nterms = []\nnew = 1\n', "unknown key 'new'"),
        ("no toml", "recipe.toml: "),
        ("", "recipe.toml has format None"),
    ],
)
def test_edits_by_hand_that_are_wrong(text, message, tvc, repo):
    (repo / "recipe.toml").write_text(text)
    assert message in tvc.fails("commit", "-m", "x")
    (repo / "recipe.toml").unlink()
    assert "recipe.toml" in tvc.fails("commit", "-m", "x")


def test_edits_by_hand(tvc, repo):
    tvc("switch", "listen")
    path = repo / "recipe.toml"
    path.write_text(path.read_text().replace('"listen"', '"0.5*listen", "1/4 * listen"'))
    assert tvc.json("status")["changes"] == ["listen: 1 → 0.75"]
    assert "listen: 1 → 0.75" in tvc("diff")
    tvc("commit", "-m", "by hand")
    # Written as tvc writes it.
    assert path.read_text() == 'format = 1\nbase = "base"\nterms = [\n  "0.75 * listen",\n]\n'


def test_nothing_edited(tvc, repo):
    assert "nothing to commit: the recipe is as HEAD has it" in tvc.fails("commit", "-m", "x")
    assert "say what the commit is for" in tvc.fails("commit")
    tvc("add", "listen")
    assert "a commit needs a message" in tvc.fails("commit", "-m", " ")
