"""tvc merge --from-mergekit: which models are meant, what is committed, and what it gives."""

import shutil

import pytest
import torch
from cli_bench import save_model, tensors, tuned

from tvc.merging.registry import find_method


def write(
    path, *, method="task_arithmetic", base="base", models=("listen", "brief"), more=""
) -> str:
    """Write a file in which every model has the weight 0.5."""
    lines = [f"merge_method: {method}"]
    lines += [f"base_model: {base}"] if base else []
    own = "" if method == "slerp" else ", parameters: {weight: 0.5}"
    lines += ["models:", *(f"- {{model: {m}{own}}}" for m in models)]
    path.write_text("\n".join([*lines, more]))
    return str(path)


@pytest.fixture
def config(repo):
    return repo.parent / "merge.yaml"


def planned(tvc, path) -> str:
    said = tvc("merge", "--dry-run", "--from-mergekit", path)
    return next(line for line in said.splitlines() if line.startswith("recipe: ")).removeprefix(
        "recipe: "
    )


def test_a_merge_of_branches(tvc, repo, config, models):
    write(config)
    assert planned(tvc, config) == "base + 0.5 * brief + 0.5 * listen"
    said = tvc("merge", "--from-mergekit", config)
    assert "of the weights changed" in said
    shown = tvc.json("show")
    assert shown["message"] == "Merge listen, brief by task_arithmetic, as merge.yaml says"
    commits = {each["name"]: each["commit"] for each in tvc.json("branch")}
    assert shown["parents"][1:] == [commits["listen"], commits["brief"]]
    base, listen, brief = (tensors(models / name) for name in ("base", "listen", "brief"))
    for name, found in tvc.model().items():
        start = base[name].float()
        step = 0.5 * (brief[name].float() - start) + 0.5 * (listen[name].float() - start)
        torch.testing.assert_close(found.float(), start + step, rtol=2**-8, atol=0)


def test_ties_gives_what_the_method_gives(tvc, repo, config, models):
    write(config, method="ties", more="parameters: {density: 0.3, lambda: 0.7}")
    tvc("merge", "--from-mergekit", config, "-m", "by file")
    assert tvc.json("show")["message"] == "by file"
    base, listen, brief = (tensors(models / name) for name in ("base", "listen", "brief"))
    ties = find_method("ties")
    options = ties.check_options({"density": 0.3, "normalize": "weights"})
    for name, found in tvc.model().items():
        deltas = torch.stack([m[name].float() - base[name].float() for m in (brief, listen)])
        merged = ties.merge(
            deltas, options=options, weights=torch.tensor([0.5, 0.5]), statistics={}
        )
        assert torch.equal(found, (base[name].float() + merged * 0.7).to(torch.bfloat16)), name


