"""A model in memory that fuses and pads as vLLM does, filled by loaders like its."""

import torch

from tvc.vllm.holding import LoadRecord
from tvc.vllm.live import LiveModel, Origin

__all__ = ["Fused", "live_model", "load"]


class Fused(torch.nn.Module):
    """q, k and v in one parameter, the embedding padded, a norm as it is."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.attention = torch.nn.Module()
        self.attention.qkv = torch.nn.Parameter(torch.full((8, 4), 9.0, dtype=dtype), False)
        self.embed_tokens = torch.nn.Embedding(16, 4, dtype=dtype)
        self.embed_tokens.weight.data.zero_()
        self.norm = torch.nn.Parameter(torch.zeros(4, dtype=dtype), False)
        self.scale = torch.nn.Parameter(torch.zeros(3, dtype=dtype), False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.attention.qkv.T


ROWS = {"q": (0, 4), "k": (4, 2), "v": (6, 2)}


def load(model: Fused, weights) -> None:
    for name, tensor in weights:
        if name in ROWS:
            start, count = ROWS[name]
            model.attention.qkv.data.narrow(0, start, count).copy_(tensor)
        elif name == "embed":
            model.embed_tokens.weight.data[: tensor.shape[0]].copy_(tensor)
        elif name == "norm":
            model.norm.data.copy_(tensor)
        elif name == "log_scale":  # changed on its way
            model.scale.data.copy_(tensor.exp())


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    shapes = {"q": (4, 4), "k": (2, 4), "v": (2, 4), "embed": (11, 4), "norm": (4,)}
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()} | {
        "log_scale": torch.randn(3).to(dtype),
        "unused": torch.randn(2).to(dtype),
    }


def live_model(
    given: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32
) -> tuple[Fused, LoadRecord, LiveModel]:
    model = Fused(dtype)
    record = LoadRecord(model)
    with record.watching():
        load(model, record.watched(given.items()))
    return model, record, LiveModel(model, record, Origin("first", "", "base"))
