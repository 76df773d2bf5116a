"""tvc vectors, import and export."""

import filecmp
import math
import subprocess
import sys

import pytest
import torch
from cli_bench import SHAPES, save_adapter, save_model, tensors, tuned


def test_list(tvc, repo):
    tvc("merge", "--ties", "listen", "brief")
    rows = {row["name"]: row for row in tvc.json("vectors")}
    assert list(rows) == ["brief", "hedging", "listen"]
    assert rows["listen"]["branches"] == ["listen", "main"]
    assert rows["listen"]["used_by"] == ["listen", "main"]
    assert rows["listen"]["terms"] == ["ties(brief, listen; density=0.2)"]
    assert rows["hedging"]["used_by"] == ["hedging"]
    assert rows["hedging"]["terms"] == []
    assert rows["brief"]["kind"] == "fine-tune"
    assert rows["brief"]["trained_from"] == "base"
    assert 0 < rows["brief"]["changed_share"] < 1
    assert tvc.json("vectors", "list") == list(rows.values())
    lines = tvc("vectors").splitlines()
    assert [line[0] for line in lines[1:]] == ["*", " ", "*"]


def test_list_of_nothing(tvc, models, tmp_path, monkeypatch):
    tvc("init", "new", "--base", models / "base")
    monkeypatch.chdir(tmp_path / "new")
    assert "no vectors yet" in tvc("vectors")
    assert tvc.json("vectors") == []


def test_list_shows_edits_and_twins(tvc, repo, models, tmp_path):
    tvc("switch", "-c", "other", "main")
    other = save_model(tmp_path / "x", tuned(tensors(models / "base"), 50))
    tvc("commit", other, "-m", "another listen", "--name", "listen")
    tvc("switch", "main")
    tvc("add", "brief")
    rows = tvc.json("vectors")
    assert [row["name"] for row in rows].count("listen") == 2
    assert [row["terms"] for row in rows if row["name"] == "brief"] == [["brief"]]


def test_list_loads_no_torch(repo):
    code = "import sys; from tvc.cli.main import _run; _run(['vectors']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_inspect_is_what_numpy_says(tvc, repo, models):
    facts = tvc.json("vectors", "inspect", "listen")
    base, listen = tensors(models / "base"), tensors(models / "listen")
    deltas = {name: (listen[name].float() - base[name].float()).double() for name in base}

    def expect(part, names):
        flat = torch.cat([deltas[name].flatten() for name in names])
        assert part["norm"] == pytest.approx(float(flat.norm()), rel=1e-12)
        assert part["largest"] == float(flat.abs().max())
        assert part["elements"] == flat.numel()
        assert part["changed"] == int(flat.count_nonzero())
        assert part["sparsity"] == 1 - part["changed"] / part["elements"]

    expect(facts["total"], SHAPES)
    assert list(facts["layers"]) == [
        "model.embed_tokens",
        "model.layers.0",
        "model.layers.2",
        "model.layers.10",
        "model.norm",
    ]
    for layer, part in facts["layers"].items():
        expect(part, [name for name in SHAPES if name.startswith(f"{layer}.")])
    assert sorted(facts["kinds"]) == ["embed_tokens", "norm", "q_proj", "up_proj"]
    expect(facts["kinds"]["q_proj"], [name for name in SHAPES if "q_proj" in name])
    assert facts["raw_bytes"] == sum(2 * math.prod(shape) for shape in SHAPES.values())
    assert facts["changed_tensors"] == 5
    assert facts["provenance"]["trained_from"] == "base"
    assert tvc.json("vectors", "inspect", "listen") == facts


def test_inspect_in_words(tvc, repo):
    said = tvc("vectors", "inspect", "listen")
    for words in (
        "vector listen: fine-tune",
        "from    base",
        "by layer",
        "by kind of weight",
        "sparsity",
    ):
        assert words in said


def test_inspect_of_a_vector_on_a_sum(tvc, repo, tmp_path):
    tvc("merge", "--ties", "listen", "brief")
    before = tvc.model()
    on_top = tuned(before, 30, names=["model.norm.weight"])
    tvc(
        "commit",
        save_model(tmp_path / "x", on_top, chat_template__jinja="new"),
        "-m",
        "x",
        "--name",
        "x",
    )
    facts = tvc.json("vectors", "inspect", "x")
    delta = on_top["model.norm.weight"].float() - before["model.norm.weight"].float()
    assert facts["total"]["norm"] == pytest.approx(float(delta.double().norm()))
    assert facts["total"]["elements"] == sum(math.prod(shape) for shape in SHAPES.values())
    assert facts["changed_files"] == ["chat_template.jinja"]
    assert facts["trained_from"] == "base + ties(brief, listen; density=0.2)"
    assert facts["layers"]["model.layers.0"]["norm"] == 0


