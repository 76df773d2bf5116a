"""tvc export --lora: what is written, printed and refused."""

import contextlib
import json

import pytest
import torch
from cli_bench import FILES, SHAPES, copied, save_adapter, save_model, tensors, tuned, weights_of
from safetensors.torch import load_file

from tvc.cli.main import _run

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository on main; branch listen has a fine-tune, branch warm an adapter beside."""
    root = tmp_path_factory.mktemp("llama")
    base, models = weights_of(0, torch.float32), root / "models"
    save_model(models / "base", base, config__json=CONFIG)
    save_model(models / "listen", tuned(base, 1, share=1.0), config__json=CONFIG)
    changed = base | {"model.norm.weight": base["model.norm.weight"] + 1}
    save_model(
        models / "norms", changed, config__json=CONFIG, chat_template__jinja="other {{ messages }}"
    )
    save_adapter(models / "lora")
    with contextlib.chdir(root):
        quietly("init", "repo", "--base", models / "base")
    with contextlib.chdir(root / "repo"):
        for name in ("listen", "norms"):
            quietly("switch", "-c", name, "main")
            quietly("commit", models / name, "-m", name, "--name", name)
        quietly("switch", "-c", "warm", "listen")
        quietly("import", models / "lora", "--name", "warm", "-m", "Warmer")
        quietly("switch", "main")
    return root


def quietly(*words):
    """Run tvc where no fixture catches what it prints."""
    assert _run(["-q", *map(str, words)]) == 0


@pytest.fixture
def llama(tvc, made, tmp_path, monkeypatch):
    """A copy of it, whose repository is the current folder."""
    root = copied(made, tmp_path / "llama")
    monkeypatch.chdir(root / "repo")
    return root


def products(folder):
    found = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    modules = {name.split(".lora_")[0] for name in found}
    return {
        f"{module.removeprefix('base_model.model.')}.weight": scale
        * found[f"{module}.lora_B.weight"].double()
        @ found[f"{module}.lora_A.weight"].double()
        for module in modules
    }


def test_what_is_written_is_said_and_as_json(tvc, llama):
    facts = tvc.json("export", "listen", "--lora", "--rank", "3", "-o", "../out")
    before, after = tensors(llama / "models" / "base"), tensors(llama / "models" / "listen")
    squares = {name: float((after[name] - before[name]).double().square().sum()) for name in SHAPES}
    found = products(llama / "out")
    assert sorted(found) == sorted(facts["matrices"])
    total = sum(squares.values())
    assert facts["energy"] == pytest.approx(total, rel=1e-6)
    kept = {
        name: 1 - float((after[name] - before[name] - found[name]).square().sum()) / squares[name]
        for name in found
    }
    for name, share in kept.items():
        assert facts["matrices"][name]["kept"] == pytest.approx(share, abs=1e-6)
    whole = sum(kept[name] * squares[name] for name in kept) / total
    assert facts["kept"] == pytest.approx(whole, abs=1e-6)
    assert facts["left_out"]["embeddings"]["share"] == pytest.approx(
        squares["model.embed_tokens.weight"] / total, abs=1e-6
    )
    assert facts["layers"]["model.norm"]["kept"] == 0
    said = tvc("export", "listen", "--lora", "--rank", "3", "-o", "../again")
    assert "wrote ../again: 3 matrices at rank 3, " in said
    assert f"listen: {whole:.2%} of its energy is in the adapter" in said
    assert f"  norms: 1 tensor, {squares['model.norm.weight'] / total:.2%} of the energy" in said
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (llama / "out" / name).read_bytes() == (llama / "again" / name).read_bytes()


def test_the_rank_follows_from_the_energy(tvc, llama):
    facts = tvc.json("export", "listen", "--lora", "--energy", "0.4", "-o", "../out")
    assert facts["kept"] >= 0.4
    less = str(facts["rank"] - 1)
    assert tvc.json("export", "listen", "--lora", "--rank", less, "-o", "../x")["kept"] < 0.4
    again = tvc.json(
        "export", "listen", "--lora", "--rank", "auto", "--energy", "0.4", "-o", "../y"
    )
    assert again["rank"] == facts["rank"]
    error = tvc.fails("export", "listen", "--lora", "-o", "../z")
    assert "of the energy at most, not 0.9: the rest is in embeddings, norms" in error
    assert not (llama / "z").exists()


def test_an_adapter_at_its_rank_keeps_its_factors(tvc, llama):
    facts = tvc.json("export", "warm", "--lora", "--rank", "2", "-o", "../out")
    assert (facts["rank"], facts["scale"], facts["kept"]) == (2, 2.0, 1.0)
    assert facts["matrices"][UP]["own_factors"]
    assert facts["left_out"] == {}
    own = load_file(llama / "models" / "lora" / "adapter_model.safetensors")
    found = load_file(llama / "out" / "adapter_model.safetensors")
    assert own.keys() == found.keys()
    assert all(torch.equal(own[key], found[key]) for key in own)


def test_what_changed_between_two_revisions(tvc, llama):
    one = tvc.json("export", "listen..warm", "--lora", "--rank", "2", "-o", "../one")
    assert one["matrices"][UP]["own_factors"]
    both = tvc.json("export", "main..warm", "--lora", "--rank", "8", "-o", "../both")
    assert both["rank"] == 8
    listen = products(llama / "both")[UP] - products(llama / "one")[UP]
    tvc("export", "listen", "--lora", "--rank", "8", "-o", "../listen")
    assert torch.allclose(listen, products(llama / "listen")[UP], atol=1e-6)
    back = tvc.json("export", "listen..main", "--lora", "--rank", "8", "-o", "../back")
    assert back["kept"] < 1
    assert torch.allclose(products(llama / "back")[UP], -listen, atol=1e-6)
    assert "nothing changed between" in tvc.fails(
        "export", "main..main", "--lora", "--rank", "1", "-o", "../x"
    )


def test_what_a_merge_made(tvc, llama):
    tvc("switch", "-c", "merged", "main")
    tvc("merge", "--ties", "listen", "warm", "--density", "0.5", "-m", "Both")
    facts = tvc.json("export", "main..merged", "--lora", "--rank", "8", "-o", "../out")
    before = tensors(llama / "models" / "base")
    after = tvc.model()
    for name, product in products(llama / "out").items():
        difference = (after[name] - before[name]).double()
        assert torch.allclose(product, difference, atol=1e-6)
        assert facts["matrices"][name]["energy"] == pytest.approx(
            float(difference.square().sum()), rel=1e-4
        )
    error = tvc.fails("export", "main...merged", "--lora", "--rank", "8", "-o", "../x")
    assert ".merged" in error


def test_what_an_adapter_cannot_hold_is_said(tvc, llama):
    error = tvc.fails("export", "norms", "--lora", "--rank", "4", "-o", "../x")
    assert "there is nothing in it that an adapter could hold, only norms" in error
    assert "tvc checkout" in error
    assert not (llama / "x").exists()
    tvc("switch", "norms")
    tvc("add", "listen")
    tvc("commit", "-m", "Both")
    said = tvc("export", "main..norms", "--lora", "--rank", "4", "-o", "../x")
    assert "  files: chat_template.jinja\n" in said


def test_it_can_be_taken_in_again(tvc, llama):
    tvc("export", "listen", "--lora", "--rank", "8", "-o", "../out")
    tvc("switch", "-c", "again", "main")
    tvc("import", "../out", "--name", "again", "-m", "x")
    facts = tvc.json("export", "again", "--lora", "--rank", "8", "-o", "../twice")
    assert facts["kept"] == 1
    one, other = (llama / name / "adapter_model.safetensors" for name in ("out", "twice"))
    assert one.read_bytes() == other.read_bytes()


REFUSED = {
    "a rank without --lora": (["listen", "--rank", "4"], "--rank is for --lora"),
    "an energy without --lora": (["listen", "--energy", "0.5"], "--energy is for --lora"),
    "a target without --lora": (["listen", "--target", "q_proj"], "--target is for --lora"),
    "no rank": (["listen", "--lora", "--rank", "big"], "is no rank: write a number from 1 on"),
    "rank 0": (["listen", "--lora", "--rank", "0"], "is no rank"),
    "a long rank": (["listen", "--lora", "--rank", "9" * 5000], "is no rank"),
    "both": (["listen", "--lora", "--rank", "4", "--energy", "1"], "--energy is for --rank auto"),
    "energy 0": (["listen", "--lora", "--energy", "0"], "is above 0 and at most 1, not 0.0"),
    "energy nan": (["listen", "--lora", "--energy", "nan"], "is above 0 and at most 1"),
    "no such vector": (["listne", "--lora"], "no branch has a vector 'listne'"),
    "no such revision": (["main..nowhere", "--lora"], "nowhere"),
    "no such module": (["listen", "--lora", "--target", "q"], "q is no module of Llama"),
    "a module it lacks": (
        ["listen", "--lora", "--rank", "2", "--target", "v_proj"],
        "nothing in it that an adapter could hold",
    ),
    "a whole fine-tune": (["listen"], "listen is a whole fine-tune, not an adapter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tvc, llama):
    words, message = REFUSED[case]
    assert message in tvc.fails("export", *words, "-o", "../x")
    assert sorted(path.name for path in llama.iterdir()) == ["models", "repo"]


def test_what_is_there_is_replaced_only_with_force(tvc, llama):
    words = ["export", "listen", "--lora", "-o", "../out", "--rank"]
    tvc(*words, "2")
    before = (llama / "out" / "adapter_model.safetensors").read_bytes()
    assert "is not empty" in tvc.fails(*words, "3")
    assert (llama / "out" / "adapter_model.safetensors").read_bytes() == before
    tvc(*words, "3", "--force")
    assert (llama / "out" / "adapter_model.safetensors").read_bytes() != before
    (llama / "mine").mkdir()
    (llama / "mine" / "notes.txt").write_text("x")
    assert "does not hold a model" in tvc.fails(
        "export", "listen", "--lora", "--rank", "2", "-o", "../mine", "--force"
    )


def test_an_architecture_that_nobody_knows(tvc, tmp_path, monkeypatch):
    base = weights_of(0)
    save_model(tmp_path / "base", base)
    save_model(tmp_path / "listen", tuned(base, 1))
    assert "architectures" not in FILES["config.json"]
    tvc("init", "repo", "--base", tmp_path / "base")
    with contextlib.chdir(tmp_path / "repo"):
        tvc("commit", tmp_path / "listen", "-m", "x", "--name", "listen")
        error = tvc.fails("export", "listen", "--lora", "-o", "../x")
    assert "config.json of the base does not name one architecture" in error
