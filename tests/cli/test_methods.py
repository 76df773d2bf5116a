"""tvc merge by a method: what each option does to the recipe and to the weights."""

import pytest
import torch
from cli_bench import same

BASE = "base + "


def merged(tvc, *arguments) -> str:
    """Return the recipe that a merge would have."""
    said = tvc("-q", "merge", "--dry-run", *arguments)
    return next(line for line in said.splitlines() if line.startswith("recipe: ")).removeprefix(
        "recipe: "
    )


CASES = {
    "density is written": (["--ties", "listen", "brief"], "ties(brief, listen; density=0.2)"),
    "density": (
        ["--ties", "--density", "0.3", "listen", "brief"],
        "ties(brief, listen; density=0.3)",
    ),
    "density as a fraction": (
        ["--ties", "--density", "1/5", "listen", "brief"],
        "ties(brief, listen; density=0.2)",
    ),
    "density of each": (
        ["--ties", "listen", "brief", "-O", "density=[0.3, 0.5]"],
        "ties(listen, brief; density=[0.3, 0.5])",
    ),
    "density of each by its flag": (
        ["--ties", "listen", "brief", "--density", "[0.3,1/2]"],
        "ties(listen, brief; density=[0.3, 0.5])",
    ),
    "scope": (
        ["--ties", "--scope", "vector", "listen", "brief"],
        "ties(brief, listen; density=0.2, scope=vector)",
    ),
    "normalize": (
        ["--ties", "--normalize", "weights", "listen", "brief"],
        "ties(brief, listen; density=0.2, normalize=weights)",
    ),
    "method by name": (["--method", "ties", "listen", "brief"], "ties(brief, listen; density=0.2)"),
    "method said twice": (
        ["--method", "ties", "--ties", "listen", "brief"],
        "ties(brief, listen; density=0.2)",
    ),
    "lambda": (
        ["--ties", "--lambda", "1.5", "listen", "brief"],
        "1.5 * ties(brief, listen; density=0.2)",
    ),
    "weight": (
        ["--ties", "--weight", "listen=0.5", "listen", "brief"],
        "ties(0.5 * listen, brief; density=0.2)",
    ),
    "weights": (
        ["--ties", "--weight", "listen=1/3", "--weight", "brief=-2", "listen", "brief"],
        "ties(-2 * brief, 1/3 * listen; density=0.2)",
    ),
    "seed is written": (["--dare", "listen", "brief"], "dare(brief, listen; density=0.5, seed=0)"),
    "seed": (
        ["--dare", "--seed", "7", "listen", "brief"],
        "dare(brief, listen; density=0.5, seed=7)",
    ),
    "any option": (
        ["--della", "-O", "epsilon=0.1", "-O", "rescale=none", "listen", "brief"],
        "della(brief, listen; density=0.5, epsilon=0.1, rescale=none, seed=0)",
    ),
    "a method with a dash": (
        ["--dare-ties", "listen", "brief"],
        "dare_ties(brief, listen; density=0.5, seed=0)",
    ),
    "a hidden flag": (["--model-stock", "listen", "brief"], "model_stock(brief, listen)"),
    "like peft": (
        ["--ties", "--like", "peft", "listen", "brief"],
        "ties(brief, listen; density=0.2, election=mass, kept=floor, normalize=count, scope=tensor, weights_after_election=true, zero_sum=positive)",
    ),
    "like mergekit, but": (
        ["--ties", "--like", "mergekit", "--normalize", "count", "listen", "brief"],
        "ties(brief, listen; density=0.2, election=mass, kept=at_least_one, normalize=count, scope=tensor, weights_after_election=false, zero_sum=positive)",
    ),
    "like the paper": (
        ["--dare", "--like", "paper", "listen"],
        "dare(listen; density=0.5, rescale=density, seed=0)",
    ),
    "one branch": (["--breadcrumbs", "listen"], "breadcrumbs(listen; density=0.1)"),
    "slerp": (["--slerp", "listen", "-O", "t=0.3"], "slerp(0, listen; t=0.3)"),
}


@pytest.mark.parametrize("case", CASES)
def test_options_in_the_recipe(case, tvc, repo):
    arguments, expected = CASES[case]
    assert merged(tvc, *arguments) == BASE + expected


def test_linear_is_the_sum_that_it_is(tvc, repo):
    assert merged(tvc, "--linear", "listen", "brief") == "base + 1/3 * brief + 1/3 * listen"
    assert (
        merged(tvc, "--linear", "listen", "brief", "--weight", "main=2")
        == "base + 0.25 * brief + 0.25 * listen"
    )


@pytest.mark.parametrize(
    ("term", "folded"),
    [
        ("linear(listen, 3 * brief)", "3/4 * brief + 1/4 * listen"),
        ("linear(listen, brief; base_weight=2)", "0.25 * brief + 0.25 * listen"),
        ("linear(0.25 * listen, 0.75 * brief; normalize=false)", "3/4 * brief + 1/4 * listen"),
        (
            "2 * linear(listen, brief; base_weight=0.5, normalize=true)",
            "0.8 * brief + 0.8 * listen",
        ),
    ],
)
def test_linear_by_hand_is_the_sum_that_it_is(term, folded, tvc, repo):
    found = []
    for text in (term, folded):
        tvc("add", text)
        tvc("commit", "-m", "x")
        found.append((tvc.json("show")["recipe_id"], tvc.model()))
        tvc("undo")
        tvc("undo")
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            "linear(0.5 * listen, brief; normalize=false)",
            "add up to 1.5, which would scale the base model",
        ),
        ("linear(listen, -1 * brief)", "add up to zero"),
        ("linear(listen; density=0.5)", "linear(…) has an option that it cannot have"),
        ("linear(listen; normalize=count)", "linear(…) has an option that it cannot have"),
    ],
)
def test_linear_that_is_no_sum_of_vectors(term, message, tvc, repo):
    tvc("add", term)
    assert message in tvc.fails("commit", "-m", "x")
    assert tvc("status")