def test_integers_are_not_measured(tvc, tmp_path, monkeypatch):
    base = {"w.weight": torch.ones(4), "ids": torch.arange(4)}
    save_model(tmp_path / "base", base)
    save_model(tmp_path / "tuned", {"w.weight": torch.full((4,), 3.0), "ids": torch.arange(1, 5)})
    tvc("init", "new", "--base", tmp_path / "base")
    monkeypatch.chdir(tmp_path / "new")
    tvc("commit", "../tuned", "-m", "x")
    facts = tvc.json("vectors", "inspect", "tuned")
    assert facts["unmeasured"] == ["ids"]
    assert facts["total"] == {
        "norm": 4.0,
        "largest": 2.0,
        "sparsity": 0.0,
        "changed": 4,
        "elements": 4,
    }
    assert "not measured" in tvc("vectors", "inspect", "tuned")


def test_compare(tvc, repo, models):
    found = tvc.json("vectors", "compare", "listen", "brief", "hedging")
    assert [pair["between"] for pair in found] == [
        ["listen", "brief"],
        ["listen", "hedging"],
        ["brief", "hedging"],
    ]
    base, listen, brief = (tensors(models / name) for name in ("base", "listen", "brief"))
    one, other = (
        torch.cat([(m[name].double() - base[name].double()).flatten() for name in SHAPES])
        for m in (listen, brief)
    )
    assert found[0]["total"]["cosine"] == pytest.approx(
        float(one @ other / one.norm() / other.norm())
    )
    both = (one != 0) & (other != 0)
    conflicts = ((one * other < 0) & both).sum() / both.sum()
    assert found[0]["total"]["sign_conflicts"] == pytest.approx(float(conflicts))
    said = tvc("vectors", "compare", "listen", "brief")
    assert said.startswith("interference of listen and brief\n")


def test_compare_branches_against_their_merge_base(tvc, repo):
    tvc("merge", "listen")
    for name, vector in (("one", "brief"), ("two", "hedging")):
        tvc("switch", "-c", name, "main")
        tvc("add", vector)
        tvc("commit", "-m", name)
    found = tvc.json("vectors", "compare", "one", "two")
    assert found[0]["total"] == tvc.json("vectors", "compare", "brief", "hedging")[0]["total"]
    mixed = tvc.json("vectors", "compare", "one", "brief")
    assert mixed[0]["between"] == ["one", "brief"]


