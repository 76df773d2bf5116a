"""Where the gradient went, per kind of weight.

Kinds are told by the names that transformers gives to parameters. Where the output layer is tied to
the embedding there is one parameter, and its gradient counts as the embedding's.

Absent: which heads of a layer, and what an optimizer makes of a gradient.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["GradientReport", "kind_of"]

_KINDS: Final = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"(^|\.)(visual|vision\w*)\.", "vision"),
        (r"\blinear_attn\.in_proj_(\w+)$", r"delta-\1"),
        (r"\blinear_attn\.(A_log|dt_bias)$", r"delta-\1"),
        (r"\blinear_attn\.conv1d$", "delta-convolution"),
        (r"\blinear_attn\.out_proj$", "delta-output"),
        (r"\.experts\.", "experts"),
        (r"\.(router|mlp\.gate|block_sparse_moe\.gate|shared_expert_gate)(\.|$)", "router"),
        (r"(norm\w*|\bln_\w+)$", "norm"),
        (r"\b(lm_head|embed_out)$", "head"),
        (r"(embed|\bwte$|\bwpe$)", "embedding"),
        (r"\b(qkv_proj|c_attn|query_key_value)$", "query-key-value"),
        (r"\bkv_(a|b)_proj", "key-value"),
        (r"\bq(_a|_b)?_proj$", "query"),
        (r"\bk_proj$", "key"),
        (r"\bv_proj$", "value"),
        (r"\b(o_proj|out_proj|attn\.c_proj|attention\.dense)$", "output"),
        (r"\bgate_up_proj$", "gate-up"),
        (r"\bgate_proj$", "gate"),
        (r"\b(up_proj|c_fc|fc1|dense_h_to_4h)$", "up"),
        (r"\b(down_proj|mlp\.c_proj|fc2|dense_4h_to_h)$", "down"),
    )
)
"""The first that is found in a name without `.weight` or `.bias` says its kind."""


def kind_of(name: str) -> str:
    """Return what a parameter is for: `query`, `down`, `delta-A_log`, …; `other` if none is known.

    Parts of gated delta nets begin with `delta-`: their input projections (`delta-qkv`, `delta-z`,
    `delta-b`, `delta-a`, or fused `delta-qkvz` and `delta-ba`), `delta-A_log`, `delta-dt_bias`,
    `delta-convolution` and `delta-output`. All weights of routed experts are `experts`.

    Args:
        name: As `named_parameters` gives it.
    """
    stem = re.sub(r"\.(weight|bias)$", "", name)
    for pattern, kind in _KINDS:
        found = pattern.search(stem)
        if found:
            return found.expand(kind)
    return "other"


class GradientReport:
    """Squared lengths of gradients, summed over steps; holds no gradient."""

    def __init__(self) -> None:
        self.steps = 0
        self._squares: defaultdict[str, float] = defaultdict(float)
        self._tensors: Counter[str] = Counter()
        self._elements: Counter[str] = Counter()

    def add(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Count one step's gradients.

        Where weights are shared out, every process has to call this, and all get the same numbers.

        Args:
            named_parameters: With their gradients, at least one; those without count nothing.
        """
        kinds, lengths = zip(*_lengths(named_parameters), strict=True)
        values = cast("list[float]", torch.stack(lengths).tolist())  # one wait for the device
        for (kind, elements), length in zip(kinds, values, strict=True):
            self._squares[kind] += length**2
            if not self.steps:
                self._tensors[kind] += 1
                self._elements[kind] += elements
        self.steps += 1

    def to_json(self) -> dict[str, Any]:
        """Return the report.

        Returns:
            `steps`; and under `kinds`, by kind, the largest first: `share` of the squared length of
            all gradients, from 0 to 1; `squared_norm`, the mean over steps; and the numbers of
            `tensors` and `elements` of that kind.
        """
        total = sum(self._squares.values())
        return {
            "steps": self.steps,
            "kinds": {
                kind: {
                    "share": square / total if total else 0.0,
                    "squared_norm": square / self.steps,
                    "tensors": self._tensors[kind],
                    "elements": self._elements[kind],
                }
                for kind, square in sorted(self._squares.items(), key=lambda each: -each[1])
            },
        }


def _lengths(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[tuple[str, int], Tensor]]:
    """Yield kind, elements, and the length of the gradient as a float64 scalar."""
    for name, parameter in named:
        if parameter.grad is not None:
            length = cast("Tensor", parameter.grad.norm(dtype=torch.float64))
            if isinstance(length, DTensor):
                length = length.full_tensor()
            yield (kind_of(name), parameter.numel()), length
