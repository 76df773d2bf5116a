"""What the real vLLM loads in silence although it is wrong, tvc refuses to write, by name.

Each folder is written by hand, as some careless tool might, and given to both. What vLLM refuses
itself is shown too, where tvc says it first, and what it takes under other names.
"""

import json
import re

import engines
import makers
import pytest
import torch
from safetensors.torch import load_file, save_file

from tvc.cli.main import _run

pytestmark = pytest.mark.slow

DOWN = "model.layers.0.mlp.down_proj.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


class Folder:
    """A tiny model that is about to be spoilt."""

    def __init__(self, path, kind, **options):
        self.path = makers.write_tiny(path, kind, **options)
        self.kind = kind

    def change(self, edit):
        """Change the tensors, given as a dict."""
        tensors = load_file(self.path / "model.safetensors")
        edit(tensors)
        save_file(tensors, self.path / "model.safetensors", metadata={"format": "pt"})
        return self

    def configure(self, **said):
        """Change config.json; None takes something out."""
        config = json.loads((self.path / "config.json").read_text()) | said
        config = {key: value for key, value in config.items() if value is not None}
        (self.path / "config.json").write_text(json.dumps(config))
        return self

    def served(self, **options):
        """Load it in vLLM, and return what that says."""
        with engines.fresh_engine(self.path, **options) as engine:
            return engines.generated(engine)

    def is_refused_by_vllm(self, words):
        with pytest.raises(Exception, match=words), engines.fresh_engine(self.path):
            pass

    def checked_out(self, capsys, *options):
        """Give it to tvc, and return its exit code and its error."""
        capsys.readouterr()  # what others said so far
        repo = self.path.with_name("repo")
        code = _run(["-q", "init", str(repo), "--base", str(self.path), "--name", "base"])
        if code == 0:
            target = str(self.path.with_name("out"))
            code = _run(["-q", "-C", str(repo), "checkout", "-o", target, *options])
        return code, capsys.readouterr().err

    def is_refused_by_tvc(self, capsys, *words):
        code, said = self.checked_out(capsys)
        assert code != 0
        assert not self.path.with_name("out").exists()
        for word in words:
            assert word in said, said


def without(*names):
    def edit(tensors):
        for name in names:
            del tensors[name]

    return edit


def renamed(pattern, by):
    def edit(tensors):
        for name in list(tensors):
            tensors[re.sub(pattern, by, name)] = tensors.pop(name)

    return edit


def added(**tensors):
    return lambda there: there.update({name.replace("__", "."): t for name, t in tensors.items()})


@pytest.mark.parametrize("name", [DOWN, QUERY, HEAD])
def test_a_missing_tensor_is_whatever_lies_in_memory(name, tmp_path, capsys):
    folder = Folder(tmp_path / "model", "llama").change(without(name))
    assert folder.served()  # not a word
    folder.is_refused_by_tvc(capsys, f"{name} is missing")


def test_a_head_that_vllm_does_not_tie(tmp_path, capsys):
    folder = Folder(tmp_path / "model", "qwen3-next", tie_word_embeddings=True)
    assert HEAD not in load_file(folder.path / "model.safetensors")
    with engines.fresh_engine(folder.path, dtype="bfloat16") as engine:
        held = engines.loaded_values(engine)
    assert not torch.equal(held[HEAD], held[TABLE])
    folder.is_refused_by_tvc(capsys, HEAD, "vLLM's Qwen3NextForCausalLM does not")


def test_an_unexpected_bias_is_dropped(tmp_path, capsys):
    bias = torch.full((128,), 0.5)
    folder = Folder(tmp_path / "model", "qwen3", attention_bias=True)
    folder.change(lambda there: there.update({"model.layers.0.self_attn.o_proj.bias": bias}))
    said = folder.served()
    texts = [text for text, _ in said]
    computed = engines.recomputed(folder.path, "qwen3", texts)
    assert (
        max(engines.divergence(ours, its) for (_, its), ours in zip(said, computed, strict=True))
        > 0.1
    )
    folder.is_refused_by_tvc(capsys, "model.layers.0.self_attn.o_proj.bias", "no place")


