"""Tiny real models, and the command line run on them in this process."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tvc.cli.main import _run

__all__ = ["SHAPES", "Cli", "copied", "save_adapter", "save_model", "tensors", "tuned"]

SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.2.self_attn.q_proj.weight": (8, 8),
    "model.layers.10.self_attn.q_proj.weight": (8, 8),
    "model.norm.weight": (8,),
}
FILES = {
    "config.json": json.dumps({"model_type": "tiny", "vocab_size": 16}),
    "tokenizer_config.json": json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}),
    "chat_template.jinja": "{{ messages }}",
}


def save_model(folder: Path, weights: dict[str, torch.Tensor], **files: str) -> Path:
    """Write a model directory; files are named with `__` for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    for name, text in (
        FILES | {key.replace("__", "."): text for key, text in files.items()}
    ).items():
        (folder / name).write_text(text)
    return folder


def normal(seed: int, *shape: int) -> torch.Tensor:
    """Draw numbers that are the same with every version of every library."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)).float()


def weights_of(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    return {
        name: (normal(100 * seed + index, *shape) * 0.02).to(dtype)
        for index, (name, shape) in enumerate(SHAPES.items())
    }


def tuned(
    base: dict[str, torch.Tensor], seed: int, *, share: float = 0.5, names=None
) -> dict[str, torch.Tensor]:
    """Return weights of which a share is changed."""
    found = dict(base)
    for index, name in enumerate(names or base):
        shape = base[name].shape
        kept = np.random.RandomState(100 * seed + index).random_sample(shape) < share
        noise = normal(100 * seed + 50 + index, *shape) * 1e-2 * torch.from_numpy(kept)
        found[name] = (base[name].float() + noise).to(base[name].dtype)
    return found


def save_adapter(
    folder: Path,
    *,
    target: str = "model.layers.0.mlp.up_proj",
    shape: tuple[int, int] = (12, 8),
    rank: int = 2,
    size: float = 0.1,
    base: str = "base",
    seed: int = 0,
    **config: object,
) -> Path:
    """Write a LoRA adapter as PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    down = normal(seed, rank, shape[1])
    up = normal(seed + 1, shape[0], rank) * size
    prefix = f"base_model.model.{target}"
    save_file(
        {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    facts = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 4,
        "bias": "none",
        "base_model_name_or_path": base,
        "target_modules": [target.rpartition(".")[2]],
    }
    (folder / "adapter_config.json").write_text(json.dumps(facts | config))
    (folder / "README.md").write_text("# An adapter\n")
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model directory of one shard."""
    return load_file(folder / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Say whether two models are the same bit for bit; NaN payloads count."""
    return left.keys() == right.keys() and all(
        torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)) for name in left
    )


def copied(template: Path, target: Path) -> Path:
    """Copy a repository, or a folder of them."""
    return Path(shutil.copytree(template, target, symlinks=True))


class Cli:
    """Runs tvc in this process, in the current folder.

    Args:
        monkeypatch: Sets what the process is told it was called as.
        capsys: Catches what is printed.
    """

    def __init__(self, monkeypatch, capsys) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.err = ""

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Run tvc, check its exit code, and return what it wrote to standard output."""
        words = [str(each) for each in arguments]
        self._monkeypatch.setattr(sys, "argv", ["tvc", *words])
        self._capsys.readouterr()
        status = _run(words)
        out, self.err = self._capsys.readouterr()
        assert status == code, f"tvc {words} ended with {status}:\n{out}\n{self.err}"
        return out

    def fails(self, *arguments: object, code: int = 1) -> str:
        """Run tvc, which must fail, and return its error."""
        self(*arguments, code=code)
        return self.err

    def json(self, *arguments: object):
        """Run tvc and read the JSON that it prints."""
        return json.loads(self(*arguments, "--json"))

    def model(self, revision: str = "HEAD") -> dict[str, torch.Tensor]:
        """Check a revision out and return its weights."""
        target = Path.cwd().parent / f"out-{len(list(Path.cwd().parent.glob('out-*')))}"
        self("-q", "checkout", revision, "-o", target, "--verify")
        return tensors(target)

    def recipe(self) -> str:
        """Return the recipe of the working tree."""
        return self.json("status")["recipe"]
