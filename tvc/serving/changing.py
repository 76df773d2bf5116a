"""From what a server holds to what it shall serve: which tensors differ, and in which elements.

Absent: HTTP, and the writing; see `tvc/vllm`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.evaluation.numbers import cast_elements
from tvc.serving.delta import Change, Delta, Kind, changed_elements
from tvc.serving.source import Served
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.ids import ObjectId, tensor_id

__all__ = ["WrongModel", "closed_over_groups", "delta_to", "is_held_alike"]

_FLOATS: Final = frozenset(["F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"])


class WrongModel(InputError):
    """A server serves a model of another shape than the one that it shall serve."""


def delta_to(
    target: Served,
    live: Mapping[str, Any],
    *,
    repository: str,
    old: Served | None = None,
    kind: Kind | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Delta:
    """Return what makes a server serve `target`.

    Args:
        target: What it shall serve.
        live: What it says of itself; see `LiveModel.describe`.
        repository: Where the target lies; for people.
        old: What it serves now, for a delta that names changed elements; None for whole tensors.
        kind: `dense` for whole tensors, `sparse` for changed elements, None for the shorter.
        on_bytes: Called with the bytes of every tensor looked at.

    Raises:
        WrongModel: It serves a model of another base or shape; it does not hold a tensor that would
            change, or not as it is.
        IntegrityError: An object is damaged or missing.
    """
    held: dict[str, TensorSpec] = {
        name: TensorSpec(entry["dtype"], tuple(entry["shape"]))
        for name, entry in live["tensors"].items()
    }
    ids: dict[str, ObjectId] = {name: entry["id"] for name, entry in live["tensors"].items()}
    _refuse_other_model(target, held)
    _refuse_unheld(target, live, held)
    changed = dict(_changed(target, held, ids, on_bytes))
    whole = {
        name: Change(held[name], identity, content) for name, (identity, content) in changed.items()
    }
    elements = {} if old is None or kind == "dense" else _elements(whole, old, ids)
    if kind == "sparse" or _nbytes(whole | elements) < _nbytes(whole):
        whole |= elements
    closed = closed_over_groups(whole, live["groups"], held, ids)
    return Delta(
        live["state"], target.label, target.commit, target.recipe, repository, dict(closed)
    )


def _nbytes(changes: Mapping[str, Change]) -> int:
    return sum(change.nbytes for change in changes.values())


def _changed(
    target: Served,
    held: Mapping[str, TensorSpec],
    ids: Mapping[str, ObjectId],
    on_bytes: Callable[[int], None],
) -> Iterator[tuple[str, tuple[ObjectId, ByteArray]]]:
    """Yield the tensors that differ: name, and id and bytes as the server will hold them."""
    same_type = {name for name, spec in held.items() if target.specs_of(name) == spec}
    known = {name: target.known(name) for name in same_type}
    unknown = [name for name in held if known.get(name) != ids[name]]
    for name in held.keys() - set(unknown):
        on_bytes(held[name].nbytes)
    for name, content in target.tensors(unknown):
        spec = held[name]
        cast = cast_elements(content, target.specs_of(name).dtype, spec.dtype)
        identity = tensor_id(spec, cast)
        on_bytes(spec.nbytes)
        if identity != ids[name]:
            yield name, (identity, cast)


def _elements(
    whole: Mapping[str, Change], old: Served, ids: Mapping[str, ObjectId]
) -> dict[str, Change]:
    """Return changes by elements, of those tensors of which they are shorter."""
    found: dict[str, Change] = {}
    for name, content in old.tensors(whole):
        change = whole[name]
        before = cast_elements(content, old.specs_of(name).dtype, change.spec.dtype)
        if tensor_id(change.spec, before) != ids[name]:
            continue  # it is not what the server holds
        positions = changed_elements(before, change.values, change.spec)
        if positions is not None:
            words = np.dtype(f"u{ITEMSIZE[change.spec.dtype]}")
            values = change.values.view(words)[positions].view(np.uint8)
            found[name] = Change(change.spec, change.id, values, positions)
    return found


def is_held_alike(spec: TensorSpec, held: TensorSpec) -> bool:
    """Say whether a tensor can be held as `held`: of the same shape, in its type or a float's."""
    types = {spec.dtype, held.dtype}
    return spec.shape == held.shape and (len(types) == 1 or types <= _FLOATS)


def closed_over_groups(
    changes: Mapping[str, Change],
    groups: list[list[str]],
    held: Mapping[str, TensorSpec],
    ids: Mapping[str, ObjectId],
) -> dict[str, Change]:
    """Name what is fused with a changed tensor too; where it does not change, without a value.

    Args:
        changes: What changes.
        groups: Names of tensors that are fused with each other, on the server.
        held: Type and shape of all that the server holds.
        ids: Its id.

    Raises:
        WrongModel: One of those is not held as it is.
    """
    none = np.empty(0, np.uint8)
    touched = [name for group in groups if changes.keys() & set(group) for name in group]
    rest = [name for name in touched if name not in changes]
    for name in rest:
        if name not in held:
            raise WrongModel(
                f"what would change is fused with {printable(name)}, which it cannot change",
                hint="start the server again with: tvc serve",
            )
    return dict(changes) | {
        name: Change(held[name], ids[name], none, none.view(np.uint32)) for name in rest
    }


def _refuse_other_model(target: Served, held: Mapping[str, TensorSpec]) -> None:
    specs = target.specs
    for name, spec in held.items():
        if name not in specs or specs[name].shape != spec.shape:
            shown = list(specs[name].shape) if name in specs else "none"
            raise WrongModel(
                f"the server serves another model: its {printable(name)} has the shape"
                f" {list(spec.shape)}, that of {printable(target.label)} {shown}",
                hint="serve a commit of this base: tvc serve",
            )
        if not is_held_alike(specs[name], spec):
            raise WrongModel(
                f"the server holds {printable(name)} as {spec.dtype}, in which"
                f" {specs[name].dtype} cannot be said",
                hint="serve a commit of this base: tvc serve",
            )


def _refuse_unheld(target: Served, live: Mapping[str, Any], held: Mapping[str, object]) -> None:
    """Refuse what would change a tensor that the server does not hold, or not as it is."""
    for name in target.specs.keys() - held.keys() - target.tied:
        entry = live["unheld"].get(name, {"why": "the server has no such tensor", "id": None})
        if target.id_of(name) != entry["id"]:
            raise WrongModel(
                f"{printable(name)} would change, but the server cannot change it:"
                f" {printable(entry['why'])}",
                hint="start the server again with: tvc serve",
            )
