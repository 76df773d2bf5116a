"""A difference as a low-rank adapter: what is kept, what is said to be left out, what is refused."""

import json
import math
from fractions import Fraction

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers
from workbench import Bench, write_model

from tvc.domain.errors import InputError
from tvc.domain.recipe import Term, VectorName, recipe_id
from tvc.models.adapter_config import UnsupportedAdapter
from tvc.models.adapters import AdapterDirectory
from tvc.models.directory import ModelDirectory
from tvc.recording.adapter import record_adapter
from tvc.recording.committing import commit_finetune, with_vector
from tvc.recording.factoring import NothingToExport, Wanted, export_factors
from tvc.recording.matching import Allowances
from tvc.recording.trained import write_training
from tvc.repository.objects import Objects, open_objects
from tvc_store.dtypes import TensorSpec

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
Q, K, DOWN = (
    f"model.layers.{layer}.{module}.weight"
    for layer, module in ((0, "self_attn.q_proj"), (1, "self_attn.k_proj"), (0, "mlp.down_proj"))
)
SHAPES = {
    "lm_head.weight": (12, 16),
    "model.embed_tokens.weight": (12, 16),
    DOWN: (16, 24),
    Q: (16, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.bias": (16,),
    K: (8, 16),
    "model.layers.1.mlp.conv1d.weight": (4, 1, 3),
    "model.layers.1.mlp.experts.0.up_proj.weight": (4, 16),
    "model.layers.1.mlp.router_table": (3, 16),
    "position_ids": (4,),
}
MATRICES = (DOWN, Q, K)


def bf16(values):
    """Round to nearest, ties to even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def wide(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def drawn(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) * size).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def stored(values, dtype="F32"):
    """Tensors as a model's file has them; `position_ids` are integers."""
    found = {}
    for name, value in values.items():
        kind = "I64" if name == "position_ids" else dtype
        data = (
            value.astype(np.int64) if kind == "I64" else bf16(value) if dtype == "BF16" else value
        )
        found[name] = (TensorSpec(kind, value.shape), data.tobytes())
    return found


def factors_of(folder):
    """Target → (A, B) in float64 as an adapter's folder has them, and its scale."""
    config = json.loads((folder / "adapter_config.json").read_text())
    found = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    wide_of = {name: tensor.double().numpy() for name, tensor in found.items()}
    modules = {name.split(".lora_")[0] for name in wide_of}
    return {
        f"{module.removeprefix('base_model.model.')}.weight": (
            wide_of[f"{module}.lora_A.weight"],
            wide_of[f"{module}.lora_B.weight"],
        )
        for module in modules
    }, config["lora_alpha"] / config["r"]


def products_of(folder):
    factors, scale = factors_of(folder)
    return {name: scale * (up @ down) for name, (down, up) in factors.items()}


def export(bench, folder, *, name="t", terms=None, workers=2, **wanted):
    state = bench.repository.state_at("HEAD")
    record = state.vectors[name]
    folder.mkdir()
    with open_objects(bench.repository.layout) as store:
        return export_factors(
            Objects(store, state),
            terms or (Term(Fraction(1), VectorName(record.id)),),
            folder,
            base=record.parent.base,
            wanted=Wanted(**wanted),
            workers=workers,
            on_plan=lambda _total: lambda _done: None,
        )


@pytest.fixture(params=["F32", "BF16"])
def dense(request, tmp_path):
    """A repository with a fine-tune `t` that changes everything, and the difference it makes."""
    before, change = drawn(0), drawn(1, 0.05)
    after = {name: before[name] + change[name] for name in SHAPES}
    after["position_ids"] = before["position_ids"] + 7
    bench = Bench(tmp_path, stored(before, request.param), CONFIG)
    bench.commit("t", stored(after, request.param), CONFIG | {"note": "changed"})
    rounded = (lambda v: wide(bf16(v))) if request.param == "BF16" else (lambda v: v)
    return bench, {name: rounded(after[name]) - rounded(before[name]) for name in SHAPES}


def test_at_full_rank_it_is_the_difference(dense, tmp_path):
    bench, difference = dense
    done = export(bench, tmp_path / "out", rank=999)
    assert done.rank == 16
    found = products_of(tmp_path / "out")
    assert sorted(found) == sorted(MATRICES)
    for name in MATRICES:
        size = np.linalg.norm(difference[name])
        assert np.linalg.norm(found[name] - difference[name]) <= 3e-7 * size
        assert done.kept[name].share == pytest.approx(1, abs=1e-12)
        assert done.kept[name].rank == min(SHAPES[name])


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_it_is_the_truncation_and_says_how_much_of_it(dense, tmp_path, rank):
    bench, difference = dense
    done = export(bench, tmp_path / "out", rank=rank)
    found = products_of(tmp_path / "out")
    for name in MATRICES:
        delta = difference[name].astype(np.float64)
        left, sizes, right = np.linalg.svd(delta, full_matrices=False)
        nearest = (left[:, :rank] * sizes[:rank]) @ right[:rank]
        assert np.linalg.norm(found[name] - nearest) <= 1e-6 * np.linalg.norm(delta)
        measured = 1 - np.square(delta - found[name]).sum() / np.square(delta).sum()
        assert done.kept[name].share == pytest.approx(measured, abs=1e-12)
        assert measured == pytest.approx((sizes[:rank] ** 2).sum() / (sizes**2).sum(), abs=1e-9)


def test_all_the_energy_is_accounted_for(dense, tmp_path):
    bench, difference = dense
    done = export(bench, tmp_path / "out", rank=2)
    squares = {
        name: float(np.square(difference[name].astype(np.float64)).sum())
        for name in SHAPES
        if name != "position_ids"
    }
    total = math.fsum(squares.values())
    assert done.square == pytest.approx(total, rel=1e-12)
    reasons = {
        "biases": 1,
        "convolutions": 1,
        "embeddings": 2,
        "experts": 1,
        "integers, or not in the base": 1,
        "norms": 1,
        "other tensors": 1,
    }
    assert {reason: count for reason, (count, _) in done.reasons().items()} == reasons
    assert done.files == ("config.json",)
    found = products_of(tmp_path / "out")
    missing = sum(
        float(np.square(difference[name].astype(np.float64) - found.get(name, 0.0)).sum())
        for name in squares
    )
    assert done.share == pytest.approx(1 - missing / total, abs=1e-9)
    assert sum(share for _, share in done.reasons().values()) + sum(
        each.square / total for each in done.kept.values()
    ) == pytest.approx(1, abs=1e-12)
    layers = done.layers()
    assert list(layers) == [
        "lm_head",
        "model.embed_tokens",
        "model.layers.0",
        "model.layers.1",
        "position_ids",
    ]
    assert math.fsum(kept for kept, _ in layers.values()) / total == pytest.approx(done.share)
    assert math.fsum(energy for _, energy in layers.values()) == pytest.approx(total)


def test_the_smallest_rank_is_the_smallest(dense, tmp_path):
    bench, _ = dense
    held = export(bench, tmp_path / "all", rank=16).share
    for number, energy in enumerate((0.1, 0.3, 0.9 * held, held)):
        done = export(bench, tmp_path / f"auto{number}", energy=energy)
        assert done.share >= energy - 1e-9
        if done.rank > 1:
            less = export(bench, tmp_path / f"less{number}", rank=done.rank - 1)
            assert less.share < energy
    with pytest.raises(NothingToExport, match=f"can hold {held:.2%} of the energy at most") as told:
        export(bench, tmp_path / "more", energy=min(1.0, held + 0.01))
    assert "embeddings" in str(told.value)


def test_only_what_was_asked_for_is_changed(dense, tmp_path):
    bench, _ = dense
    done = export(bench, tmp_path / "out", rank=2, modules=("q_proj", "v_proj"))
    assert list(done.kept) == [Q]
    assert done.reasons()["modules not asked for"][0] == 2
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj"]
    with pytest.raises(NothingToExport, match="nothing in it that an adapter could hold"):
        export(bench, tmp_path / "none", rank=2, modules=("v_proj",))
    with pytest.raises(InputError, match="lm_head is no module of LlamaForCausalLM"):
        export(bench, tmp_path / "head", modules=("lm_head",))


def test_bytes_depend_on_nothing_but_the_vector(dense, tmp_path):
    bench, _ = dense
    files = []
    for number, (workers, threads) in enumerate(((1, 1), (3, 2), (2, 4))):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        export(bench, tmp_path / str(number), rank=4, workers=workers)
        torch.set_num_threads(before)
        files.append({p.name: p.read_bytes() for p in (tmp_path / str(number)).iterdir()})
    assert files[0] == files[1] == files[2]
    assert set(files[0]) == {"adapter_config.json", "adapter_model.safetensors"}


def test_what_is_read_back_is_an_adapter_of_one_rank_and_scale(dense, tmp_path):
    bench, _ = dense
    export(bench, tmp_path / "out", rank=12)
    adapter = AdapterDirectory.open(tmp_path / "out")
    fitted = adapter.fitted(SHAPES)
    assert sorted(fitted) == sorted(MATRICES)
    assert {each.scale for each in fitted.values()} == {1}
    assert not any(each.transposed for each in fitted.values())
    assert {entry.spec.shape[0] for name, entry in adapter.entries.items() if "_A." in name} == {12}
    assert not adapter.read(fitted[K].down).view(np.float32).reshape(12, 16)[8:].any()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["bias"]) == (12, 12, "none")
    assert config["base_model_name_or_path"] == "base"