REFUSED = {
    "an unknown method": (["--method", "tiez", "listen"], "no merge method 'tiez'", "did you mean 'ties'?"),
    "two methods": (["--method", "dare", "--ties", "listen"], "--method dare and --ties are two methods", ""),
    "an unknown option": (["--ties", "-O", "densty=0.2", "listen"], "ties has no option 'densty'", "did you mean 'density'?"),
    "an option of no method": (["--density", "0.2", "listen"], "--density is for a merge method", "--ties"),
    "a preset of no method": (["--like", "peft", "listen"], "--like is for a merge method", ""),
    "a weight of no method": (["--weight", "listen=2", "listen"], "are for a merge method", ""),
    "lambda of no method": (["--lambda", "2", "listen"], "are for a merge method", ""),
    "a weight of nobody": (["--ties", "--weight", "lisen=2", "listen"], "--weight lisen: it is not among what is merged", "merged are: main, listen"),
    "a weight without a number": (["--ties", "--weight", "listen=much", "listen"], "'much' is not a number", "write 0.8, 1e-3 or 1/5"),
    "a weight without a name": (["--ties", "--weight", "2", "listen"], "'2' is not NAME=VALUE", ""),
    "a density out of range": (["--ties", "--density", "1.5", "listen"], "ties: density cannot be", "it is a number from 0 up to 1"),
    "a density in words": (["--ties", "--density", "few", "listen"], "ties: density cannot be 'few'", ""),
    "too few densities": (["--ties", "-O", "density=[0.1, 0.2, 0.3]", "listen", "brief"], "density has 3 values for 2 vectors", ""),
    "too many members": (["--nearswap", "listen", "brief"], "nearswap merges 1 vectors, and was given 2", ""),
    "too few members": (["--model-stock", "listen"], "model_stock merges 2 or more vectors, and was given 1", ""),
    "a branch that is not": (["--ties", "lisen"], "there is no revision 'lisen'", ""),
    "no branch": ([], "name the branches to merge", ""),
    "a seed below zero": (["--dare", "--seed", "-1", "listen"], "--seed", ""),
    "a weight of zero": (["--ties", "--weight", "listen=0", "listen", "brief"], "weight", ""),
    "lambda of zero": (["--ties", "--lambda", "0", "listen", "brief"], "lambda", ""),
}  # fmt: skip


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, dry, tvc, repo):
    arguments, message, hint = REFUSED[case]
    before = tvc.json("status")
    error = tvc.fails("merge", *dry, *arguments)
    assert message in error
    assert hint in error
    assert tvc.json("status") == before


def test_a_merge_by_ties_is_committed_and_gives_weights(tvc, repo):
    said = tvc("merge", "--ties", "listen", "brief", "--density", "0.5")
    assert "of the weights changed" in said
    shown = tvc.json("show")
    assert shown["message"] == "Merge listen, brief by ties"
    assert len(shown["parents"]) == 3
    assert shown["terms"] == ["ties(brief, listen; density=0.5)"]
    assert not same(tvc.model(), tvc.model("HEAD~1"))


def test_ours_is_a_member_where_it_changed_something(tvc, repo):
    tvc("switch", "listen")
    assert merged(tvc, "--ties", "brief") == "base + ties(brief, listen; density=0.2)"


def test_a_merge_over_a_common_past(tvc, repo):
    """What both sides have already is not merged again."""
    tvc("merge", "listen")
    for name in ("brief", "hedging"):
        tvc("switch", "-c", f"with_{name}", "main")
        tvc("add", name)
        tvc("commit", "-m", name)
    assert (
        merged(tvc, "--ties", "with_brief") == "base + listen + ties(brief, hedging; density=0.2)"
    )


def test_a_density_that_keeps_nothing_is_refused(tvc, repo):
    error = tvc.fails("merge", "--ties", "--density", "0", "listen", "brief")
    assert "this would change no weight and no file" in error
    assert "density" in error


def test_lambda_scales(tvc, repo):
    base = tvc.model("main")
    tvc("merge", "--ties", "--density", "1", "listen", "--no-ff")
    once = tvc.model()
    tvc("undo")
    tvc("merge", "--ties", "--density", "1", "--lambda", "-1", "listen", "--no-ff")
    back = tvc.model()
    for name, weight in base.items():
        step = once[name].float() - weight.float()
        torch.testing.assert_close(back[name].float(), weight.float() - step, atol=1e-3, rtol=0)


def test_interference_in_numbers(tvc, repo):
    said = tvc("merge", "--dry-run", "--ties", "listen", "brief", "hedging")
    pairs = [line for line in said.splitlines() if line.startswith("interference of ")]
    assert pairs == [
        "interference of listen and brief",
        "interference of listen and hedging",
        "interference of brief and hedging",
    ]
    layers = [line.split()[0] for line in said.splitlines() if line.startswith("  model.")]
    assert layers[:5] == [
        "model.embed_tokens",
        "model.layers.0",
        "model.layers.2",
        "model.layers.10",
        "model.norm",
    ]
    assert "one side alone" in tvc("merge", "--dry-run", "listen")
