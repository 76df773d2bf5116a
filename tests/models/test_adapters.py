"""Adapters: our factors' product is what PEFT merges, and the folder comes back byte for byte."""

import json
import warnings
from fractions import Fraction

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers

from tvc.models.adapter_config import BadAdapter, LoraOptions, UnsupportedAdapter
from tvc.models.adapters import AdapterDirectory, MisfitAdapter, write_adapter

_SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}


def _llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SMALL))


def _gpt2():
    config = transformers.GPT2Config(
        vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=32, tie_word_embeddings=False
    )
    return transformers.GPT2LMHeadModel(config)


def _save(folder, model, **options):
    """Save a LoRA adapter with random factors; return its base's and its merged model's tensors."""
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT announces that it saves embeddings, and flips flags
        tuned = peft.get_peft_model(model, peft.LoraConfig(**options))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        tuned.save_pretrained(folder)
        merged = tuned.merge_and_unload().state_dict()
    return base, merged


def _product(adapter, factors):
    def matrix(entry):
        return adapter.read(entry).view(np.float32).reshape(entry.spec.shape)

    product = float(factors.scale) * (matrix(factors.up) @ matrix(factors.down))
    return torch.from_numpy(product.T if factors.transposed else product)


_CASES = {
    "llama": (_llama, {"r": 4, "lora_alpha": 7, "target_modules": ["q_proj", "down_proj"]}),
    "rslora": (_llama, {"r": 3, "lora_alpha": 8, "use_rslora": True, "target_modules": ["v_proj"]}),
    "patterns": (
        _llama,
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": "all-linear",
            "rank_pattern": {
                "q_proj": 2,
                "^model.layers.1.mlp.*": 3,
                "proj": 7,
                "layers.0.mlp.up_proj": 5,
            },
            "alpha_pattern": {r"layers.[0-9]+.mlp.(up|down)_proj": 3, "model.layers.0.*": 5},
        },
    ),
    "rslora with patterns": (
        _llama,
        {
            "r": 4,
            "use_rslora": True,
            "target_modules": ["k_proj", "o_proj"],
            "rank_pattern": {"o_proj": 2},
            "alpha_pattern": {"k_proj": 16},
        },
    ),
    "embedding": (_llama, {"r": 4, "target_modules": ["embed_tokens", "lm_head"]}),
    "orthogonal": (
        _llama,
        {"r": 4, "init_lora_weights": "orthogonal", "target_modules": ["q_proj"]},
    ),
    "gpt2": (_gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gpt2 embedding": (_gpt2, {"r": 4, "target_modules": ["wte", "c_fc"], "fan_in_fan_out": True}),
    "gpt2, wrong flag": (_gpt2, {"r": 4, "target_modules": ["c_attn", "lm_head"]}),
}


@pytest.mark.parametrize("case", _CASES)
def test_the_product_is_what_peft_merges(case, tmp_path):
    make, options = _CASES[case]
    base, merged = _save(tmp_path, make(), **options)
    adapter = AdapterDirectory.open(tmp_path)
    factors = adapter.fitted({name: tuple(tensor.shape) for name, tensor in base.items()})
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert factors.keys() == changed
    for target, factor in factors.items():
        assert factor.shape == tuple(base[target].shape)
        expected = base[target] + _product(adapter, factor)
        torch.testing.assert_close(merged[target], expected, atol=1e-6, rtol=1e-6)
    for name, entry in adapter.base_copies.items():
        assert adapter.read(entry).tobytes() == base[name].numpy().tobytes()
    # PEFT saves the base's embeddings too, where their names are ones it knows.
    assert bool(adapter.base_copies) == (case in ("embedding", "gpt2, wrong flag"))