def test_biases_of_gated_attention_are_dropped(tmp_path, capsys):
    folder = Folder(tmp_path / "model", "qwen3.5", attention_bias=True)
    assert folder.served(dtype="bfloat16")
    folder.is_refused_by_tvc(capsys, ".bias", "no place")


def test_a_head_that_differs_from_what_it_is_tied_to(tmp_path, capsys):
    folder = Folder(tmp_path / "model", "llama", tie_word_embeddings=True)
    folder.change(lambda there: there.update({HEAD: there[TABLE].flip(0).contiguous()}))
    with engines.fresh_engine(folder.path) as engine:
        held = engines.loaded_values(engine)
    assert torch.equal(held[HEAD], held[TABLE].flip(0))  # it wins, whatever config.json says
    folder.is_refused_by_tvc(capsys, HEAD, TABLE)


def test_the_names_of_another_class(tmp_path, capsys):
    folder = Folder(tmp_path / "model", "llama")
    folder.change(renamed(r"^model\.", "model.language_model."))
    folder.is_refused_by_vllm("language_model")
    folder.is_refused_by_tvc(capsys, "model.language_model.embed_tokens.weight", TABLE)


def test_what_is_fused_already(tmp_path, capsys):
    def fuse(tensors):
        at = "model.layers.0.linear_attn.in_proj_"
        parts = [tensors.pop(f"{at}{part}.weight") for part in ("qkv", "z")]
        tensors[f"{at}qkvz.weight"] = torch.cat(parts)

    folder = Folder(tmp_path / "model", "qwen3.5").change(fuse)
    folder.is_refused_by_vllm("")
    folder.is_refused_by_tvc(capsys, "in_proj_qkvz.weight is fused already")


def test_a_configuration_without_architectures_is_guessed(tmp_path, capsys):
    folder = Folder(tmp_path / "model", "qwen3").configure(architectures=None)
    with engines.fresh_engine(folder.path) as engine:
        assert engine.llm_engine.model_config.runner_type == "pooling"  # it only embeds
    folder.is_refused_by_tvc(capsys, "architectures", "Qwen3ForCausalLM")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (without("model.layers.0.input_layernorm.weight"), "input_layernorm"),
        (added(probe__weight=torch.zeros(2, 2)), "probe"),
        (added(model__norm__weight=torch.zeros(64)), "model.norm"),
    ],
    ids=["norm", "unknown", "shape"],
)
def test_what_vllm_refuses_too(edit, words, tmp_path, capsys):
    folder = Folder(tmp_path / "model", "llama").change(edit)
    folder.is_refused_by_vllm("")
    folder.is_refused_by_tvc(capsys, words)


def test_names_that_vllm_takes_as_well(tmp_path, capsys):
    """The prefix of the model with a vision tower, and tensors of a draft model."""
    folder = Folder(tmp_path / "model", "qwen3.5", dtype=torch.bfloat16)
    plain = folder.served(dtype="bfloat16")
    folder.change(renamed(r"^model\.", "model.language_model."))
    folder.change(added(mtp__fc__weight=torch.zeros(8, 8, dtype=torch.bfloat16)))
    again = folder.served(dtype="bfloat16")
    for (text, said), (other, heard) in zip(plain, again, strict=True):
        assert text == other
        assert torch.equal(said, heard)
    assert folder.checked_out(capsys) == (0, "")


def test_bert_as_it_was_once_named(tmp_path, capsys):
    folder = Folder(tmp_path / "model", "bert")
    with engines.fresh_engine(folder.path) as engine:
        plain = engines.embedded(engine)
    folder.change(renamed(r"LayerNorm\.weight$", "LayerNorm.gamma"))
    folder.change(renamed(r"LayerNorm\.bias$", "LayerNorm.beta"))
    with engines.fresh_engine(folder.path) as engine:
        assert torch.equal(engines.embedded(engine), plain)
    assert folder.checked_out(capsys) == (0, "")


def test_a_way_out(tmp_path, capsys):
    folder = Folder(tmp_path / "model", "llama").change(without(DOWN))
    assert folder.checked_out(capsys, "--unservable") == (0, "")
    assert (tmp_path / "out" / "model.safetensors").is_file()