NAMES = {
    "branches": ("base", "listen", "brief"),
    "hub ids": ("org/base", "me/listen", "somebody/Brief"),
    "folders": ("/models/base", "./runs/listen/", "../runs/brief"),
    "mixed": ("base", "listen", "refs/brief"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_of_models(case, tvc, repo, config):
    base, *models = NAMES[case]
    write(config, base=base, models=models)
    assert planned(tvc, config) == "base + 0.5 * brief + 0.5 * listen"


def test_names_of_tags_vectors_and_sources(tvc, repo, config, models, tmp_path):
    tvc("tag", "v1", "listen")
    shutil.copytree(models / "formal", tmp_path / "run-17")
    tvc("switch", "-c", "side", "main")
    tvc("commit", tmp_path / "run-17", "-m", "x", "--name", "polite")
    tvc("switch", "main")
    for name in ("polite", "run-17", "somewhere/else/run-17"):
        write(config, models=("v1", name))
        assert planned(tvc, config) == "base + 0.5 * listen + 0.5 * polite"


def test_a_vector_is_the_model_that_was_trained(tvc, repo, config, tmp_path):
    """What it was trained on is part of it."""
    tvc("switch", "listen")
    on_top = save_model(tmp_path / "x", tuned(tvc.model(), 90))
    tvc("switch", "-c", "top", "listen")
    tvc("commit", on_top, "-m", "x", "--name", "on_top")
    tvc("switch", "main")
    write(config, models=("on_top", "brief"))
    assert planned(tvc, config) == "base + 0.5 * brief + 0.5 * listen + 0.5 * on_top"
    write(config, method="slerp", models=("base", "on_top"), more="parameters: {t: 1}")
    tvc("merge", "--from-mergekit", config)
    found = tvc.model()
    for name, weight in tensors(on_top).items():
        torch.testing.assert_close(found[name], weight, rtol=2**-8, atol=1e-6)


def test_vectors_alone_make_a_plain_commit(tvc, repo, config):
    tvc("merge", "listen")
    tvc("add", "brief")
    tvc("commit", "-m", "both")
    tvc("switch", "-c", "fresh", "main~2")
    tvc("branch", "listen", "-d")
    write(config, models=("listen", "brief"), more="parameters: {normalize: true}")
    tvc("merge", "--from-mergekit", config)
    assert tvc.recipe() == "base + 0.5 * brief + 0.5 * listen"


def test_a_branch_as_base_model(tvc, repo, config):
    for name in ("brief", "hedging"):
        tvc("switch", "-c", f"with_{name}", "listen")
        tvc("add", name)
        tvc("commit", "-m", name)
    tvc("switch", "listen")
    write(config, base="listen", models=("with_brief", "with_hedging"))
    assert planned(tvc, config) == "base + 0.5 * brief + 0.5 * hedging + listen"
    write(config, method="dare_ties", base="listen", models=("with_brief", "with_hedging"))
    found = planned(tvc, config)
    assert found.startswith("base + dare_ties(0.5 * brief, 0.5 * hedging; density=1, ")
    assert found.endswith(") + listen")
    assert "seed=0" in found
    said = tvc("merge", "--dry-run", "--seed", "5", "--from-mergekit", config)
    assert "seed=5" in said
    assert "the random draws are tvc's, not mergekit's: their seed is 5" in tvc.err


def test_what_head_has_is_not_dropped(tvc, repo, config):
    tvc("merge", "hedging")
    write(config)
    assert "main has changes that the file leaves out" in tvc.fails(
        "merge", "--from-mergekit", config
    )
    write(config, models=("main", "brief"))
    assert planned(tvc, config) == "base + 0.5 * brief + 0.5 * hedging"


TYPES = {
    "the model's": ("dtype: bfloat16", ""),
    "the model's, as torch says": ("dtype: torch.bfloat16", ""),
    "wider inside": ("dtype: float32\nout_dtype: bfloat16", ""),
    "another": ("dtype: float16", "the file asks for F16, the base model is BF16"),
    "wider outside": ("dtype: float32", "the file asks for F32, the base model is BF16"),
    "narrower inside": (
        "dtype: float16\nout_dtype: bfloat16",
        "dtype: F16 is not what tvc computes in",
    ),
}


@pytest.mark.parametrize("case", TYPES)
def test_types(case, tvc, repo, config):
    more, refusal = TYPES[case]
    write(config, more=more)
    if refusal:
        assert refusal in tvc.fails("merge", "--from-mergekit", config)
    else:
        assert planned(tvc, config) == "base + 0.5 * brief + 0.5 * listen"


def test_carried_files_that_differ_are_a_conflict(tvc, talkers):
    config = talkers.parent / "merge.yaml"
    tvc("switch", "main")
    write(config, models=("formal", "casual"))
    error = tvc.fails("merge", "--from-mergekit", config, code=4)
    assert "1 conflict in recipe.toml" in error
    tvc("merge", "--abort")
    tvc("merge", "--from-mergekit", config, "--theirs")
    tvc("checkout", "-o", "../out")
    assert (talkers.parent / "out" / "chat_template.jinja").exists()


def test_not_committed(tvc, repo, config):
    write(config)
    tvc("merge", "--from-mergekit", config, "--no-commit")
    assert tvc.json("status")["merging"]
    tvc("commit")
    assert len(tvc.json("show")["parents"]) == 3


ERRORS = {
    "no such model": ({"models": ["listen", "breif"]}, "no branch, tag or vector here is the model 'breif'", "did you mean 'brief'?"),
    "no such base": ({"base": "Qwen/Other"}, "no branch, tag or vector here is the model 'Qwen/Other'", ""),
    "gradients": ({"more": "parameters: {weight: [0, 1]}"}, "merge.yaml: parameters: weight differs from layer to layer", ""),
    "slices": ({"more": "slices: []"}, "merge.yaml: slices cannot be said here", "write models:"),
    "an adapter": ({"models": ["listen+lora"]}, "adds an adapter on the way", "tvc import"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, tvc, repo, config):
    options, message, hint = ERRORS[case]
    write(config, **options)
    before = tvc.json("status")
    error = tvc.fails("merge", "--from-mergekit", config)
    assert message in error
    assert hint in error
    assert tvc.json("status") == before


def test_ambiguous_models(tvc, repo, config):
    tvc("branch", "ada/run", "listen")
    tvc("branch", "eve/run", "brief")
    write(config, models=("x/run", "hedging"))
    assert "model 'x/run' could be ada/run or eve/run" in tvc.fails(
        "merge", "--from-mergekit", config
    )


def test_models_on_another_base(tvc, repo, config, models):
    tvc("switch", "-c", "elsewhere", "listen")
    tvc("rebase", "--onto", models / "other_base")
    tvc("switch", "main")
    write(config, models=("elsewhere", "brief"))
    assert "stands on another base than HEAD" in tvc.fails(
        "merge", "--from-mergekit", config, code=4
    )


@pytest.mark.parametrize(
    "more",
    [
        ["listen"],
        ["--ties"],
        ["--method", "ties"],
        ["--density", "1"],
        ["--lambda", "2"],
        ["--like", "peft"],
        ["-O", "x=1"],
        ["--weight", "a=1"],
        ["--no-ff"],
    ],
)
def test_the_file_says_it_all(more, tvc, repo, config):
    write(config)
    assert "leave the rest out" in tvc.fails("merge", "--from-mergekit", config, *more)


def test_files_that_are_none(tvc, repo, config):
    assert "does not exist" in tvc.fails("merge", "--from-mergekit", "../nowhere.yaml")
    config.write_bytes(b"\xff\xfe")
    assert "merge.yaml is not UTF-8" in tvc.fails("merge", "--from-mergekit", config)
    config.write_text("a: &a [*a]")
    assert "anchors and aliases" in tvc.fails("merge", "--from-mergekit", config)
    config.write_bytes(b"a" * (2 << 20))
    assert "larger than" in tvc.fails("merge", "--from-mergekit", config)
