"""Straight from the store into vLLM, and from one commit to another in memory, for each kind.

What is held afterwards is compared with the commit by content, and what the model says with a fresh
load of that commit: to the last bit, since it is the same arithmetic on the same weights.
"""

import json
from pathlib import Path

import makers
import pytest
import torch
from engines import fresh_engine, generated

from tvc.cli.main import _run
from tvc.evaluation.numbers import cast_elements
from tvc.repository.repository import Repository
from tvc.serving.source import Location, served
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import tensor_id

LIVE = {"load_format": "tvc", "weight_transfer_config": {"backend": "tvc"}}
BF16 = {"dtype": "bfloat16", "max_model_len": 256, "block_size": 32}
KINDS = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma3": {},
    "qwen3.5": BF16,
    "qwen3.5-vision": BF16,
}


def tvc(repo: Path, *arguments: object) -> None:
    assert _run(["-q", "-C", str(repo), *map(str, arguments)]) == 0


@pytest.fixture(autouse=True)
def _somebody(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine is in this process
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")


def make_repo(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Path:
    """A repository with the branches main and tuned."""
    base = makers.write_tiny(folder / "base", kind, dtype=dtype)
    tuned = makers.write_tuned(base, folder / "tuned", kind, seed=3)
    repo = folder / "repo"
    tvc(folder, "init", repo, "--base", base)
    tvc(repo, "switch", "-c", "tuned", "main")
    tvc(repo, "commit", tuned, "-m", "Tune", "--name", "tuned")
    tvc(repo, "switch", "main")
    return repo


def describe(engine) -> dict:
    [told] = engine.collective_rpc("tvc_live", args=("describe",))
    assert "error" not in told, told
    return told


def digests(engine, names) -> dict[str, str]:
    return engine.collective_rpc("tvc_live", args=("digests", list(names)))[0]["digests"]


def change(engine, update: dict) -> None:
    engine.start_weight_update()
    engine.update_weights({"update_info": update})
    engine.finish_weight_update()
    engine.reset_prefix_cache()


def commit_of(repo: Path, branch: str) -> str:
    return Repository.open(repo).git.resolve(branch)


def ids_of(repo: Path, branch: str, held: dict) -> dict[str, str]:
    """What the tensors of a commit are by content, in the types that the model holds them in."""
    found = {}
    with served(Location(repo, branch)) as source:
        for name, spec in source.specs.items():
            kept = TensorSpec(held[name]["dtype"], spec.shape)
            found[name] = tensor_id(
                kept, cast_elements(source.tensor(name), spec.dtype, kept.dtype)
            )
    return found


def same(one, other) -> bool:
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_store_to_another_commit_and_back(kind, tmp_path):
    options = LIVE | KINDS[kind]
    bf16 = KINDS[kind] is BF16
    repo = make_repo(tmp_path, kind, torch.bfloat16 if bf16 else torch.float32)
    with fresh_engine(f"tvc://{repo}@tuned", **options) as engine:
        fresh = generated(engine)
    with fresh_engine(f"tvc://{repo}@main", **options) as engine:
        first = generated(engine)
        assert not same(first, fresh)
        told = describe(engine)
        assert told["unheld"] == {}
        change(engine, {"repository": str(repo), "commit": commit_of(repo, "tuned")})
        assert same(generated(engine), fresh)
        wanted = ids_of(repo, "tuned", told["tensors"])
        assert digests(engine, wanted) == wanted
        assert describe(engine)["commit"] == commit_of(repo, "tuned")
        change(engine, {"repository": str(repo), "commit": commit_of(repo, "main"), "undo": True})
        assert same(generated(engine), first)
        assert describe(engine)["state"] == told["state"]
        assert describe(engine)["before"] == []


@pytest.mark.parametrize(("kind", "options"), [("qwen3-moe", {}), ("qwen3-next", BF16)])
def test_experts_that_were_packed_are_refused_and_the_rest_is_not(kind, options, tmp_path):
    """On a CPU vLLM keeps experts in another form, in which they cannot be read back."""
    dtype = torch.bfloat16 if options is BF16 else torch.float32
    repo = make_repo(tmp_path, kind, dtype)
    calm = makers.open_model(tmp_path / "base", kind, dtype="auto")
    with torch.no_grad():
        for name, parameter in calm.named_parameters():
            if ".experts." not in name:
                parameter += 0.05
    makers.save(calm, tmp_path / "calm")
    tvc(repo, "switch", "-c", "calm", "main")
    tvc(repo, "commit", tmp_path / "calm", "-m", "Calm", "--name", "calm")
    with fresh_engine(f"tvc://{repo}@calm", **LIVE | options) as engine:
        fresh = generated(engine)
    with fresh_engine(f"tvc://{repo}@main", **LIVE | options) as engine:
        first, told = generated(engine), describe(engine)
        assert told["unheld"]
        assert all(".experts." in name for name in told["unheld"])
        with pytest.raises(Exception, match="experts"):
            change(engine, {"repository": str(repo), "commit": commit_of(repo, "tuned")})
        assert describe(engine)["state"] == told["state"]
        assert same(generated(engine), first)
        change(engine, {"repository": str(repo), "commit": commit_of(repo, "calm")})
        assert same(generated(engine), fresh)


def test_no_directory_is_written(tmp_path):
    """What goes with the weights is in vLLM's cache; weights are nowhere but in the store."""
    repo = make_repo(tmp_path, "qwen3")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with fresh_engine(f"tvc://{repo}@tuned", **LIVE) as engine:
        model = Path(engine.llm_engine.vllm_config.model_config.model)
        assert {path.suffix for path in model.rglob("*") if path.is_file()} <= {".json", ".jinja"}
        assert json.loads((model / "config.json").read_text())["model_type"] == "qwen3"
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after - before if path.stat().st_size > 64 << 10} == set()