ERRORS = {
    "inspect nothing": (["inspect", "lisen"], "no branch has a vector 'lisen'", "did you mean 'listen'?"),
    "inspect without a name": (["inspect"], "Missing argument 'NAME'", ""),
    "compare one": (["compare", "listen"], "name two or more", ""),
    "compare with itself": (["compare", "listen", "listen"], "name two or more different", ""),
    "compare nothing": (["compare", "listen", "breif"], "there is no vector, branch or commit 'breif'", "did you mean 'brief'?"),
    "compare what changed nothing": (["compare", "listen", "main"], "main changed nothing since the merge base", ""),
    "no such command": (["inspct", "listen"], "there is no command 'inspct'", "did you mean 'inspect'?"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, tvc, repo):
    arguments, message, hint = ERRORS[case]
    error = tvc.fails("vectors", *arguments)
    assert message in error
    assert hint in error


def product(scale: float, folder) -> torch.Tensor:
    from safetensors.torch import load_file

    factors = load_file(folder / "adapter_model.safetensors")
    up = next(value for name, value in factors.items() if "lora_B" in name)
    down = next(value for name, value in factors.items() if "lora_A" in name)
    return scale * (up.double() @ down.double())


def test_import_adds_and_commits(tvc, repo, models):
    said = tvc("import", models / "lora", "--name", "warm", "-m", "Warmer")
    assert "vector warm: an adapter of 1 tensor, stored in " in said
    assert "of the weights changed, in 1 of 5 tensors" in said
    assert tvc.recipe() == "base + warm"
    assert tvc.json("show")["message"] == "Warmer"
    name = "model.layers.0.mlp.up_proj.weight"
    base = tensors(models / "base")
    expected = base[name].float() + product(2.0, models / "lora").float()
    assert torch.equal(tvc.model()[name], expected.to(torch.bfloat16))
    facts = tvc.json("vectors", "inspect", "warm")
    assert facts["kind"] == "adapter"
    assert facts["total"]["norm"] == pytest.approx(
        float(product(2.0, models / "lora").norm()), rel=1e-5
    )


def test_import_facts_and_remarks(tvc, repo, models, tmp_path):
    folder = save_adapter(tmp_path / "lora", base="Qwen/Other")
    (folder / "optimizer.pt").write_bytes(b"x")
    tvc("switch", "listen")
    facts = tvc.json("import", folder, "--name", "warm", "-m", "x")
    assert facts["name"] == "warm"
    assert facts["commit"] == tvc.json("show")["commit"]
    assert facts["recipe"] == "base + listen + warm"
    assert facts["changed_tensors"] == 1
    assert len(facts["remarks"]) == 3
    tvc("undo")
    tvc("import", folder, "--name", "warm", "-m", "x")
    assert "remark: the adapter says it was trained on Qwen/Other, the base here is " in tvc.err
    assert "remark: it counts as trained on base + listen" in tvc.err
    assert "left out: optimizer.pt" in tvc.err
    tvc("undo")
    tvc("-q", "import", folder, "--name", "warm", "-m", "x")
    assert tvc.err == ""
    # What the fine-tune below it gives, and the adapter: no arithmetic is between them.
    assert tvc.json("show")["terms"] == ["listen", "warm"]


def test_import_without_commit_and_without_term(tvc, repo, models):
    before = tvc.json("show")["commit"]
    said = tvc("import", models / "lora", "--name", "warm", "--no-commit")
    assert "(record it with: tvc commit -m …)" in said
    assert tvc.json("show")["commit"] == before
    assert tvc.json("status")["new_vectors"] == ["warm"]
    tvc("commit", "-m", "Warmer")
    assert tvc.recipe() == "base + warm"
    tvc("import", models / "lora", "--name", "spare", "--no-add", "-m", "Keep")
    assert tvc.recipe() == "base + warm"
    assert {row["name"] for row in tvc.json("vectors")} >= {"spare", "warm"}
    tvc("add", "spare", "--scale", "-1")
    tvc("commit", "-m", "x")
    assert tvc.recipe() == "base + warm - spare"


IMPORT_ERRORS = {
    "no message": ([], {}, "say what the commit is for: -m MESSAGE, or say --no-commit"),
    "no such layer": (["-m", "x"], {"target": "model.layers.9.mlp.up_proj"}, "model.layers.9.mlp.up_proj.weight"),
    "another shape": (["-m", "x"], {"shape": (20, 8)}, "of shape [20, 8], the base model has [12, 8]"),
    "dora": (["-m", "x"], {"use_dora": True}, "uses use_dora"),
    "biases": (["-m", "x"], {"bias": "all"}, "trains biases"),
    "no lora": (["-m", "x"], {"peft_type": "IA3"}, "peft_type is IA3"),
    "untrained": (["-m", "x"], {"size": 0.0}, "this would change no weight and no file"),
    "whole modules": (["-m", "x"], {"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPORT_ERRORS)
def test_import_errors(case, tvc, repo, tmp_path):
    arguments, options, message = IMPORT_ERRORS[case]
    save_adapter(tmp_path / "lora", **options)
    before = tvc.json("log", "--all")
    assert message in tvc.fails("import", "../lora", "--name", "warm", *arguments)
    assert tvc.json("log", "--all") == before
    assert tvc.recipe() == "base"


def test_import_of_what_is_no_adapter(tvc, repo, models):
    assert "tvc commit DIR" in tvc.fails("import", models / "listen", "--name", "x", "-m", "x")
    assert "nowhere" in tvc.fails("import", "../nowhere", "--name", "x", "-m", "x")
    tvc("switch", "listen")
    error = tvc.fails("import", models / "lora", "--name", "listen", "-m", "x")
    assert "'listen' is the name of something else here" in error
    tvc("add", "brief")
    assert "uncommitted changes" in tvc.fails("import", models / "lora", "--name", "x", "-m", "x")


def test_export_is_byte_for_byte(tvc, repo, models, tmp_path):
    tvc("import", models / "lora", "--name", "warm", "-m", "x")
    tvc("switch", "listen")
    assert tvc("export", "warm", "-o", "../warm") == "wrote ../warm\n"
    names = sorted(path.name for path in (models / "lora").iterdir())
    assert sorted(path.name for path in (tmp_path / "warm").iterdir()) == names
    assert filecmp.cmpfiles(models / "lora", tmp_path / "warm", names, shallow=False) == (
        names,
        [],
        [],
    )
    assert "is not empty" in tvc.fails("export", "warm", "-o", "../warm")
    (tmp_path / "warm" / "README.md").write_text("changed")
    tvc("export", "warm", "-o", "../warm", "--force")
    assert filecmp.cmpfiles(models / "lora", tmp_path / "warm", names, shallow=False)[0] == names


def test_export_errors(tvc, repo, tmp_path):
    assert "listen is a whole fine-tune, not an adapter" in tvc.fails(
        "export", "listen", "-o", "../x"
    )
    assert "tvc checkout" in tvc.err
    assert "no branch has a vector 'wram'" in tvc.fails("export", "wram", "-o", "../x")
    assert "Missing option" in tvc.fails("export", "listen")
    assert not (tmp_path / "x").exists()


def test_adapters_minus_themselves_are_nothing(tvc, repo, models):
    """PEFT's own weighted combinations of factors leave 0.45 to 1.07 of the norm here."""
    tvc("import", models / "lora", "--name", "one", "--no-add", "-m", "x")
    tvc("import", models / "lora", "--name", "two", "--no-add", "-m", "x")
    tvc("add", "one - two + listen")
    tvc("commit", "-m", "x")
    from cli_bench import same

    assert same(tvc.model(), tensors(models / "listen"))
