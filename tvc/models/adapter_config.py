"""What `adapter_config.json` of PEFT says about an adapter, and whether it is plain LoRA.

Only options that change what the adapter computes are looked at; which modules were meant, and how
most factors were initialised, is told by the factors themselves. What is written has one rank and
one scale for all modules, so that no patterns are needed: vLLM reads them from 0.32 on only.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, cast

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc_store.errors import IntegrityError

__all__ = ["BadAdapter", "LoraOptions", "UnsupportedAdapter", "lora_config"]

# Option → why it cannot be kept as `scale · B A`. Absent, null, false and empty mean plain LoRA.
_REFUSED: Final = {
    "use_dora": "DoRA also rescales every column, which depends on the base weights",
    "lora_bias": "it trains biases, which are no product of two factors",
    "modules_to_save": "it replaces whole modules",
    "trainable_token_indices": "it replaces rows of the embedding",
    "layer_replication": "it adds layers to the base model",
    "target_parameters": "it changes parameters that are no linear layer's weight",
    "alora_invocation_tokens": "it is active only after certain tokens",
    "megatron_config": "its layers are divided among processes",
    "use_qalora": "it pools the inputs of a layer",
    "use_bdlora": "its factors are block-diagonal",
    "velora_config": "it stores more than two factors",
    "kasa_config": "it puts a trained diagonal between the factors",
    "monteclora_config": "it samples its factors",
    "arrow_config": "it routes between several adapters",
}
# These initialisations change the base weights too: the factors fit only the changed base. PEFT
# rewrites the option when it converts such an adapter to plain LoRA. EVA and others do not.
_CHANGES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MAX_PATTERNS: Final = 4_096
_MAX_PATTERN: Final = 512


class BadAdapter(IntegrityError):
    """An adapter's factors and its configuration do not agree."""


class UnsupportedAdapter(InputError):
    """An adapter that is not exactly a sum of `scale · B A`."""


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """The options of an adapter that change what it computes.

    Args:
        rank: Rank where no pattern matches.
        alpha: Numerator of the scale where no pattern matches.
        ranks: Pattern → rank, the first match counts.
        alphas: Pattern → alpha, the first match counts.
        use_rslora: Divide alpha by the root of the rank (arXiv:2312.03732, eq. 3), not by the rank.
        fan_in_fan_out: Base weights are stored as (in, out), as GPT-2 does.
    """

    rank: int
    alpha: Fraction
    ranks: tuple[tuple[re.Pattern[str], int], ...]
    alphas: tuple[tuple[re.Pattern[str], Fraction], ...]
    use_rslora: bool
    fan_in_fan_out: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LoraOptions":
        """Read the options out of a parsed `adapter_config.json`.

        Raises:
            UnsupportedAdapter: It is another method, or an option is set that plain LoRA has not.
            BadAdapter: An option has a value that it cannot have.
        """
        _refuse_variants(config)
        ranks = _patterns(config, "rank_pattern")
        alphas = _patterns(config, "alpha_pattern")
        return cls(
            rank=_rank(config.get("r", 8), option="r"),
            alpha=_alpha(config.get("lora_alpha", 8), option="lora_alpha"),
            ranks=tuple((key, _rank(value, option="rank_pattern")) for key, value in ranks),
            alphas=tuple((key, _alpha(value, option="alpha_pattern")) for key, value in alphas),
            use_rslora=_flag(config, "use_rslora"),
            fan_in_fan_out=_flag(config, "fan_in_fan_out"),
        )

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's factors."""
        return next((rank for key, rank in self.ranks if key.match(module)), self.rank)

    def scale_of(self, module: str) -> Fraction:
        """Return what the product of a module's factors is multiplied by.

        For rank-stabilised LoRA this is the double that PEFT computes, exactly.
        """
        alpha = next((alpha for key, alpha in self.alphas if key.match(module)), self.alpha)
        rank = self.rank_of(module)
        return Fraction(float(alpha) / math.sqrt(rank)) if self.use_rslora else alpha / rank


def lora_config(rank: int, scale: Fraction, modules: Sequence[str], *, base: str) -> bytes:
    """Return the `adapter_config.json` of a plain LoRA adapter of a causal language model.

    Args:
        rank: Of all its factors.
        scale: What their products are multiplied by; readers divide in float64.
        modules: Names of the modules that it changes, or last words of them.
        base: What the adapter says that it was made for: a hub id or a folder.
    """
    alpha = scale * rank
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha.denominator == 1 else float(alpha),
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return json.dumps(config, indent=2).encode() + b"\n"


def _refuse_variants(config: Mapping[str, Any]) -> None:
    method = config.get("peft_type")
    if method != "LORA":
        raise UnsupportedAdapter(
            f"the adapter's peft_type is {printable(str(method))}", hint="only LORA is supported"
        )
    for option, why in _REFUSED.items():
        if config.get(option):
            raise UnsupportedAdapter(f"the adapter uses {option}: {why}", hint=_merge_hint())
    bias = config.get("bias", "none")
    if bias != "none":
        shown = printable(str(bias))
        raise UnsupportedAdapter(f"the adapter trains biases (bias = {shown})", hint=_merge_hint())
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGES_BASE):
        raise UnsupportedAdapter(
            f"the adapter was initialised by {printable(start)}, which changes the base weights",
            hint="save it with path_initial_model_for_weight_conversion, as plain LoRA",
        )


def _merge_hint() -> str:
    return "merge it with PEFT (merge_and_unload) and commit the model that results"


def _rank(value: object, *, option: str) -> int:
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise BadAdapter(f"{option} of the adapter is {printable(str(value))}, which is no rank")
    return value


def _alpha(value: object, *, option: str) -> Fraction:
    if type(value) not in (int, float) or not abs(number := cast("float", value)) < 1e9:
        raise BadAdapter(f"{option} of the adapter is {printable(str(value))}, which is no scale")
    return Fraction(number)


def _flag(config: Mapping[str, Any], option: str) -> bool:
    value = config.get(option, False)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise BadAdapter(f"{option} of the adapter is {printable(str(value))}, not true or false")


def _patterns(config: Mapping[str, Any], option: str) -> list[tuple[re.Pattern[str], object]]:
    """Compile the patterns as PEFT 0.21 matches them: at the end of a name, after a dot."""
    found: object = config.get(option) or {}
    if not isinstance(found, dict) or len(cast("dict[str, object]", found)) > _MAX_PATTERNS:
        raise BadAdapter(f"{option} of the adapter is no table of at most {_MAX_PATTERNS} patterns")
    return [
        (_compile(key, option=option), value)
        for key, value in cast("dict[str, object]", found).items()
    ]


def _compile(key: str, *, option: str) -> re.Pattern[str]:
    shown = f"the pattern '{printable(key)}' of {option}"
    if len(key) > _MAX_PATTERN or not _is_quick(key):
        raise UnsupportedAdapter(
            f"{shown} is too intricate", hint="name the modules one by one, as PEFT also allows"
        )
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        raise BadAdapter(f"{shown} is no regular expression: {error}") from None


def _is_quick(key: str) -> bool:
    """Say whether a pattern cannot make the backtracking matcher run for long.

    A foreign regular expression may take exponential time; few repetitions, none of them of a
    group, and few alternatives bound it. In use are names, `.*name`, `[0-9]+` and `(a|b)`.
    """
    repeats = sum(key.count(mark) for mark in "*+")
    choices = sum(key.count(mark) for mark in "|?")
    return repeats <= 2 and choices <= 10 and re.search(r"\)[*+?]|\(\?|\{|\\[1-9]", key) is None