@pytest.mark.parametrize("case", ["llama", "gpt2 embedding"])
def test_the_folder_comes_back_byte_for_byte(case, tmp_path):
    make, options = _CASES[case]
    _save(tmp_path / "a", make(), **options)
    adapter = AdapterDirectory.open(tmp_path / "a")
    stored = {name: adapter.read(entry) for name, entry in adapter.entries.items()}
    files = {name: adapter.read_file(name) for name in adapter.files}
    (tmp_path / "b").mkdir()
    write_adapter(tmp_path / "b", layout=adapter.layout, read=stored.__getitem__, files=files)
    before = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    after = {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
    assert after == before
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= before.keys()


def test_what_is_stored_must_have_the_size_of_the_layout(tmp_path):
    _save(tmp_path, _llama(), **_CASES["llama"][1])
    adapter = AdapterDirectory.open(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(BadAdapter, match="bytes, 1 were stored"):
        write_adapter(tmp_path / "b", layout=adapter.layout, read=lambda _: b"x", files={})
    assert list((tmp_path / "b").iterdir()) == []
    for name in ["../x", "a/b", "adapter_model.safetensors"]:
        with pytest.raises(Exception, match="file"):
            write_adapter(tmp_path / "b", layout=adapter.layout, read=bytes, files={name: b""})


def test_scales_are_exact():
    options = LoraOptions.from_config({"peft_type": "LORA", "r": 3, "lora_alpha": 7})
    assert options.scale_of("a") == Fraction(7, 3)
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 0.5, "use_rslora": True}
    assert LoraOptions.from_config(config).scale_of("a") == Fraction(0.5 / 3**0.5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True, "target_modules": ["c_attn"]}, "lora_bias"),
        ({"bias": "all"}, "bias = all"),
        ({"bias": "lora_only"}, "bias = lora_only"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": {"wte": [1, 2]}}, "trainable_token_indices"),
    ],
)
def test_what_peft_saves_and_is_no_product_is_refused_by_name(options, name, tmp_path):
    model = _gpt2()
    options = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True} | options
    _save(tmp_path, model, **options)
    with pytest.raises(UnsupportedAdapter, match=name) as caught:
        AdapterDirectory.open(tmp_path)
    assert "merge" in caught.value.hint


@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
def test_initialisations_that_change_the_base_are_refused(start, tmp_path):
    _save(tmp_path, _llama(), r=4, target_modules=["q_proj"], init_lora_weights=start)
    with pytest.raises(UnsupportedAdapter, match=f"initialised by {start}, which changes the base"):
        AdapterDirectory.open(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("layer_replication", [[0, 2], [1, 3]]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("alora_invocation_tokens", [1]),
        ("megatron_config", {"a": 1}),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 1}),
        ("arrow_config", {"top_k": 1}),
        ("monteclora_config", {"num_samples": 1}),
        ("velora_config", {"scale": 1}),
    ],
)
def test_other_variants_are_refused_by_name(option, value):
    with pytest.raises(UnsupportedAdapter, match=f"the adapter uses {option}: "):
        LoraOptions.from_config({"peft_type": "LORA", option: value})


@pytest.mark.parametrize("method", ["IA3", "LOHA", "PREFIX_TUNING", None])
def test_other_methods_are_refused(method):
    with pytest.raises(UnsupportedAdapter, match=f"peft_type is {method}"):
        LoraOptions.from_config({"peft_type": method})


_KEY = "base_model.model.l.q_proj"
_DOWN, _UP = f"{_KEY}.lora_A.weight", f"{_KEY}.lora_B.weight"
_PAIR = {_DOWN: (2, 4), _UP: (3, 2)}


