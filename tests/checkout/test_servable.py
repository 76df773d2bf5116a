"""What vLLM would serve wrongly is refused by name, before anything is written.

That the real vLLM takes such a model in silence, or refuses it itself, is shown in tests/vllm.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from workbench import Bench

from tvc.checkout.servable import Unservable, check_servable
from tvc.checkout.temporary import checked_out
from tvc.checkout.writing import Checkout
from tvc.models.architectures import expected_tensors
from tvc.models.directory import ModelDirectory
from tvc.repository.objects import Objects, open_objects
from tvc_store.dtypes import TensorSpec

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": False,
}
QWEN3 = LLAMA | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 4,
    "num_key_value_heads": 1,
}
GEMMA = QWEN3 | {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
del GEMMA["tie_word_embeddings"]
HYBRID = QWEN3 | {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
QWEN3_5 = HYBRID | {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text"}
QWEN3_NEXT = HYBRID | {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "num_experts": 2,
    "moe_intermediate_size": 4,
    "shared_expert_intermediate_size": 4,
}
BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TIED = {"tie_word_embeddings": True}
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


def shapes_of(config):
    return dict(expected_tensors(config).shapes)


def check(config, shapes, *, ids=None, files=()):
    return check_servable(config, shapes, ids=ids or {}, files=files)


def refusal(config, shapes, **given):
    with pytest.raises(Unservable) as caught:
        check(config, shapes, **given)
    assert "\n" not in str(caught.value)
    assert "--unservable" in (caught.value.hint or "")
    return str(caught.value)


def without(shapes, *names):
    assert set(names) <= set(shapes)
    return {name: shape for name, shape in shapes.items() if name not in names}


@pytest.mark.parametrize(
    "config", [LLAMA, QWEN3, GEMMA, QWEN3_5, QWEN3_NEXT, BERT], ids=lambda c: c["model_type"]
)
def test_a_whole_model_passes_and_any_tensor_that_is_missing_is_named(config):
    shapes = shapes_of(config)
    assert check(config, shapes)
    for name in shapes:
        said = refusal(config, without(shapes, name))
        assert f"{name} is missing" in said
        assert "memory" in said


def test_several_missing_tensors_are_counted():
    names = [f"model.layers.1.self_attn.{p}_proj.weight" for p in "qkv"]
    said = refusal(LLAMA, without(shapes_of(LLAMA), *names))
    assert said.startswith(f"{names[0]} (and 2 more) are missing")


def test_a_head_may_be_left_out_where_it_is_tied():
    shapes = shapes_of(LLAMA)
    assert HEAD in shapes
    assert check(LLAMA | TIED, without(shapes, HEAD))
    assert check(LLAMA | TIED, shapes)  # it may stand there too
    assert "missing" in refusal(LLAMA, without(shapes, HEAD))


def test_a_head_that_vllm_does_not_tie_has_to_be_there():
    tied = QWEN3_NEXT | TIED
    assert HEAD not in shapes_of(tied)
    said = refusal(tied, shapes_of(tied))
    assert HEAD in said
    assert "does not" in said
    assert check(tied, shapes_of(tied) | {HEAD: (12, 8)})
    assert "shape" in refusal(tied, shapes_of(tied) | {HEAD: (12, 9)})


def test_a_head_that_differs_from_the_table_it_is_tied_to():
    ids = {HEAD: "a" * 64, TABLE: "b" * 64}
    assert check(LLAMA, shapes_of(LLAMA), ids=ids)
    said = refusal(LLAMA | TIED, shapes_of(LLAMA), ids=ids)
    assert HEAD in said
    assert TABLE in said
    assert check(LLAMA | TIED, shapes_of(LLAMA), ids=ids | {HEAD: ids[TABLE]})
    assert check(LLAMA | TIED, shapes_of(LLAMA), ids={HEAD: "a" * 64})  # the other is computed


def test_what_vllm_has_no_place_for():
    extra = {"model.layers.0.self_attn.o_proj.bias": (8,)}
    assert next(iter(extra)) in refusal(QWEN3, shapes_of(QWEN3) | extra)
    assert "probe.weight" in refusal(QWEN3, shapes_of(QWEN3) | {"probe.weight": (2, 2)})


def test_a_bias_that_only_transformers_uses():
    biased = {"attention_bias": True}
    assert "o_proj.bias" in refusal(QWEN3 | biased, shapes_of(QWEN3 | biased))
    assert "q_proj.bias" in refusal(QWEN3_5 | biased, shapes_of(QWEN3_5 | biased))
    assert check(LLAMA | biased, shapes_of(LLAMA | biased))
    assert check(GEMMA | biased, shapes_of(GEMMA | biased))


def test_an_output_layer_that_only_transformers_has():
    untied = GEMMA | {"tie_word_embeddings": False}
    assert HEAD in refusal(untied, shapes_of(untied))
    assert HEAD in refusal(GEMMA, shapes_of(untied))


def test_another_prefix():
    renamed = {
        name.replace("model.", "model.language_model.", 1): shape
        for name, shape in shapes_of(LLAMA).items()
    }
    said = refusal(LLAMA, renamed)
    assert "model.language_model.embed_tokens.weight is model.embed_tokens.weight" in said
    bare = {name.removeprefix("model."): shape for name, shape in shapes_of(QWEN3).items()}
    assert "embed_tokens.weight is model.embed_tokens.weight" in refusal(QWEN3, bare)
    del bare[HEAD]
    assert check(QWEN3, bare, files=["modules.json"])


def test_prefixes_that_vllm_takes():
    renamed = {
        name.replace("model.", "model.language_model.", 1): shape
        for name, shape in shapes_of(QWEN3_5).items()
    }
    assert check(QWEN3_5, renamed)
    assert "down_proj" in refusal(
        QWEN3_5, without(renamed, "model.language_model.layers.0.mlp.down_proj.weight")
    )


def test_bert_as_it_was_once_named():
    once = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): shape
        for name, shape in shapes_of(BERT).items()
    }
    assert once.keys() != shapes_of(BERT).keys()
    assert check(BERT, once)
    assert "gamma is missing" in refusal(BERT, without(once, "embeddings.LayerNorm.gamma"))


def test_what_is_fused_already():
    at = "model.layers.0.linear_attn"
    parts = [f"{at}.in_proj_qkv.weight", f"{at}.in_proj_z.weight"]
    fused = without(shapes_of(QWEN3_5), *parts) | {f"{at}.in_proj_qkvz.weight": (16, 8)}
    said = refusal(QWEN3_5, fused)
    assert f"{at}.in_proj_qkvz.weight is fused already" in said
    assert any("in_proj_qkvz" in name for name in shapes_of(QWEN3_NEXT))  # its own name


def test_another_shape():
    said = refusal(LLAMA, shapes_of(LLAMA) | {DOWN: (6, 8)})
    assert DOWN in said
    assert "[6, 8]" in said
    assert "[8, 6]" in said


def test_a_configuration_without_architectures():
    config = {key: value for key, value in LLAMA.items() if key != "architectures"}
    assert "architectures" in refusal(config, shapes_of(LLAMA))
    assert "architectures" in refusal(config | {"architectures": []}, shapes_of(LLAMA))


def test_what_models_may_have_beside():
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}
    assert check(LLAMA, shapes_of(LLAMA) | rotary)
    assert check(QWEN3_5, shapes_of(QWEN3_5) | {"mtp.fc.weight": (8, 16)})
    pooler = {"pooler.dense.weight": (8, 8), "embeddings.position_ids": (1, 512)}
    assert check(BERT, shapes_of(BERT) | pooler)
    assert "mtp.fc.weight" in refusal(LLAMA, shapes_of(LLAMA) | {"mtp.fc.weight": (8, 16)})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "test"},
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        LLAMA | {"quantization_config": {"quant_method": "fp8"}},
    ],
    ids=["empty", "type", "t5", "quantized"],
)
def test_of_other_models_nothing_is_said(config):
    assert not check(config, {"a": (1,)})


# Through the commands.


def tensors_of(config, seed):
    """Draw a model's tensors, F32."""
    random = np.random.default_rng(seed)
    return {
        name: (TensorSpec("F32", shape), random.normal(0, 0.1, shape).astype("f4").tobytes())
        for name, shape in shapes_of(config).items()
    }


