"""Model folders as they are found in the wild, and as transformers makes them."""

import json
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import transformers
from model_files import assert_holds, random_bytes, write_model, write_weights

from tvc.models.directory import ModelDirectory, NotAModel, UnknownTensor, UntiedWeights
from tvc.models.folder import ChangedFile, UnsafeFile
from tvc.models.weights import BadIndex, DuplicateTensor, UnsupportedWeights, WrappedNames
from tvc_store.dtypes import TensorSpec

_SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _llama(**options):
    config = transformers.LlamaConfig(**_SMALL, num_key_value_heads=1, **options)
    return transformers.LlamaForCausalLM(config)


def _qwen(**options):
    config = transformers.Qwen3Config(**_SMALL, num_key_value_heads=1, head_dim=8, **options)
    return transformers.Qwen3ForCausalLM(config)


def _bert(**options):
    config = transformers.BertConfig(**_SMALL, max_position_embeddings=32, **options)
    return transformers.BertModel(config)


def _gpt2(**options):
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, **options
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("shard_size", ["5GB", "4KB"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("make", [_llama, _qwen, _bert, _gpt2])
def test_what_transformers_saves_is_read(make, tied, shard_size, tmp_path):
    model = make(tie_word_embeddings=tied).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    opened = ModelDirectory.open(tmp_path)
    assert len(opened.shards) == 1 if shard_size == "5GB" else len(opened.shards) > 1
    expected = {}
    for shard in opened.shards:
        expected |= safetensors.torch.load_file(tmp_path / shard)
    raw = {n: t.reshape(-1).view(torch.uint8).numpy() for n, t in expected.items()}
    assert_holds(opened, raw)
    assert "config.json" in opened.files
    assert opened.skipped == ()


@pytest.mark.parametrize("shard_size", [1 << 30, 4000])
@pytest.mark.parametrize("make", [_llama, _gpt2])
def test_transformers_loads_what_was_written(make, shard_size, tmp_path):
    model = make().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "a")
    opened = ModelDirectory.open(tmp_path / "a")
    (tmp_path / "b").mkdir()
    specs = {name: entry.spec for name, entry in opened.entries.items()}
    write_weights(tmp_path / "b", specs, {n: opened.read(n) for n in specs}, shard_size=shard_size)
    for name in opened.files:
        (tmp_path / "b" / name).write_bytes(opened.read_file(name))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype="auto")
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == torch.bfloat16
        assert torch.equal(state[name].view(torch.int16), tensor.view(torch.int16)), name


def test_what_is_carried_and_what_is_skipped(tmp_path):
    write_model(tmp_path)
    carried = [
        "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
        "merges.txt", "tokenizer.model", "chat_template.jinja", "modeling_x.py",
        "special_tokens_map.json", "preprocessor_config.json", "qwen.tiktoken",
    ]  # fmt: skip
    skipped = [
        "README.md", "optimizer.pt", "training_args.bin", "trainer_state.json", "tvc.json",
        "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "model.gguf",
        "consolidated.safetensors", "eval_results.json", ".gitattributes",
    ]  # fmt: skip
    for name in [*carried, *skipped]:
        (tmp_path / name).write_text(name)
    for folder in ["checkpoint-10", ".git", "onnx"]:
        (tmp_path / folder).mkdir()
    opened = ModelDirectory.open(tmp_path)
    assert list(opened.files) == sorted([*carried, "config.json"])
    assert opened.skipped == tuple(sorted([*skipped, "checkpoint-10/", ".git", "onnx/"]))
    assert opened.read_file("vocab.txt") == b"vocab.txt"


def test_sentence_transformers_modules_are_carried(tmp_path):
    write_model(tmp_path)
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"dense")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tools.jinja").write_text("x")
    opened = ModelDirectory.open(tmp_path)
    assert list(opened.files) == [
        "1_Pooling/config.json", "2_Dense/model.safetensors",
        "additional_chat_templates/tools.jinja", "config.json", "modules.json",
    ]  # fmt: skip
    assert opened.read_file("2_Dense/model.safetensors") == b"dense"
    shutil.rmtree(tmp_path / "1_Pooling")
    with pytest.raises(NotAModel, match="names the folder '1_Pooling', which is not there"):
        ModelDirectory.open(tmp_path)