def _folder(folder, shapes, dtype=torch.float32, **config):
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({_DOWN: (2, 4)}, BadAdapter, "has no partner"),
        ({_DOWN: (2, 4), _UP: (3, 1)}, BadAdapter, "do not have one rank"),
        ({_DOWN: (1, 4), _UP: (3, 1)}, BadAdapter, "configured 2"),
        ({_DOWN: (2, 4, 1, 1), _UP: (3, 2)}, UnsupportedAdapter, "is of a convolution"),
        ({_DOWN: (2,), _UP: (3, 2)}, UnsupportedAdapter, "is no matrix"),
        (_PAIR | {f"{_KEY}.lora_magnitude_vector": (3,)}, UnsupportedAdapter, "belongs to DoRA"),
        (_PAIR | {f"{_KEY}.lora_B.bias": (3,)}, UnsupportedAdapter, "is a trained bias"),
        (_PAIR | {"base_model.model.score.weight": (3,)}, UnsupportedAdapter, "neither A nor B"),
        ({f"{_KEY}.lora_A.default.weight": (2, 4)}, UnsupportedAdapter, "neither A nor B"),
        ({"l.q_proj.lora_A.weight": (2, 4)}, UnsupportedAdapter, "not named as PEFT"),
        ({f"{_KEY}.base_layer.weight": (2, 4)}, UnsupportedAdapter, "has no LoRA factors"),
        (
            _PAIR | {f"{_KEY}.lora_embedding_A": (2, 4), f"{_KEY}.lora_embedding_B": (3, 2)},
            BadAdapter,
            "both as a layer and as an embedding",
        ),
    ],
)
def test_factors_that_do_not_fit(shapes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        AdapterDirectory.open(_folder(tmp_path, shapes))


def test_factors_are_floats(tmp_path):
    with pytest.raises(UnsupportedAdapter, match="has elements of type I32, not floats"):
        AdapterDirectory.open(_folder(tmp_path, _PAIR, torch.int32))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"r": 0}, BadAdapter, "r of the adapter is 0"),
        ({"r": True}, BadAdapter, "r of the adapter is True"),
        ({"lora_alpha": "8"}, BadAdapter, "lora_alpha of the adapter is 8"),
        ({"lora_alpha": float("inf")}, BadAdapter, "lora_alpha of the adapter is inf"),
        ({"lora_alpha": float("nan")}, BadAdapter, "lora_alpha of the adapter is nan"),
        ({"use_rslora": "yes"}, BadAdapter, "use_rslora of the adapter is yes"),
        ({"rank_pattern": [1]}, BadAdapter, "is no table"),
        ({"rank_pattern": {"a": "x"}}, BadAdapter, "rank_pattern of the adapter is x"),
        ({"rank_pattern": {"(": 1}}, BadAdapter, "is no regular expression"),
        ({"alpha_pattern": {"(a+)+b": 1}}, UnsupportedAdapter, "is too intricate"),
        ({"alpha_pattern": {"(a|a)" * 40: 1}}, UnsupportedAdapter, "is too intricate"),
        ({"alpha_pattern": {".*.*.*.*x": 1}}, UnsupportedAdapter, "is too intricate"),
        ({"alpha_pattern": {"a{9}{9}{9}": 1}}, UnsupportedAdapter, "is too intricate"),
    ],
)
def test_options_that_no_adapter_has(config, error, message):
    with pytest.raises(error, match=message):
        LoraOptions.from_config({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config)


def test_folders_that_hold_no_adapter(tmp_path):
    with pytest.raises(UnsupportedAdapter, match=r"has no adapter_config.json"):
        AdapterDirectory.open(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(UnsupportedAdapter, match="is a pickle") as caught:
        AdapterDirectory.open(tmp_path)
    assert "save_pretrained" in caught.value.hint


def _square(folder, flag):
    shapes = {"a.w": ((2, 4), (4, 2)), "a.x": ((2, 4), (3, 2))}
    keys = {f"base_model.model.{name}": pair for name, pair in shapes.items()}
    downs = {f"{key}.lora_A.weight": down for key, (down, _) in keys.items()}
    ups = {f"{key}.lora_B.weight": up for key, (_, up) in keys.items()}
    return AdapterDirectory.open(_folder(folder, downs | ups, fan_in_fan_out=flag))


def test_which_way_round_a_square_target_is(tmp_path):
    adapter = _square(tmp_path, flag=True)
    fitted = adapter.fitted({"a.w.weight": (4, 4), "a.x.weight": (4, 3)})
    assert fitted["a.w.weight"].transposed
    with pytest.raises(MisfitAdapter, match=r"which way round 'a\.w\.weight' is meant"):
        adapter.fitted({"a.w.weight": (4, 4), "a.x.weight": (3, 4)})
    with pytest.raises(MisfitAdapter, match=r"changes 'a\.x\.weight' of shape \[4, 3\].* \[5, 5\]"):
        adapter.fitted({"a.w.weight": (4, 4), "a.x.weight": (5, 5)})
    with pytest.raises(MisfitAdapter, match=r"'a\.w\.weight', which the base model does not have"):
        adapter.fitted({"a.x.weight": (4, 3)})