@pytest.fixture
def headless(tmp_path):
    """A repository of a model that lacks a tensor of a fused group."""
    tensors = tensors_of(LLAMA, 0)
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    return Bench(tmp_path, tensors, LLAMA)


def tvc(bench, *arguments):
    command = [sys.executable, "-m", "tvc", "-C", str(bench.repository.layout.root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_checkout_refuses_before_it_writes_and_writes_when_told(headless):
    target = headless.folder / "serve"
    for options in ([], ["--dry-run"], ["--json"]):
        done = tvc(headless, "checkout", "-o", str(target), *options)
        assert done.returncode == 1
        assert done.stdout == ""
        error, hint = done.stderr.splitlines()
        assert error.startswith("error: model.layers.1.self_attn.k_proj.weight is missing")
        assert hint.endswith("--unservable")
        assert sorted(path.name for path in headless.folder.iterdir()) == ["base", "repo"]
    done = tvc(headless, "checkout", "-o", str(target), "--unservable")
    assert done.returncode == 0, done.stderr
    assert len(ModelDirectory.open(target).entries) == len(shapes_of(LLAMA)) - 1
    assert "unservable" not in (target / "tvc.json").read_text()
    dry = tvc(headless, "checkout", "--unservable", "--dry-run")
    assert "vLLM     not checked" in dry.stdout


def test_a_dry_run_says_what_was_checked(tmp_path):
    bench = Bench(tmp_path, tensors_of(LLAMA, 0), LLAMA)
    assert "vLLM     finds every tensor" in tvc(bench, "checkout", "--dry-run").stdout
    assert json.loads(tvc(bench, "checkout", "--dry-run", "--json").stdout)["servable"] is True
    written = tvc(bench, "checkout", "-o", str(tmp_path / "out"), "--json")
    assert json.loads(written.stdout)["servable"] is True
    assert "vLLM" not in tvc(bench, "checkout", "-o", str(tmp_path / "two")).stdout


def test_an_unknown_architecture_is_written_and_only_a_dry_run_says_so(tmp_path):
    bench = Bench(tmp_path, tensors_of(LLAMA, 0), {"model_type": "test"})
    dry = tvc(bench, "checkout", "--dry-run")
    assert "vLLM     not checked" in dry.stdout
    done = tvc(bench, "checkout", "-o", str(tmp_path / "out"))
    assert done.returncode == 0
    assert "vLLM" not in done.stdout + done.stderr
    assert json.loads(tvc(bench, "checkout", "--dry-run", "--json").stdout)["servable"] is None


def test_a_head_that_the_class_ties_and_a_vector_changed(tmp_path):
    """Nothing in config.json says that it is tied: opening such a model refuses nothing."""
    gemma = GEMMA | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
    base = tensors_of(gemma, 0)
    base[HEAD] = base[TABLE]
    bench = Bench(tmp_path, base, gemma)
    assert planned(bench)
    bench.commit("a", base | {HEAD: tensors_of(LLAMA, 1)[HEAD]}, gemma)
    with pytest.raises(Unservable, match="differs from"):
        planned(bench)


def planned(bench):
    """Check what HEAD's recipe gives."""
    with open_objects(bench.repository.layout) as store:
        state = bench.repository.state_at("HEAD")
        return Checkout(Objects(store, state), state.recipe, commit="").check_servable()


def test_what_is_read_by_tvc_itself_is_not_checked(headless):
    """Evaluations and trainings load with transformers, which says itself what is missing."""
    state = headless.repository.state_at("HEAD")
    with checked_out(headless.repository.layout, state) as folder:
        assert ModelDirectory.open(folder).entries