# An adapter that was taken in.


def adopt(bench, factors, folder, *, dtype=torch.float32, name="a", **config):
    """Write an adapter as PEFT does and take it in as a vector."""
    folder.mkdir()
    held = {}
    for target, (down, up) in factors.items():
        prefix = f"base_model.model.{target.removesuffix('.weight')}"
        held[f"{prefix}.lora_A.weight"] = torch.from_numpy(down).to(dtype)
        held[f"{prefix}.lora_B.weight"] = torch.from_numpy(up).to(dtype)
    safetensors.torch.save_file(held, folder / "adapter_model.safetensors", {"format": "pt"})
    ranks = {len(down) for down, _ in factors.values()}
    facts = {"peft_type": "LORA", "r": max(ranks), "lora_alpha": 2 * max(ranks), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(facts | config))
    with bench.repository.change("import") as change:
        state = bench.repository.state_at("HEAD")
        with open_objects(bench.repository.layout) as store:
            objects = Objects(store, state)
            adapter = AdapterDirectory.open(folder)
            record = record_adapter(objects, state.normal, adapter, provenance={})
        change.commit(with_vector(state, name, record), "import")
    return held


def random_factors(ranks, seed=5):
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal((rank, SHAPES[name][1])).astype(np.float32),
            rng.standard_normal((SHAPES[name][0], rank)).astype(np.float32),
        )
        for name, rank in ranks.items()
    }


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, stored(drawn(0)), CONFIG)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [4, 9])
def test_an_adapter_gives_its_own_factors_bit_for_bit(bench, tmp_path, dtype, rank):
    held = adopt(bench, random_factors({Q: 4, DOWN: 4}), tmp_path / "lora", dtype=dtype)
    done = export(bench, tmp_path / "out", name="a", rank=rank)
    found = safetensors.torch.load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert found.keys() == held.keys()
    for key, tensor in held.items():
        assert found[key].dtype == dtype
        assert torch.equal(found[key], tensor)
    assert (done.rank, done.scale, done.share) == (4, 2, 1)
    assert all(each.exact for each in done.kept.values())


