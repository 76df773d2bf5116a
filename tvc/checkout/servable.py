"""Whether vLLM would serve a checkout as it is: asked before anything is written.

vLLM takes much in silence that is wrong: a tensor that is missing is whatever lies in memory, one
that it has no place for is dropped. So what a model holds is compared, name by name, with what its
configuration says. Absent on purpose: values, but for whether tied tensors are the same; and models
whose architecture is not known, of which nothing is said.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.models.architectures import Expected, expected_tensors, family_of
from tvc.models.layers import Shape
from tvc_store.ids import ObjectId

__all__ = ["Unservable", "check_servable"]

_WAY_OUT: Final = "write it as it is with --unservable"
_FUSED: Final = re.compile(r"\.(qkv_proj|gate_up_proj|in_proj_qkvz|in_proj_ba)\b")
_TAIL: Final = re.compile(
    r"(?:^|\.)((?:layers|layer|blocks|embed_tokens|\w*embeddings|norm)\..*)$", re.ASCII
)
_SENTENCES: Final = "modules.json"
"""A file by which vLLM, like sentence-transformers, takes a model for one that embeds."""


class Unservable(InputError):
    """vLLM would serve something else than this model, or refuse it."""


def check_servable(
    config: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    *,
    ids: Mapping[str, ObjectId],
    files: Collection[str],
) -> bool:
    """Refuse a model that vLLM would serve wrongly, or not at all.

    Args:
        config: Its parsed `config.json`; empty where it has none.
        shapes: Name → shape of every tensor that it will have.
        ids: Name → what a tensor is, for those of which that is known beforehand.
        files: Paths of the files beside its weights.

    Returns:
        Whether it was checked: False where tvc does not know the architecture.

    Raises:
        Unservable: By the name of the first tensor that is wrong.
    """
    family = family_of(config)
    if family is not None and not config.get("architectures"):
        raise Unservable(
            "config.json does not say `architectures`: vLLM would guess what kind of model it is",
            hint=f'give the base\'s config.json "architectures": ["{family}"], or {_WAY_OUT}',
        )
    known = expected_tensors(config)
    if known is None:
        return False
    every = [known, *known.others]
    if _SENTENCES in files:
        every += [_embedding(expected) for expected in every]
    expected = min(every, key=lambda one: len(one.shapes.keys() ^ shapes.keys()))
    _compare_names(_class_of(config), expected, shapes)
    _compare_ties(expected, ids)
    return True


def _class_of(config: Mapping[str, Any]) -> str:
    return printable(str(config["architectures"][0]))


def _embedding(expected: Expected) -> Expected:
    """Return a decoder as it may stand in a model that embeds: without the head and its prefix."""
    body = {
        name.removeprefix("model."): shape
        for name, shape in expected.shapes.items()
        if not name.startswith("lm_head.")
    }
    return replace(expected, shapes=body, tied={}, untied={})


def _compare_names(family: str, expected: Expected, shapes: Mapping[str, Shape]) -> None:
    wanted = {**expected.shapes, **expected.untied}
    missing = [name for name in wanted if name not in shapes]
    extra = [
        name
        for name in shapes
        if name not in wanted and name not in expected.tied and not expected.is_unused(name)
    ]
    _refuse_other_names(family, missing, extra)
    if missing:
        untied = missing[0] in expected.untied
        why = f": config.json ties it, but vLLM's {family} does not" if untied else ""
        raise Unservable(
            f"{_listed(missing)}, and vLLM would serve whatever lies in memory there{why}",
            hint=f"{family} has it; add it to the model that the vectors are of, or {_WAY_OUT}",
        )
    unserved = [name for name in shapes if expected.is_unserved(name)]
    if extra or unserved:
        name = _and_more(extra or unserved)
        raise Unservable(
            f"vLLM has no place for {name}: it would be dropped, or all of the model refused",
            hint=f"vLLM's {family} has no such tensor by config.json; take it out of the model "
            f"that the vectors are of, or {_WAY_OUT}",
        )
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise Unservable(
                f"{name} has the shape {list(shapes[name])}, but by config.json {list(shape)}",
                hint=f"correct config.json of the base, or {_WAY_OUT}",
            )


def _refuse_other_names(family: str, missing: Iterable[str], extra: Iterable[str]) -> None:
    """Refuse the right tensors under wrong names, in the words that say so."""
    fused = next((name for name in extra if _FUSED.search(name)), None)
    if fused is not None:
        raise Unservable(
            f"{printable(fused)} is fused already, as vLLM fuses for itself when it loads",
            hint=f"{family} is loaded by the names that transformers gives, or {_WAY_OUT}",
        )
    others = {_tail(name): name for name in extra}
    for name in missing:
        other = others.get(_tail(name))
        if other is not None:
            raise Unservable(
                f"{printable(other)} is {name} in {family}: vLLM would serve whatever lies in "
                "memory for names that it does not find",
                hint=f"correct `architectures` in config.json or the names, or {_WAY_OUT}",
            )


def _tail(name: str) -> str:
    """Return a name from the layers, or what stands beside them, on."""
    found = _TAIL.search(name)
    return found[1] if found else name


def _compare_ties(expected: Expected, ids: Mapping[str, ObjectId]) -> None:
    for name, source in expected.tied.items():
        if name in ids and source in ids and ids[name] != ids[source]:
            raise Unservable(
                f"{name} differs from {source}, although the model ties them",
                hint=f'say "tie_word_embeddings": false in config.json of the base, or {_WAY_OUT}',
            )


def _listed(names: list[str]) -> str:
    return f"{_and_more(names)} {'is' if len(names) == 1 else 'are'} missing"


def _and_more(names: list[str]) -> str:
    rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{printable(names[0])}{rest}"
