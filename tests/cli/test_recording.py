"""tvc init and tvc commit of a model directory."""

import json
import os
import shutil

import pytest
import torch
from cli_bench import SHAPES, same, save_model, tensors, tuned


def test_init_says_what_it_found(tvc, models, tmp_path):
    said = tvc("init", "new", "--base", models / "base")
    assert said.startswith(f"started {tmp_path / 'new'} on base: 5 tensors, ")
    assert (
        tmp_path / "new" / "recipe.toml"
    ).read_text() == 'format = 1\nbase = "base"\nterms = []\n'
    assert (tmp_path / "new" / ".gitignore").read_text() == "/.tvc/\n/checkouts/\n"


def test_init_here_and_with_a_name(tvc, models, tmp_path):
    tvc("init", "--base", models / "base", "--name", "qwen")
    assert tvc.recipe() == "qwen"
    assert "is a tvc repository already" in tvc.fails("init", "--base", models / "base")


def test_init_in_a_git_repository_keeps_its_files(tvc, models, tmp_path):
    import subprocess

    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".gitignore").write_text("*.log\n")
    subprocess.run(["git", "init", "-q"], check=True)
    tvc("init", "--base", models / "base")
    assert (tmp_path / "notes.txt").read_text() == "x"
    assert (tmp_path / ".gitignore").read_text() == "*.log\n"
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
    assert status.stdout.splitlines() == ["?? .gitignore", "?? notes.txt"]


def test_a_vendored_base_may_go_away(tvc, models, tmp_path, monkeypatch):
    shutil.copytree(models / "base", tmp_path / "base")
    for name, flags in (("kept", ["--vendor"]), ("borrowed", [])):
        tvc("init", name, "--base", tmp_path / "base", *flags)
    shutil.rmtree(tmp_path / "base")
    monkeypatch.chdir(tmp_path / "kept")
    assert same(tvc.model(), tensors(models / "base"))
    monkeypatch.chdir(tmp_path / "borrowed")
    error = tvc.fails("checkout", "-o", "../out", code=3)
    assert "error: " in error
    assert "hint: " in error
    assert not (tmp_path / "out").exists()


INIT_ERRORS = {
    "no such model": (["new", "--base", "nowhere"], "nowhere"),
    "no model in it": (["new", "--base", "."], ""),
    "no base": (["new"], "Missing option '--base'"),
    "a file": (["afile", "--base", "BASE"], "is not a folder"),
    "not empty": (["full", "--base", "BASE"], "is not empty"),
    "no folder above": (["a/b/c", "--base", "BASE"], "there is no folder"),
    "a bad name": (["new", "--base", "BASE", "--name", "../x"], "cannot name a base"),
}


@pytest.mark.parametrize("case", INIT_ERRORS)
def test_init_errors(case, tvc, models, tmp_path):
    (tmp_path / "afile").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    arguments, message = INIT_ERRORS[case]
    words = [models / "base" if word == "BASE" else word for word in arguments]
    assert message in tvc.fails("init", *words)
    assert not (tmp_path / "new").exists() or not (tmp_path / "new" / "recipe.toml").exists()


def test_commit_says_what_it_took_in(tvc, repo, models):
    said = tvc("commit", models / "formal", "-m", "Be formal")
    lines = said.splitlines()
    assert lines[0].startswith("[main ")
    assert lines[0].endswith("] vector formal")
    assert lines[1].strip().endswith("of the weights changed, in 5 of 5 tensors")
    assert lines[2].strip().startswith("stored in ")
    assert lines[3] == "  changed files: chat_template.jinja"
    assert tvc.recipe() == "base + formal"
    shown = tvc.json("show")
    assert shown["message"] == "Be formal"
    assert shown["changes"] == ["added formal"]


def test_a_fine_tune_on_top_of_a_merge_comes_back(tvc, repo, tmp_path):
    tvc("merge", "--ties", "listen", "brief", "--density", "0.5")
    tvc("add", "hedging", "--scale", "-0.3")
    tvc("commit", "-m", "composed")
    on_top = tuned(tvc.model(), 70, names=["model.norm.weight"])
    tvc("commit", save_model(tmp_path / "x", on_top), "-m", "on top", "--name", "on_top")
    assert tvc.recipe() == "base + ties(brief, listen; density=0.5) - 0.3 * hedging + on_top"
    assert same(tvc.model(), on_top)
    assert tvc.json("vectors", "inspect", "on_top")["changed_tensors"] == 1