def test_scales_and_ranks_of_its_own_become_one(bench, tmp_path):
    factors = random_factors({Q: 2, DOWN: 5, K: 3})
    adopt(
        bench,
        factors,
        tmp_path / "lora",
        rank_pattern={"q_proj": 2, "k_proj": 3},
        alpha_pattern={"q_proj": 1, "down_proj": 7},
    )
    done = export(bench, tmp_path / "out", name="a", rank=5)
    assert (done.rank, done.scale) == (5, 1)
    found, scale = factors_of(tmp_path / "out")
    assert scale == 1
    for name, own in ((Q, 1 / 2), (DOWN, 7 / 5), (K, 10 / 3)):
        down, up = factors[name]
        exact = own * (up.astype(np.float64) @ down)
        assert np.array_equal(found[name][0][: len(down)], down)
        error = np.linalg.norm(found[name][1] @ found[name][0] - exact)
        assert error <= 2.0**-24 * own * np.linalg.norm(np.abs(up) @ np.abs(down))


def test_an_adapter_of_a_higher_rank_is_truncated(bench, tmp_path):
    factors = random_factors({Q: 6, DOWN: 6})
    adopt(bench, factors, tmp_path / "lora")
    done = export(bench, tmp_path / "out", name="a", rank=3)
    found = products_of(tmp_path / "out")
    for name, (down, up) in factors.items():
        exact = 2 * (up.astype(np.float64) @ down)
        left, sizes, right = np.linalg.svd(exact, full_matrices=False)
        nearest = (left[:, :3] * sizes[:3]) @ right[:3]
        assert np.linalg.norm(found[name] - nearest) <= 1e-6 * np.linalg.norm(exact)
    assert 0.3 < done.share < 0.99
    assert not any(each.exact for each in done.kept.values())


