"""Which matrices of a model an adapter can change, in vLLM and in PEFT both.

vLLM applies LoRA to its linear layers, under the names that transformers gives them; what is fused
when a model is loaded (`qkv_proj`, `gate_up_proj`, `in_proj_qkvz`) is split again for adapters.
PEFT applies it to modules that are linear layers in transformers. Named here are the matrices that
are both, by architecture as `config.json` names it, as read in vLLM 0.30 to 0.33 (`SupportsLoRA`,
`packed_modules_mapping`). Dense ones and Qwen3.5 were tried in vLLM 0.32 on a CPU, where those with
experts do not run with adapters. An architecture that is not here is refused.

Absent on purpose: embeddings and `lm_head`, which vLLM takes for some architectures only; experts
and their routers, which are no linear layers in transformers 5; vision towers, to which vLLM
applies adapters only where the server was started so.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.domain.snapshot import TensorRef
from tvc.models.adapter_config import UnsupportedAdapter

__all__ = ["ARCHITECTURES", "MAX_RANK", "TargetModules", "target_modules", "why_not"]

MAX_RANK: Final = 512
"""The largest `--max-lora-rank` that vLLM knows."""

_ATTENTION: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_MLP: Final = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_SHARED: Final = (
    "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.up_proj",
    "mlp.shared_expert.down_proj",
)
_DELTA_NET: Final = (
    "linear_attn.in_proj_qkv",
    "linear_attn.in_proj_z",
    "linear_attn.in_proj_b",
    "linear_attn.in_proj_a",
    "linear_attn.out_proj",
)
_DENSE: Final = (*_ATTENTION, *_MLP)
_TEXT: Final = "model.layers."
_BESIDE_VISION: Final = "model.language_model.layers."
ARCHITECTURES: Final = {
    "Gemma2ForCausalLM": (_TEXT, _DENSE),
    "Gemma3ForCausalLM": (_TEXT, _DENSE),
    "GemmaForCausalLM": (_TEXT, _DENSE),
    "GraniteForCausalLM": (_TEXT, _DENSE),
    "LlamaForCausalLM": (_TEXT, _DENSE),
    "MistralForCausalLM": (_TEXT, _DENSE),
    "Qwen2ForCausalLM": (_TEXT, _DENSE),
    "Qwen3ForCausalLM": (_TEXT, _DENSE),
    "Qwen3MoeForCausalLM": (_TEXT, _DENSE),
    "Qwen3NextForCausalLM": (_TEXT, (*_DENSE, *_SHARED, "linear_attn.out_proj")),
    "Qwen3_5ForCausalLM": (_TEXT, (*_DENSE, *_DELTA_NET)),
    "Qwen3_5ForConditionalGeneration": (_BESIDE_VISION, (*_DENSE, *_DELTA_NET)),
    "Qwen3_5MoeForCausalLM": (_TEXT, (*_DENSE, *_SHARED, *_DELTA_NET)),
    "Qwen3_5MoeForConditionalGeneration": (_BESIDE_VISION, (*_DENSE, *_SHARED, *_DELTA_NET)),
}
"""Architecture → what stands before a layer's number, and its linear layers."""


class TargetModules:
    """The modules of one architecture that an adapter may change.

    Args:
        architecture: As `config.json` names it.
        chosen: Last words of the modules that are wanted (`q_proj`); empty for all of them.

    Raises:
        UnsupportedAdapter: The architecture is not known here.
        InputError: It has no module of a name that is wanted.
    """

    def __init__(self, architecture: str, chosen: tuple[str, ...] = ()) -> None:
        if architecture not in ARCHITECTURES:
            raise UnsupportedAdapter(
                f"what vLLM can adapt of {printable(architecture)} is not known",
                hint=f"known: {', '.join(ARCHITECTURES)}",
            )
        prefix, paths = ARCHITECTURES[architecture]
        self.architecture = architecture
        names = sorted({path.rpartition(".")[2] for path in paths})
        for name in chosen:
            if name not in names:
                raise InputError(
                    f"{printable(name)} is no module of {architecture} that vLLM can adapt",
                    hint=nearest(name, names) or f"there are {', '.join(names)}",
                )
        self.chosen = tuple(sorted(set(chosen))) or tuple(names)
        self._known = self._pattern(prefix, paths)
        self._wanted = self._pattern(
            prefix, [path for path in paths if path.rpartition(".")[2] in self.chosen]
        )

    @staticmethod
    def _pattern(prefix: str, paths: tuple[str, ...] | list[str]) -> re.Pattern[str]:
        layers = "|".join(map(re.escape, paths))
        return re.compile(rf"{re.escape(prefix)}[0-9]{{1,6}}\.(?:{layers})\.weight")

    def holds(self, tensor: str) -> bool:
        """Say whether a tensor is the weight of a module that is wanted."""
        return self._wanted.fullmatch(tensor) is not None

    def knows(self, tensor: str) -> bool:
        """Say whether a tensor is the weight of a module that could be wanted."""
        return self._known.fullmatch(tensor) is not None


def target_modules(config: Mapping[str, Any], chosen: tuple[str, ...] = ()) -> TargetModules:
    """Return what an adapter may change of a model.

    Args:
        config: The model's parsed `config.json`.
        chosen: Last words of the modules that are wanted; empty for all of them.

    Raises:
        UnsupportedAdapter: The architecture is not said, or not known here.
        InputError: It has no module of a name that is wanted.
    """
    said: object = config.get("architectures")
    names = cast("list[object]", said) if isinstance(said, list) else []
    if len(names) != 1 or not isinstance(names[0], str):
        raise UnsupportedAdapter("config.json of the base does not name one architecture")
    return TargetModules(names[0], chosen)


def why_not(tensor: str, ref: TensorRef, targets: TargetModules) -> str | None:
    """Return what kind of tensor it is that an adapter leaves out, or None where it takes it.

    Args:
        tensor: Its name.
        ref: What the base has under it.
        targets: What the adapter may change.
    """
    spec, words = ref.spec, tensor.split(".")
    if targets.holds(tensor) and len(spec.shape) == 2:
        return "8-bit weights" if spec.dtype.startswith("F8") else None
    if targets.knows(tensor) and len(spec.shape) == 2:
        return "modules not asked for"
    if words[-1] == "bias":
        return "biases"
    if len(spec.shape) < 2:
        return "norms" if "norm" in tensor.lower() else "other vectors"
    if "experts" in words:
        return "experts"
    if {"embed_tokens", "lm_head"} & set(words):
        return "embeddings"
    if any("conv" in word for word in words):
        return "convolutions"
    return "vision tower" if "visual" in words else "other tensors"
