"""Reads a mergekit configuration, and refuses by name what a recipe cannot say.

Read as mergekit 0.1.5 does. Whatever would mean something else here (layers taken from several
models, parameters that differ from layer to layer, another tokenizer, a cast) is refused with what
to do; nothing is left out in silence. What a configuration means is in `tvc.versioning.mergekit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.versioning.strict_yaml import Value, read_yaml

__all__ = ["PARAMETERS", "MergekitFile", "Parameters", "Unsaid", "parse_mergekit"]

_REFUSED: Final = {
    "slices": (
        "it takes layers from several models",
        "where all layers are taken, write models: in place of slices:",
    ),
    "modules": ("it merges parts of a model separately", "write models: for the whole model"),
    "tokenizer_source": (
        "tvc carries the tokenizer of each fine-tune, and asks where two differ",
        "take the line out",
    ),
    "tokenizer": (
        "tvc carries the tokenizer of each fine-tune, and asks where two differ",
        "take it out",
    ),
    "chat_template": (
        "a chat template is part of a fine-tune here",
        "take the line out, and commit a model that has the template",
    ),
}
_KEYS: Final = ("merge_method", "models", "base_model", "parameters", "dtype", "out_dtype")
_DTYPES: Final = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bf16": "BF16",
    "fp16": "F16",
    "fp32": "F32",
}


class Parameters(NamedTuple):
    """Parameters of a method: those each model may have its own value of, and the others."""

    own: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


_SPARSE: Final = ("normalize", "rescale", "lambda", "int8_mask")

PARAMETERS: Final[Mapping[str, Parameters]] = {
    "arcee_fusion": Parameters(),
    "breadcrumbs": Parameters(("weight", "density", "gamma"), _SPARSE),
    "breadcrumbs_ties": Parameters(("weight", "density", "gamma"), _SPARSE),
    "dare_linear": Parameters(("weight", "density"), _SPARSE),
    "dare_ties": Parameters(("weight", "density"), _SPARSE),
    "della": Parameters(("weight", "density", "epsilon"), _SPARSE),
    "della_linear": Parameters(("weight", "density", "epsilon"), _SPARSE),
    "karcher": Parameters((), ("max_iter", "tol")),
    "linear": Parameters(("weight",), ("normalize",)),
    "model_stock": Parameters((), ("filter_wise",)),
    "multislerp": Parameters(("weight",), ("normalize_weights", "eps")),
    "nearswap": Parameters((), ("t",)),
    "nuslerp": Parameters(("weight",), ("nuslerp_flatten", "nuslerp_row_wise")),
    "sce": Parameters((), ("select_topk", "int8_mask")),
    "slerp": Parameters((), ("t",)),
    "task_arithmetic": Parameters(("weight",), ("normalize", "lambda", "int8_mask")),
    "ties": Parameters(("weight", "density"), _SPARSE),
}
"""By mergekit's name of a method. `int8_mask` saves memory there, and changes no result."""


class Unsaid(InputError):
    """A mergekit configuration says something that a recipe cannot."""


@dataclass(frozen=True, slots=True)
class MergekitFile:
    """A configuration, checked as far as it can be without models.

    Args:
        method: As mergekit calls it.
        base_model: What the file calls it, if it has one.
        models: What the file calls them, in order, with their own parameters; the base, where it
            has one, is among them as mergekit has it.
        parameters: Of the whole merge.
        dtype: What it computes in, as safetensors names it.
        out_dtype: What it writes.
    """

    method: str
    base_model: str | None
    models: Mapping[str, Mapping[str, Value]]
    parameters: Mapping[str, Value]
    dtype: str | None
    out_dtype: str | None


def parse_mergekit(text: str, *, what: str) -> MergekitFile:
    """Read a configuration.

    Args:
        text: The file.
        what: What it is called in errors.

    Raises:
        BadYaml: It is not YAML that tvc reads.
        Unsaid: It says something that a recipe cannot.
    """
    body = read_yaml(text, what=what)
    for key in body:
        if key in _REFUSED:
            why, instead = _REFUSED[key]
            raise Unsaid(f"{what}: {key} cannot be said here: {why}", hint=instead)
        if key not in _KEYS:
            raise Unsaid(
                f"{what}: unknown key {printable(key)!r}",
                hint=nearest(key, _KEYS) or f"known: {', '.join(_KEYS)}",
            )
    method = body.get("merge_method")
    if not isinstance(method, str) or method not in PARAMETERS:
        raise Unsaid(
            f"{what}: merge_method {printable(str(method))!r} is not one that tvc has",
            hint=nearest(str(method), PARAMETERS) or f"known: {', '.join(PARAMETERS)}",
        )
    base = _model_name(body["base_model"], what) if body.get("base_model") is not None else None
    models = _models(body.get("models"), what)
    if base is not None and base not in models:
        models[base] = {}  # as mergekit does
    parameters = _table(body.get("parameters"), what)
    found = MergekitFile(
        method,
        base,
        models,
        parameters,
        _dtype(body.get("dtype"), "dtype", what),
        _dtype(body.get("out_dtype"), "out_dtype", what),
    )
    _check_parameters(found, what)
    return found


def _models(value: Value, what: str) -> dict[str, Mapping[str, Value]]:
    if not isinstance(value, list) or not value:
        raise Unsaid(f"{what}: models must be a list of models")
    found: dict[str, Mapping[str, Value]] = {}
    for entry in value:
        if not isinstance(entry, dict) or not set(entry) <= {"model", "parameters"}:
            raise Unsaid(f"{what}: each of models has a model, and may have parameters")
        name = _model_name(entry.get("model"), what)
        if name in found:
            raise Unsaid(f"{what}: model {printable(name)!r} is there twice")
        found[name] = _table(entry.get("parameters"), what)
    return found


def _model_name(value: Value, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise Unsaid(f"{what}: a model must be named by a text")
    if "+" in value:
        shown, adapter = printable(value), printable(value.partition("+")[2])
        raise Unsaid(
            f"{what}: model {shown!r} adds an adapter on the way",
            hint=f"take it in with `tvc import {adapter} --name NAME`, and name that as the model",
        )
    return value


def _table(value: Value, what: str) -> Mapping[str, Value]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unsaid(f"{what}: parameters must be a mapping")
    return value


def _dtype(value: Value, key: str, what: str) -> str | None:
    if value is None:
        return None
    name = str(value).removeprefix("torch.")
    if name not in _DTYPES:
        raise Unsaid(f"{what}: {key} {printable(name)!r} is not a type that tvc merges in")
    return _DTYPES[name]


def _check_parameters(file: MergekitFile, what: str) -> None:
    known = PARAMETERS[file.method]
    own, shared = set(known.own), {*known.shared, *known.own}
    for where, given, allowed in [
        ("parameters", file.parameters, shared),
        *((f"model {printable(name)}", table, own) for name, table in file.models.items()),
    ]:
        for name, value in given.items():
            if name not in allowed:
                belongs = "it belongs under parameters of the whole merge"
                raise Unsaid(
                    f"{what}: {where}: {printable(name)!r} means nothing to {file.method}",
                    hint=belongs if name in shared else nearest(name, shared),
                )
            if isinstance(value, list | dict):
                raise Unsaid(
                    f"{what}: {where}: {printable(name)} differs from layer to layer",
                    hint="give one number for the whole model",
                )