def variant(folder, base, **changes):
    weights = dict(base)
    for name, weight in changes.items():
        if weight is None:
            del weights[name]
        else:
            weights[name] = weight
    return save_model(folder, weights)


NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"


def test_mismatches_are_named_and_can_be_allowed(tvc, repo, models, tmp_path):
    base = tuned(tensors(models / "base"), 5)
    grown = torch.cat([base[EMBEDDING], base[EMBEDDING][:2]])
    cases = [
        ("less", {NORM: None}, "lacks tensors", ["--allow-missing", NORM]),
        ("more", {"extra": torch.ones(2)}, "has tensors", ["--drop-extra", "extra"]),
        ("grown", {EMBEDDING: grown}, "has shape [18, 8]", ["--resize-vocab"]),
        ("wide", {NORM: base[NORM].float()}, "is F32 in the fine-tune and BF16", ["--allow-dtype"]),
    ]
    for name, changes, message, allowed in cases:
        folder = variant(tmp_path / name, base, **changes)
        error = tvc.fails("commit", folder, "-m", "x")
        assert message in error
        assert next(iter(changes)) in error
        assert allowed[0] in error
        assert tvc.recipe() == "base"
        tvc("commit", folder, "-m", "x", *allowed)
        model = tvc.model()
        expected = {key: value for key, value in tensors(folder).items() if key in SHAPES}
        assert same({key: model[key] for key in expected}, expected)
        tvc("undo")
    other = variant(tmp_path / "bent", base, **{NORM: torch.ones(9, dtype=torch.bfloat16)})
    assert "has shape [9]" in tvc.fails("commit", other, "-m", "x", "--allow-dtype")


