"""Exported adapters in vLLM: what it says with one is what the merged weights say in transformers.

vLLM on a CPU gives no log-probabilities of prompts with an adapter, so those of generated tokens
are compared. Gated delta nets compute in lower precision there, with or without an adapter.
"""

import json
import warnings
from pathlib import Path

import pytest
import torch
from engines import GENERATED, PROMPTS, divergence, fresh_engine
from makers import open_model, write_tiny, write_tuned
from safetensors.torch import load_file

from tvc.cli.main import _run
from tvc.models.adapter_targets import ARCHITECTURES

RANK = 8
# Kind → type of its weights, and how near an engine comes: in float32 every log-probability.
KINDS = {
    "llama": ("float32", 1e-4),
    "qwen3": ("float32", 1e-4),
    "gemma3": ("float32", 1e-4),
    "qwen3.5": ("bfloat16", 6e-2),
}


def tvc(*words):
    assert _run(["-q", *map(str, words)]) == 0


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory, monkeypatch_module):
    """A base, and the adapter of rank 8 that stands for a fine-tune of it; what was said of it."""
    kind = request.param
    root = tmp_path_factory.mktemp(kind)
    dtype = getattr(torch, KINDS[kind][0])
    write_tiny(root / "base", kind, dtype=dtype)
    write_tuned(root / "base", root / "tuned", kind, seed=3, scale=0.1)
    monkeypatch_module.chdir(root)
    tvc("init", "repo", "--base", root / "base")
    monkeypatch_module.chdir(root / "repo")
    tvc("commit", root / "tuned", "-m", "Listen", "--name", "listen")
    tvc("export", "listen", "--lora", "--rank", RANK, "-o", root / "adapter")
    return kind, root


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def merged(kind: str, root: Path):
    """Return the base in float32 with the adapter's products added to its weights."""
    model = open_model(root / "base", kind, dtype=torch.float32)
    weights = dict(model.named_parameters())
    factors = load_file(root / "adapter" / "adapter_model.safetensors")
    config = json.loads((root / "adapter" / "adapter_config.json").read_text())
    with torch.no_grad():
        for key, down in factors.items():
            if ".lora_A." in key:
                name = key.removeprefix("base_model.model.").replace(".lora_A", "")
                up = factors[key.replace(".lora_A.", ".lora_B.")]
                weights[name] += config["lora_alpha"] / config["r"] * (up @ down)
    return model


def said_by(model, texts) -> list[torch.Tensor]:
    """Return the log-probabilities of every next token: [tokens - 1, vocabulary], F64."""
    with torch.inference_mode():
        return [
            model(torch.tensor([text])).logits[0, :-1].double().log_softmax(-1) for text in texts
        ]


def continued(engine, lora) -> list[tuple[list[int], torch.Tensor]]:
    """Return each prompt with what vLLM goes on with, and its log-probabilities of that, F64."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=GENERATED, logprobs=-1, ignore_eos=True)
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    found = []
    answers = engine.generate(prompts, sampling, use_tqdm=False, lora_request=lora)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        said = answer.outputs[0]
        rows = [[row[token].logprob for token in range(len(row))] for row in said.logprobs]
        found.append(([*prompt, *said.token_ids], torch.tensor(rows, dtype=torch.float64)))
    return found


def test_with_an_adapter_vllm_says_what_the_merged_weights_say(exported):
    from vllm.lora.request import LoRARequest

    kind, root = exported
    dtype, near = KINDS[kind]
    options = {"dtype": dtype, "enable_lora": True, "max_lora_rank": RANK, "max_loras": 1}
    with fresh_engine(root / "base", **options) as engine:
        adapted = continued(engine, LoRARequest("listen", 1, str(root / "adapter")))
        plain = continued(engine, None)
    texts = [text for text, _ in adapted]
    whole = merged(kind, root)
    base = open_model(root / "base", kind, dtype=torch.float32)
    for (text, heard), exact, without in zip(
        adapted, said_by(whole, texts), said_by(base, texts), strict=True
    ):
        exact, without = exact[-GENERATED:], without[-GENERATED:]
        # Had the adapter not been heard, it would be as far as `without`.
        if dtype == "float32":
            assert exact.argmax(-1).tolist() == text[-GENERATED:]
            assert (heard - exact).abs().max() < near
            assert (without - exact).abs().max() > 1000 * near
        assert divergence(exact, heard) < near
        assert divergence(exact, without) > 10 * divergence(exact, heard)
    # And requests that name no adapter are answered by the base.
    for (_, heard), exact in zip(plain, said_by(base, [text for text, _ in plain]), strict=True):
        assert divergence(exact[-GENERATED:], heard) < near


def test_peft_merges_it_to_the_same_weights(exported):
    import peft

    kind, root = exported
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # it warns of factors that it finds no place for
        model = open_model(root / "base", kind, dtype=torch.float32)
        loaded = peft.PeftModel.from_pretrained(model, root / "adapter")
        found = loaded.merge_and_unload().state_dict()
    for name, weight in merged(kind, root).state_dict().items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vllm_can_adapt_what_is_said_of_an_architecture(architecture):
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.registry import _VLLM_MODELS

    assert architecture in _VLLM_MODELS
    cls = ModelRegistry._try_load_model_cls(architecture)
    assert cls.supports_lora
    packed = {part for parts in cls.packed_modules_mapping.values() for part in parts}
    words = {path.rpartition(".")[2] for path in ARCHITECTURES[architecture][1]}
    fused = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "in_proj_qkv", "in_proj_z"}
    assert words & fused <= packed | {"gate_proj", "up_proj"}
