"""What a training leaves: weights as they were in memory, under the names of the base's files."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, tiny
from transformers import AutoModelForCausalLM

from tvc.models.directory import ModelDirectory
from tvc.optimizers.differences import Differences
from tvc.training.saving import (
    CannotSave,
    check_saving,
    current_weights,
    gathered,
    write_result,
)

TEXT = [name for name in ARCHITECTURES if name != "qwen3.5-vision"]


def saved(tmp_path, name="llama", dtype=torch.bfloat16):
    """A folder, and its model as transformers loads it."""
    folder = tmp_path / "base"
    tiny(name, dtype=dtype).save_pretrained(folder)
    return folder, AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def moved(model, *, size=1e-3, frozen=()):
    """Differences drawn at random, with the weights that follow from them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    differences = Differences(model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(delta.shape, generator=generator) * size
        for name, delta in differences.state_dict().items()
    }
    differences.load_state_dict(state)
    differences.write_weights()
    return differences


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8)


@pytest.mark.parametrize("name", TEXT)
def test_the_weights_that_were_trained_are_what_is_loaded_again(tmp_path, name):
    base, model = saved(tmp_path, name)
    check_saving(model, base, tmp_path / "check")
    assert not (tmp_path / "check").exists()
    differences = moved(model)
    write_result(
        model,
        gathered(model, differences),
        base=base,
        target=tmp_path / "tuned",
        keep_delta="float32",
    )
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", dtype="auto")
    found = dict(again.named_parameters())
    for key, parameter in model.named_parameters():
        assert torch.equal(bits(found[key]), bits(parameter)), key
    one, other = ModelDirectory.open(base), ModelDirectory.open(tmp_path / "tuned")
    assert {n: e.spec for n, e in one.entries.items()} == {
        n: e.spec for n, e in other.entries.items()
    }
    assert set(other.files) == set(one.files)


@pytest.mark.parametrize("name", ["qwen3", "qwen3.5-moe"])
def test_the_kept_difference_is_the_one_that_was_trained(tmp_path, name):
    base, model = saved(tmp_path, name)
    differences = moved(model, size=1e-6)
    for keep in ("float32", "bfloat16", "none"):
        target = tmp_path / keep
        write_result(model, gathered(model, differences), base=base, target=target, keep_delta=keep)
    assert not (tmp_path / "none" / "delta").exists()
    exact = load_file(tmp_path / "float32" / "delta" / "model.safetensors")
    total = sum(float(each.double().square().sum()) for each in exact.values())
    expected = sum(float(d.double().square().sum()) for d in differences.state_dict().values())
    assert total == pytest.approx(expected, rel=1e-12)
    rounded = load_file(tmp_path / "bfloat16" / "delta" / "model.safetensors")
    for key, delta in exact.items():
        assert delta.dtype == torch.float32
        assert torch.equal(rounded[key], delta.bfloat16())
    tuned = [load_file(tmp_path / keep / "model.safetensors") for keep in ("float32", "none")]
    assert all(torch.equal(tuned[0][key], tuned[1][key]) for key in tuned[0])


def test_what_was_not_trained_is_the_bases_byte_for_byte(tmp_path):
    base, model = saved(tmp_path)
    tensors = load_file(base / "model.safetensors")
    # A tensor that the model does not have, with every pattern of bits, and a NaN with a payload.
    tensors["visual.extra"] = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16)).view(
        torch.bfloat16
    )
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    frozen = {"model.norm.weight", "lm_head.weight"}
    differences = moved(model, frozen=frozen)
    write_result(
        model, gathered(model, differences), base=base, target=tmp_path / "t", keep_delta="float32"
    )
    tuned = load_file(tmp_path / "t" / "model.safetensors")
    for key in (*frozen, "visual.extra"):
        assert torch.equal(bits(tuned[key]), bits(tensors[key]))
    assert not torch.equal(
        tuned["model.layers.0.mlp.up_proj.weight"], tensors["model.layers.0.mlp.up_proj.weight"]
    )


def test_a_folder_that_lacks_a_weight_is_refused_before_training(tmp_path):
    base, model = saved(tmp_path)
    tensors = load_file(base / "model.safetensors")
    tensors["model.renamed.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CannotSave, match=r"model\.norm\.weight \[32\] is not a tensor"):
        check_saving(model, base, tmp_path / "check")
    assert not (tmp_path / "check").exists()


def test_a_difference_that_is_not_finite_is_not_written(tmp_path):
    base, model = saved(tmp_path)
    deltas = gathered(model, moved(model))
    deltas["model.norm.weight"][3] = float("nan")
    with pytest.raises(CannotSave, match=r"model\.norm\.weight is no longer finite"):
        write_result(model, deltas, base=base, target=tmp_path / "t", keep_delta="none")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_in_memory_have_the_names_and_bytes_of_what_is_written(tmp_path, name):
    base, model = saved(tmp_path, name)
    differences = moved(model)
    deltas = gathered(model, differences)
    write_result(model, deltas, base=base, target=tmp_path / "tuned", keep_delta="none")
    files = ModelDirectory.open(tmp_path / "tuned")
    now = {weight.name: weight for weight in current_weights(model)}
    parameters = {each.data_ptr() for each in model.parameters()}
    # The vision tower is no part of the model that is trained.
    written = {key: e for key, e in files.entries.items() if not key.startswith("model.visual.")}
    assert written.keys() <= now.keys()
    for key, entry in written.items():
        data = np.empty(entry.spec.nbytes, np.uint8)
        with files.opened(key) as content:
            content.read(0, data)
        assert now[key].spec == entry.spec, key
        assert np.array_equal(now[key].content, data), key
    # What is more is a second name of a tied tensor.
    more = [now[key].content for key in now.keys() - written.keys()]
    assert {each.ctypes.data for each in more} <= parameters