COMMIT_ERRORS = {
    "no message": (["MODELS/listen"], "say what the commit is for: -m MESSAGE"),
    "an empty message": (["MODELS/listen", "-m", ""], "a commit needs a message"),
    "the base itself": (["MODELS/base", "-m", "x", "--name", "same"], "is what HEAD already gives, bit for bit"),
    "no such folder": (["MODELS/nowhere", "-m", "x"], "nowhere"),
    "an adapter": (["MODELS/lora", "-m", "x"], ""),
    "a bad name": (["MODELS/listen", "-m", "x", "--name", "a b"], "'a b' cannot name a vector"),
    "the base's name": (["MODELS/listen", "-m", "x", "--name", "Base"], "'base' is the name of something else"),
    "options without a folder": (["-m", "x", "--name", "y"], "are for a model: name its DIR"),
    "nothing edited": (["-m", "x"], "nothing to commit"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMIT_ERRORS)
def test_commit_errors(case, tvc, repo, models):
    arguments, message = COMMIT_ERRORS[case]
    before = tvc.json("log", "--all")
    error = tvc.fails("commit", *(word.replace("MODELS", str(models)) for word in arguments))
    assert message in error
    assert tvc.json("log", "--all") == before


def test_a_name_is_taken(tvc, repo, models):
    tvc("switch", "listen")
    error = tvc.fails("commit", models / "brief", "-m", "x", "--name", "listen")
    assert "'listen' is the name of something else here" in error


def test_names_made_of_folders(tvc, repo, models, tmp_path):
    shutil.copytree(models / "brief", tmp_path / "Run 7 (best!)")
    tvc("commit", tmp_path / "Run 7 (best!)", "-m", "x")
    assert tvc.recipe() == "base + 'Run_7_best_'"


def test_commit_needs_a_clean_tree(tvc, repo, models):
    tvc("add", "listen")
    assert "uncommitted changes" in tvc.fails("commit", models / "brief", "-m", "x")


def test_nobody_commits(tvc, repo, models, monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    error = tvc.fails("commit", models / "listen", "-m", "x")
    assert "git config --global user.name" in error


def test_checkout_writes_a_whole_model(tvc, repo, models, tmp_path):
    tvc("checkout", "listen", "-o", "../served", "--shard-size", "300B")
    served = tmp_path / "served"
    names = sorted(path.name for path in served.iterdir())
    assert "README.md" in names
    assert "tvc.json" in names
    assert "model.safetensors.index.json" in names
    assert (served / "config.json").read_bytes() == (models / "listen" / "config.json").read_bytes()
    assert "is not empty" in tvc.fails("checkout", "listen", "-o", "../served")
    tvc("checkout", "listen", "-o", "../served", "--force", "--verify")
    assert same(tensors(served), tensors(models / "listen"))


def test_checkout_in_its_default_place_is_not_git_s(tvc, repo):
    import subprocess

    tvc("checkout", "listen")
    assert (repo / "checkouts" / "listen" / "model.safetensors").exists()
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True)
    assert status.stdout == b""


def test_checkout_json_and_dry_run(tvc, repo, tmp_path):
    planned = tvc.json("checkout", "listen", "--dry-run")
    assert planned["restore"] == 5
    assert planned["recipe"] == "base + listen"
    assert "5 restored" in tvc("checkout", "listen", "--dry-run")
    assert not (tmp_path / "out").exists()
    facts = tvc.json("checkout", "listen", "-o", "../out", "--verify")
    assert facts["tensors"] == 5
    assert facts["verified"]
    assert facts["recipe_id"] == planned["recipe_id"]
    assert facts["bytes"] == planned["write_bytes"]


def test_checkout_casts(tvc, repo, models):
    tvc("checkout", "listen", "-o", "../out", "--dtype", "float32")
    written = tensors(repo.parent / "out")
    listen = tensors(models / "listen")
    assert all(torch.equal(written[name], listen[name].float()) for name in listen)


CHECKOUT_ERRORS = {
    "no revision": (["nowhere"], "there is no revision 'nowhere'"),
    "no folder above": (["-o", "../a/b"], "there is no folder"),
    "the repository": (["-o", ".", "--force"], "holds the repository itself"),
    "inside the store": (["-o", ".tvc/x"], "holds the repository itself"),
    "a file": (["-o", "recipe.toml"], "is not a folder"),
    "no size": (["-o", "../out", "--shard-size", "big"], "big"),
    "no type": (["-o", "../out", "--dtype", "int8"], "--dtype"),
}


@pytest.mark.parametrize("case", CHECKOUT_ERRORS)
def test_checkout_errors(case, tvc, repo):
    arguments, message = CHECKOUT_ERRORS[case]
    assert message in tvc.fails("checkout", *arguments)


def test_a_folder_that_holds_no_model_is_not_replaced(tvc, repo, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "does not hold a model" in tvc.fails("checkout", "-o", "../mine", "--force")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_damage_is_found_and_named(tvc, repo, tmp_path):
    """One flipped bit of one object: no weights, exit code 3, the vector and tensor named."""
    tvc("checkout", "listen", "-o", "../before")
    tensor = "model.layers.10.self_attn.q_proj.weight"
    identity = json.loads((tmp_path / "before" / "tvc.json").read_text())["tensors"][tensor]
    (stored,) = (repo / ".tvc" / "objects").rglob(f"*{identity[8:]}*")
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(bytes(data))
    error = tvc.fails("checkout", "listen", "-o", "../after", code=3)
    assert tensor in error
    assert "listen" in error
    assert "tvc fsck --repair" in error
    assert not (tmp_path / "after").exists()
    tvc("checkout", "brief", "-o", "../brief")
    assert "listen" in tvc("fsck", code=3)
    # What others read of it is refused too.
    tvc.fails("vectors", "inspect", "listen", code=3)
    tvc.fails("merge", "--ties", "listen", "brief", code=3)
    assert tvc.recipe() == "base"


def test_a_damaged_base_is_named_by_a_commit(tvc, models, tmp_path, monkeypatch):
    """Its first bytes are as they were, so that it is found out while tensors are stored."""
    shutil.copytree(models / "base", tmp_path / "base")
    tvc("init", "new", "--base", tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    status, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.chdir(tmp_path / "new")
    error = tvc.fails("commit", models / "listen", "-m", "x", code=3)
    assert "no longer holds" in error
    assert "needed by tensor '" in error
    assert "of base 'base'" in error
    assert tvc.recipe() == "base"


def test_what_is_the_parents_is_recorded_though_the_parent_cannot_be_read(tvc, models, tmp_path):
    """It is known by its id; only what differs is compared with the parent."""
    shutil.copytree(models / "base", tmp_path / "base")
    tvc("init", "new", "--base", tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    shutil.copytree(models / "base", tmp_path / "same")
    (tmp_path / "same" / "config.json").write_text('{"model_type": "other"}')
    said = tvc("-C", tmp_path / "new", "commit", tmp_path / "same", "-m", "Another config")
    assert "0.00% of the weights changed, in 0 of 5 tensors" in said
    error = tvc.fails("-C", tmp_path / "new", "commit", models / "listen", "-m", "x", code=3)
    assert "is gone" in error