def test_factors_of_a_multiple_are_not_its_own(bench, tmp_path):
    factors = random_factors({Q: 4})
    adopt(bench, factors, tmp_path / "lora")
    record = bench.repository.state_at("HEAD").vectors["a"]
    terms = (Term(Fraction(-1, 2), VectorName(record.id)),)
    done = export(bench, tmp_path / "out", name="a", terms=terms, rank=4)
    down, up = factors[Q]
    exact = -(up.astype(np.float64) @ down)
    error = np.linalg.norm(products_of(tmp_path / "out")[Q] - exact)
    assert error <= 1e-6 * np.linalg.norm(exact)
    assert not done.kept[Q].exact


# What a training kept.


def test_the_difference_that_was_trained_is_what_is_written(tmp_path):
    before = drawn(0)
    delta = np.random.default_rng(9).normal(0, 1e-4, SHAPES[Q]).astype(np.float32)
    after = before | {Q: wide(bf16(before[Q])) + delta}
    bench = Bench(tmp_path, stored(before, "BF16"), CONFIG)
    folder = write_model(tmp_path / "trained", stored(after, "BF16"), CONFIG)
    write_model(folder / "delta", {Q: (TensorSpec("F32", SHAPES[Q]), delta.tobytes())})
    with bench.repository.change("commit") as change:
        head = recipe_id(bench.repository.state_at("HEAD").normal)
        write_training(folder, recipe=head, provenance={}, measured={})
        model = ModelDirectory.open(folder)
        commit_finetune(change, model, name="t", message="t", allowed=Allowances())
    export(bench, tmp_path / "out", rank=16)
    found = products_of(tmp_path / "out")[Q]
    assert np.linalg.norm(found - delta) <= 1e-6 * np.linalg.norm(delta)


# What is refused.


def test_nothing_to_hold_is_refused(tmp_path):
    before = drawn(0)
    norm = "model.layers.0.input_layernorm.weight"
    bench = Bench(tmp_path, stored(before), CONFIG)
    bench.commit("t", stored(before | {norm: before[norm] + 1}), CONFIG)
    with pytest.raises(NothingToExport, match="that an adapter could hold, only norms"):
        export(bench, tmp_path / "out", rank=4)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", [Q, "lm_head.weight"])
def test_what_is_not_finite_is_refused_by_name(tmp_path, name, value):
    before = drawn(0)
    after = {each: tensor.copy() for each, tensor in before.items()}
    after[Q] += 1
    after[name][1, 2] = value
    bench = Bench(tmp_path, stored(before), CONFIG)
    bench.commit("t", stored(after), CONFIG)
    with pytest.raises(InputError, match=f"the difference of {name} is not finite throughout"):
        export(bench, tmp_path / "out", rank=4)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["SomethingElse"]}, "what vLLM can adapt of SomethingElse is not known"),
        ({"architectures": []}, "does not name one architecture"),
        ({"architectures": ["LlamaForCausalLM", "Qwen3ForCausalLM"]}, "does not name one"),
        ({"architectures": {"a": 1}}, "does not name one architecture"),
    ],
)
def test_an_architecture_that_is_not_known_is_refused(tmp_path, config, message):
    before = drawn(0)
    bench = Bench(tmp_path, stored(before), config)
    bench.commit("t", stored({name: value + 1 for name, value in before.items()}), config)
    with pytest.raises(UnsupportedAdapter, match=message):
        export(bench, tmp_path / "out", rank=4)


@pytest.mark.parametrize("wanted", [{"rank": 0}, {"rank": -1}, {"energy": 0}, {"energy": math.nan}])
def test_ranks_and_shares_are_checked(wanted):
    with pytest.raises(InputError, match=r"a rank is|a share of"):
        Wanted(**wanted)


# In PEFT.


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_merged_by_peft_it_is_the_base_and_the_truncated_difference(tmp_path):
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
    )
    model = transformers.Qwen3ForCausalLM(config)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def held(values):
        return {
            name: (TensorSpec("F32", tuple(value.shape)), value.numpy().tobytes())
            for name, value in values.items()
        }

    said = config.to_dict() | {"architectures": ["Qwen3ForCausalLM"]}
    bench = Bench(tmp_path, held(base), said)
    tuned = {name: value + 0.02 * torch.randn_like(value) for name, value in base.items()}
    bench.commit("t", held(tuned), said)
    done = export(bench, tmp_path / "out", rank=5)
    assert len(done.kept) == 14
    assert list(done.reasons()) == ["embeddings", "norms"]
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "out")
    merged = loaded.merge_and_unload().state_dict()
    for name, value in base.items():
        expected = value
        if name in done.kept:
            delta = (tuned[name] - value).double()
            left, sizes, right = torch.linalg.svd(delta, full_matrices=False)
            expected = value + ((left[:, :5] * sizes[:5]) @ right[:5]).float()
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=2e-7)
