"""Does a fine-tune fit the model that it was trained from? A mismatch is an error, never a warning.

Tensor by tensor: missing, extra, of another shape or type. What a person may allow is said in the
hint; what tied weights explain needs no permission. Nothing is read here but lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.models.ties import tied_names
from tvc_store.dtypes import TensorSpec

__all__ = ["Allowances", "Mismatch", "match_tensors"]

_SHOWN: Final = 5


class Mismatch(InputError):
    """A model's tensors are not those of the model that it is compared with."""


@dataclass(frozen=True, slots=True)
class Allowances:
    """Mismatches that the user allowed by name.

    Args:
        missing: Tensors that the fine-tune may lack; they count as unchanged.
        extra: Tensors of the fine-tune that are left out of the vector.
        resize_vocab: The first dimension may have grown.
        dtype: Tensors may have another element type.
    """

    missing: frozenset[str] = field(default_factory=frozenset[str])
    extra: frozenset[str] = field(default_factory=frozenset[str])
    resize_vocab: bool = False
    dtype: bool = False


def match_tensors(
    tuned: Mapping[str, TensorSpec],
    parent: Mapping[str, TensorSpec],
    *,
    config: Mapping[str, Any],
    allowed: Allowances,
) -> dict[str, str | None]:
    """Say for every tensor of the parent which tensor of the fine-tune is its new value.

    Args:
        tuned: The fine-tune's tensors.
        parent: Those of the model it was trained from.
        config: The fine-tune's config.json, which says what is tied.
        allowed: What may differ.

    Returns:
        Parent's name → the fine-tune's name, another one for a tied tensor stored once; None where
        a missing tensor is allowed and counts as unchanged.

    Raises:
        Mismatch: Something differs that is not allowed; names the tensors and both sides.
    """
    ties = tied_names(config, {*tuned, *parent})
    sources: dict[str, str | None] = {}
    missing: list[str] = []
    for name in parent:
        if name in tuned:
            sources[name] = name
        elif ties.get(name) in tuned:
            sources[name] = ties[name]
        elif name in allowed.missing:
            sources[name] = None
        else:
            missing.append(name)
    _refuse_missing(missing)
    extra = set(tuned) - set(parent) - allowed.extra
    _refuse_extra(sorted(name for name in extra if ties.get(name) not in parent))
    for name, source in sources.items():
        if source is not None:
            _compare(name, tuned[source], parent[name], allowed)
    return sources


def _listed(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _refuse_missing(names: list[str]) -> None:
    if names:
        raise Mismatch(
            f"the fine-tune lacks tensors that the model it is compared with has: {_listed(names)}",
            hint=f"if they are unchanged: --allow-missing '{printable(names[0])}'",
        )


def _refuse_extra(names: list[str]) -> None:
    if names:
        raise Mismatch(
            f"the fine-tune has tensors that the model it is compared with lacks: {_listed(names)}",
            hint=f"to leave them out: --drop-extra '{printable(names[0])}'",
        )


def _compare(name: str, tuned: TensorSpec, parent: TensorSpec, allowed: Allowances) -> None:
    shown = printable(name)
    if tuned.shape != parent.shape:
        grown = len(tuned.shape) == len(parent.shape) and tuned.shape[1:] == parent.shape[1:]
        grown = grown and len(tuned.shape) > 0 and tuned.shape[0] > parent.shape[0]
        if not (grown and allowed.resize_vocab):
            raise Mismatch(
                f"tensor {shown} has shape {list(tuned.shape)} in the fine-tune and "
                f"{list(parent.shape)} in the model it is compared with",
                hint="if the vocabulary grew: --resize-vocab"
                if grown
                else "was it trained from another base? `tvc status` shows this one's",
            )
    if tuned.dtype != parent.dtype and not allowed.dtype:
        raise Mismatch(
            f"tensor {shown} is {tuned.dtype} in the fine-tune and {parent.dtype} in the model it "
            "is compared with",
            hint="save it in the same type, or keep its own with --allow-dtype",
        )