def test_a_module_without_files_needs_no_folder(tmp_path):
    write_model(tmp_path)
    modules = [
        {"path": ""},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert list(ModelDirectory.open(tmp_path).files) == ["config.json", "modules.json"]


def _two_shards(folder, config="{}"):
    specs = {"a": TensorSpec("F32", (4,)), "b": TensorSpec("F32", (4,))}
    data = random_bytes(specs)
    write_weights(folder, specs, data, shard_size=16)
    (folder / "config.json").write_text(config)
    return data


def test_shards_without_an_index(tmp_path):
    data = _two_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert_holds(ModelDirectory.open(tmp_path), data)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(BadIndex, match=r"the shard model-00001-of-00002.safetensors is missing"):
        ModelDirectory.open(tmp_path)


def test_files_of_any_name_without_an_index(tmp_path):
    data = _two_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    for n in (1, 2):
        (tmp_path / f"model-0000{n}-of-00002.safetensors").rename(tmp_path / f"x{n}.safetensors")
    assert_holds(ModelDirectory.open(tmp_path), data)
    shutil.copy(tmp_path / "x1.safetensors", tmp_path / "x3.safetensors")
    with pytest.raises(DuplicateTensor, match=r"'a' is both in x1.safetensors and in x3"):
        ModelDirectory.open(tmp_path)


def test_an_index_beside_an_unrelated_single_file(tmp_path):
    _two_shards(tmp_path)
    shutil.copy(tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(BadIndex, match="there are both"):
        ModelDirectory.open(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": 1, "b": 2, "c": 2}, "puts 'c' in model-00002-of-00002.safetensors, but no shard"),
        ({"a": 2, "b": 1}, "puts 'a' in model-00002-of-00002.safetensors, but it is in"),
        ({"a": 1, "b": 1}, "does not name the shard model-00002-of-00002.safetensors"),
        ({"a": 3}, "puts 'a' in model-00003-of-00002.safetensors, which is no file"),
    ],
)
def test_an_index_that_does_not_agree(weight_map, message, tmp_path):
    _two_shards(tmp_path)
    named = {name: f"model-0000{n}-of-00002.safetensors" for name, n in weight_map.items()}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": named}))
    with pytest.raises(BadIndex, match=message):
        ModelDirectory.open(tmp_path)


def test_an_index_that_omits_a_tensor_of_its_shard(tmp_path):
    write_model(tmp_path)
    index = {"weight_map": {"b": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadIndex, match=r"tensor 'a.weight' of model.safetensors is not in"):
        ModelDirectory.open(tmp_path)


@pytest.mark.parametrize(
    ("files", "error", "message", "hint"),
    [
        (["pytorch_model.bin"], UnsupportedWeights, "a pickle", "save_pretrained"),
        (["model.pth"], UnsupportedWeights, "a pickle", "save_pretrained"),
        (["m.Q4_K.gguf"], UnsupportedWeights, "GGUF", "safetensors"),
        (["adapter_config.json", "adapter_model.safetensors"], NotAModel, "adapter", "tvc import"),
        (["model.safetensor"], UnsupportedWeights, "no model.safetensors", "'model.safetensor'"),
        ([], UnsupportedWeights, "no model.safetensors", None),
    ],
)
def test_folders_without_weights(files, error, message, hint, tmp_path):
    for name in [*files, "config.json"]:
        (tmp_path / name).write_text("{}")
    with pytest.raises(error, match=message) as caught:
        ModelDirectory.open(tmp_path)
    assert caught.value.hint is hint or hint in caught.value.hint


def test_the_folder_itself(tmp_path):
    write_model(tmp_path / "listen")
    with pytest.raises(Exception, match="there is no folder") as caught:
        ModelDirectory.open(tmp_path / "listn")
    assert caught.value.hint == "did you mean 'listen'?"
    with pytest.raises(Exception, match="is not a folder"):
        ModelDirectory.open(tmp_path / "listen" / "config.json")
    (tmp_path / "listen" / "config.json").unlink()
    with pytest.raises(NotAModel, match=r"has no config.json"):
        ModelDirectory.open(tmp_path / "listen")


@pytest.mark.parametrize("name", ["_orig_mod.a", "model._orig_mod.a", "base_model.model.a"])
def test_names_of_wrappers(name, tmp_path):
    write_model(tmp_path, {name: TensorSpec("U8", (1,))})
    with pytest.raises(WrappedNames, match="of a wrapper"):
        ModelDirectory.open(tmp_path)


def test_the_layout_of_the_hub_cache(tmp_path):
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / ("0" * 40)
    (cache / "blobs").mkdir(parents=True)
    data = write_model(snapshot)
    for n, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(cache / "blobs" / str(n))
        file.symlink_to(f"../../blobs/{n}")
    assert_holds(ModelDirectory.open(snapshot), data)
    moved = cache.rename(tmp_path / "elsewhere") / "snapshots" / ("0" * 40)
    with pytest.raises(UnsafeFile, match=r"the link config.json leads out of the model folder"):
        ModelDirectory.open(moved)


def test_a_link_to_the_folder_is_followed(tmp_path):
    data = write_model(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    assert_holds(ModelDirectory.open(tmp_path / "b"), data)


def test_a_file_that_changed(tmp_path):
    data = write_model(tmp_path)
    opened = ModelDirectory.open(tmp_path)
    out = np.zeros(12, np.uint8)
    assert opened.read("a.weight", out) is out
    assert out.tobytes() == data["a.weight"].tobytes()
    with pytest.raises(ValueError, match="needs 12 bytes"):
        opened.read("a.weight", np.zeros(11, np.uint8))
    with pytest.raises(UnknownTensor, match=r"no tensor 'a\.wieght'") as caught:
        opened.read("a.wieght")
    assert caught.value.hint == "did you mean 'a.weight'?"
    weights = tmp_path / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1])
    with pytest.raises(ChangedFile, match="changed while"):
        opened.read("a.weight")
    weights.unlink()
    with pytest.raises(ChangedFile, match="cannot be opened"):
        opened.read("a.weight")


def _tied(folder, *, tie, equal):
    specs = {
        "lm_head.weight": TensorSpec("U8", (3,)),
        "model.embed_tokens.weight": TensorSpec("U8", (3,)),
    }
    data = dict.fromkeys(specs, np.zeros(3, np.uint8))
    if not equal:
        data["lm_head.weight"] = np.ones(3, np.uint8)
    folder.mkdir()
    write_weights(folder, specs, data)
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tie}))
    return folder


def test_tied_weights_hold_the_same_bytes(tmp_path):
    ModelDirectory.open(_tied(tmp_path / "1", tie=True, equal=True))
    ModelDirectory.open(_tied(tmp_path / "2", tie=False, equal=False))
    with pytest.raises(
        UntiedWeights, match=r"ties 'lm_head.weight' to 'model.embed_tokens.weight'"
    ):
        ModelDirectory.open(_tied(tmp_path / "3", tie=True, equal=False))
