"""What a checkout writes: shards, types, files, and never half of it."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from workbench import Bench, write_model

from tvc.checkout.folder import TargetInTheWay, replaced_folder
from tvc.checkout.writing import Checkout
from tvc.domain.errors import ConflictError
from tvc.domain.files import FileConflict
from tvc.domain.planning import CannotCombine
from tvc.models.directory import ModelDirectory
from tvc.recording.matching import Allowances
from tvc.repository.objects import Objects, open_objects
from tvc_store.dtypes import TensorSpec

NAMES = ["model.embed_tokens.weight", "model.layers.0.a.weight", "model.layers.1.a.weight"]


def bf16(seed, shape=(8, 6), scale=0.02):
    values = torch.tensor(np.random.default_rng(seed).normal(0, scale, shape))
    return TensorSpec("BF16", shape), values.to(torch.bfloat16).view(torch.int16).numpy().tobytes()


def model(seed, **changed):
    return {name: bf16(seed + i) for i, name in enumerate(NAMES)} | changed


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, model(0), {"model_type": "test", "dtype": "bfloat16"})
    bench.commit("a", model(10))
    bench.recipe("a - a")
    bench.commit("b", model(20))
    return bench


def loaded(path):
    return load_file(path / "model.safetensors")


def test_sums_are_float32_and_rounded_once(bench):
    bench.recipe("0.5 * a - 2 * b")
    base, a, b, out = (
        {n: t.float() for n, t in loaded(p).items()}
        for p in (
            bench.folder / "base",
            bench.folder / "a",
            bench.folder / "b",
            bench.checkout().root,
        )
    )
    for name in NAMES:
        expected = base[name] + ((a[name] - base[name]) * 0.5 + (b[name] - base[name]) * -2)
        assert torch.equal(out[name].bfloat16(), expected.bfloat16())


def test_shards_have_an_index_and_say_the_same(bench):
    bench.recipe("0.5 * a + b")
    whole = bench.tensors()
    sharded = bench.checkout(shard_size=100)
    files = sorted(path.name for path in sharded.root.glob("*.safetensors"))
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((sharded.root / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(NAMES)
    assert index["metadata"]["total_size"] == sum(spec.nbytes for spec, _ in whole.values())
    assert {n: (e.spec, sharded.read(n).tobytes()) for n, e in sharded.entries.items()} == whole


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64", "BF16"])
def test_floating_tensors_are_cast_once_and_config_says_so(dtype, tmp_path):
    number = (TensorSpec("I64", (2,)), np.array([1, 2]).tobytes())
    bench = Bench(tmp_path, model(0, ids=number), {"torch_dtype": "bfloat16"})
    bench.commit("a", model(10, ids=number), {"torch_dtype": "bfloat16"})
    out = bench.checkout(dtype=dtype)
    torch_dtype = {
        "F16": torch.float16,
        "F32": torch.float32,
        "F64": torch.float64,
        "BF16": torch.bfloat16,
    }[dtype]
    for name, tensor in loaded(out.root).items():
        source = loaded(bench.folder / "a")[name]
        assert tensor.dtype == (torch.int64 if name == "ids" else torch_dtype)
        assert torch.equal(tensor, source.to(tensor.dtype))
    assert out.config["torch_dtype"] == str(torch_dtype).removeprefix("torch.")


def test_a_checkout_says_what_it_is(bench):
    out = bench.checkout().root
    facts = json.loads((out / "tvc.json").read_text())
    assert facts["commit"] == bench.repository.git.resolve("HEAD")
    assert facts["recipe"] == "base + b"
    assert set(facts["tensors"]) == set(NAMES)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nbase_model: ")
    assert "base + b" in card
    assert str(bench.folder) not in card + (out / "tvc.json").read_text()


def test_code_is_written_only_when_asked_for(tmp_path):
    base = write_model(tmp_path / "source", model(0))
    (base / "modeling_evil.py").write_text("print('owned')\n")
    bench = Bench(tmp_path, model(0))
    tuned = write_model(tmp_path / "tuned", model(1))
    (tuned / "modeling_evil.py").write_text("print('owned')\n")
    from tvc.recording.committing import commit_finetune

    with bench.repository.change("x") as change:
        commit_finetune(
            change, ModelDirectory.open(tuned), name="t", message="t", allowed=Allowances()
        )
    assert not (bench.checkout().root / "modeling_evil.py").exists()
    assert (
        bench.checkout(allow_code=True).root / "modeling_evil.py"
    ).read_text() == "print('owned')\n"


def test_integers_are_restored_but_not_added_up(tmp_path):
    def ids(*values):
        return TensorSpec("I64", (len(values),)), np.array(values).tobytes()

    bench = Bench(tmp_path, model(0, ids=ids(1, 2)))
    bench.commit("a", model(0, ids=ids(3, 4)))
    assert bench.tensors()["ids"] == ids(3, 4)
    bench.recipe("0.5 * a")
    with pytest.raises(CannotCombine, match="'ids' is I64"):
        bench.checkout()


def test_quantized_weights_are_restored_but_not_added_up(tmp_path):
    config = {"quantization_config": {"quant_method": "fp8"}}
    bench = Bench(tmp_path, model(0), config)
    bench.commit("a", model(10), config)
    assert bench.tensors() == model(10)
    bench.recipe("0.5 * a")
    with pytest.raises(CannotCombine, match="quantized"):
        bench.checkout()


def test_a_grown_vocabulary_adds_rows_of_its_own(tmp_path):
    name = NAMES[0]
    bench = Bench(tmp_path, model(0), {"vocab_size": 8})
    grown = model(10, **{name: bf16(50, (11, 6))})
    bench.commit("grown", grown, {"vocab_size": 11}, Allowances(resize_vocab=True))
    assert bench.tensors() == grown
    bench.recipe("grown - grown")
    bench.commit("plain", model(20), {"vocab_size": 8})
    bench.recipe("grown + 0.5 * plain")
    out = bench.checkout()
    assert out.config["vocab_size"] == 11
    tensor, tuned = (loaded(p)[name].float() for p in (out.root, bench.folder / "grown"))
    assert torch.equal(tensor[8:], tuned[8:])
    assert tensor.shape == (11, 6)


def test_tied_tensors_stay_one(tmp_path):
    config = {"tie_word_embeddings": True}
    base = model(0)
    both = {**base, "lm_head.weight": base[NAMES[0]]}
    bench = Bench(tmp_path, both, config)
    assert set(bench.tensors()) == set(NAMES)
    tuned = model(10)
    bench.commit("a", {**tuned, "lm_head.weight": tuned[NAMES[0]]}, config)
    assert bench.tensors() == tuned
    bench.recipe("0.5 * dare(a, a; density=0.5)")
    assert set(bench.tensors()) == set(NAMES)


def test_two_tokenizers_are_a_conflict_until_one_is_chosen(tmp_path):
    bench = Bench(tmp_path, model(0))
    for seed, name in enumerate("ab", 1):
        bench.recipe("a - a") if name == "b" else None
        folder = write_model(tmp_path / f"t{name}", model(seed))
        (folder / "tokenizer.json").write_text(json.dumps({"is": name}))
        (folder / "config.json").write_text(json.dumps({"model_type": "test", name: seed}))
        from tvc.recording.committing import commit_finetune

        with bench.repository.change("x") as change:
            commit_finetune(
                change, ModelDirectory.open(folder), name=name, message=name, allowed=Allowances()
            )
    assert json.loads(bench.checkout().read_file("tokenizer.json")) == {"is": "b"}
    bench.recipe("0.5 * a + 0.5 * b")
    with pytest.raises(FileConflict, match=r"tokenizer.json is changed differently by a and b"):
        bench.checkout()
    assert issubclass(FileConflict, ConflictError)
    bench.recipe("0.5 * a + 0.5 * b", files=[("tokenizer.json", "a")])
    out = bench.checkout()
    assert json.loads(out.read_file("tokenizer.json")) == {"is": "a"}
    assert out.config == {"model_type": "test", "a": 1, "b": 2}
    bench.recipe("0.5 * a + 0.5 * b", files=[("tokenizer.json", "base")])
    assert "tokenizer.json" not in bench.checkout().files
    # What is taken away brings no files along.
    bench.recipe("-1 * a + b")
    assert json.loads(bench.checkout().read_file("tokenizer.json")) == {"is": "b"}


def test_the_plan_says_what_it_takes(bench):
    bench.recipe("0.5 * a + b")
    with open_objects(bench.repository.layout) as store:
        state = bench.repository.state_at("HEAD")
        planned = Checkout(Objects(store, state), state.recipe, commit="0" * 40)
    costs = planned.costs
    assert (costs.copied, costs.restored, costs.combined) == (0, 0, 3)
    one = 8 * 6 * 2
    assert costs.write == 3 * one
    assert costs.read == 3 * one * 3  # the base and the two tuned


class TestTheTarget:
    def test_is_refused_when_something_is_there(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        (target / "precious").write_text("x")
        with pytest.raises(TargetInTheWay, match="not empty"), replaced_folder(target, force=False):
            raise AssertionError("not reached")
        with (
            pytest.raises(TargetInTheWay, match="does not hold a model"),
            replaced_folder(target, force=True),
        ):
            raise AssertionError("not reached")
        assert (target / "precious").read_text() == "x"

    def test_is_replaced_whole(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        (target / "config.json").write_text("old")
        (target / "stale").write_text("old")
        with replaced_folder(target, force=True) as folder:
            (folder / "config.json").write_text("new")
            assert (target / "config.json").read_text() == "old"
        assert sorted(os.listdir(target)) == ["config.json"]
        assert os.listdir(tmp_path) == ["out"]

    def test_is_as_before_when_the_work_fails(self, tmp_path):
        target = tmp_path / "out"
        for force in (False, True):
            with pytest.raises(RuntimeError), replaced_folder(target, force=force) as folder:
                (folder / "x").write_text("x")
                raise RuntimeError
            assert target.exists() == force
            target.mkdir(exist_ok=True)
            (target / "config.json").write_text("old")
        assert (target / "config.json").read_text() == "old"
        assert os.listdir(tmp_path) == ["out"]

    @pytest.mark.parametrize("kind", ["link", "file", "dangling", "no parent"])
    def test_must_be_a_folder(self, kind, tmp_path):
        target = tmp_path / "out"
        if kind == "link":
            (tmp_path / "elsewhere").mkdir()
            target.symlink_to(tmp_path / "elsewhere")
        elif kind == "dangling":
            target.symlink_to(tmp_path / "nowhere")
        elif kind == "file":
            target.write_text("x")
        else:
            target = tmp_path / "none" / "out"
        for force in (False, True):
            with pytest.raises(TargetInTheWay), replaced_folder(target, force=force):
                raise AssertionError("not reached")

    def test_leftovers_of_the_dead_are_removed_and_of_the_living_not(self, tmp_path):
        (tmp_path / ".out.tvc-unfinished-4194305-aaaa").mkdir()
        living = tmp_path / f".out.tvc-unfinished-{os.getppid()}-bbbb"
        living.mkdir()
        with replaced_folder(tmp_path / "out", force=False):
            pass
        assert sorted(os.listdir(tmp_path)) == sorted(["out", living.name])
