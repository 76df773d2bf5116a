"""Finding the weights of a model folder: one file, shards with an index, or shards without.

Formats other than safetensors are deliberately refused: a pickle runs code when it is read, and
GGUF holds quantised copies that no fine-tune was trained on.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.models.folder import PlainFile, open_plain, read_plain
from tvc.models.header import MAX_TENSORS, TensorEntry, read_header
from tvc.models.strict_json import parse_object
from tvc_store.errors import IntegrityError

__all__ = [
    "INDEX",
    "SINGLE",
    "BadIndex",
    "DuplicateTensor",
    "UnsupportedWeights",
    "WrappedNames",
    "find_shards",
    "read_entries",
]

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_SUFFIX: Final = ".safetensors"
_MAX_INDEX: Final = 64 << 20
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NUMBERED: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_CONVERT: Final = (
    'convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('OLD').save_pretrained('NEW')\""
)
_WRAPPERS: Final = {
    "_orig_mod.": "torch.compile; save model._orig_mod",
    "_fsdp_wrapped_module.": "FSDP; save the full state dict",
    "base_model.model.": "PEFT; save model.merge_and_unload(), or `tvc import` the adapter",
}


class UnsupportedWeights(InputError):
    """The folder has no safetensors weights."""


class BadIndex(IntegrityError):
    """The index and the shards of a model do not agree."""


class DuplicateTensor(IntegrityError):
    """Two shards hold a tensor of the same name."""


class WrappedNames(InputError):
    """Tensors are named after a wrapper that was saved with the model."""


def find_shards(files: Mapping[str, PlainFile]) -> tuple[str, ...]:
    """Return the names of the safetensors files that make up the model, sorted.

    Args:
        files: The plain files of the folder.

    Raises:
        UnsupportedWeights: There are none.
        BadIndex: A shard is missing, or there are both an index and an unrelated single file.
    """
    if INDEX in files:
        shards = tuple(sorted(set(_weight_map(files).values())))
        _refuse_strays(shards, files)
        if SINGLE in files and SINGLE not in shards:
            raise BadIndex(
                f"there are both {SINGLE} and {INDEX}", hint="remove the one that is old"
            )
        return shards
    if SINGLE in files:
        return (SINGLE,)
    found = [name for name in files if name.endswith(_SUFFIX)]
    if not found:
        raise _no_weights(files)
    return _numbered(found) or tuple(found)


def read_entries(files: Mapping[str, PlainFile], shards: Collection[str]) -> dict[str, TensorEntry]:
    """Read the headers of all shards; the entries are sorted by name.

    Raises:
        BadIndex: The index puts a tensor in a shard that does not hold it, or omits one.
        DuplicateTensor: Two shards hold the same name.
        WrappedNames: The names are those of a wrapper.
        TvcError: A header is refused, see `read_header`.
    """
    entries: dict[str, TensorEntry] = {}
    for shard in shards:
        with open_plain(files[shard]) as fd:
            header = read_header(fd, file=shard)
        for entry in header.entries:
            twin = entries.setdefault(entry.name, entry)
            if twin is not entry:
                shown = printable(entry.name)
                raise DuplicateTensor(f"tensor '{shown}' is both in {twin.file} and in {shard}")
        if len(entries) > MAX_TENSORS:
            raise UnsupportedWeights(f"there are more than {MAX_TENSORS} tensors")
    if INDEX in files:
        _check_index(_weight_map(files), entries)
    _refuse_wrappers(entries)
    return dict(sorted(entries.items()))


def _weight_map(files: Mapping[str, PlainFile]) -> dict[str, str]:
    index = parse_object(read_plain(files[INDEX], limit=_MAX_INDEX), what=INDEX)
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise BadIndex(f"{INDEX} has no weight_map")
    weight_map: dict[str, str] = {}
    for name, shard in found.items():  # pyright: ignore[reportUnknownVariableType] -- checked next
        if not isinstance(shard, str) or not shard.endswith(_SUFFIX) or shard not in files:
            shown, tensor = printable(str(shard)), printable(str(name))  # pyright: ignore[reportUnknownArgumentType] -- str() takes anything
            raise BadIndex(f"{INDEX} puts '{tensor}' in {shown}, which is no file of this folder")
        weight_map[str(name)] = shard  # pyright: ignore[reportUnknownArgumentType] -- a JSON key is text
    return weight_map


def _check_index(weight_map: Mapping[str, str], entries: Mapping[str, TensorEntry]) -> None:
    for name, shard in weight_map.items():
        entry = entries.get(name)
        if entry is None or entry.file != shard:
            where = f"it is in {entry.file}" if entry else "no shard has it"
            raise BadIndex(f"{INDEX} puts '{printable(name)}' in {shard}, but {where}")
    for name, entry in entries.items():
        if name not in weight_map:
            raise BadIndex(f"tensor '{printable(name)}' of {entry.file} is not in {INDEX}")


def _refuse_strays(shards: Collection[str], files: Collection[str]) -> None:
    """Refuse a shard of a set that the index names only in part."""
    used = {
        (match["stem"], match["count"]) for name in shards if (match := _NUMBERED.fullmatch(name))
    }
    for name in files:
        match = _NUMBERED.fullmatch(name)
        if match and name not in shards and (match["stem"], match["count"]) in used:
            raise BadIndex(f"{INDEX} does not name the shard {printable(name)}")


def _numbered(names: list[str]) -> tuple[str, ...]:
    """Return the shards that are named NUMBER-of-COUNT, all of them; empty where none is."""
    matches = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    sets = {(match["stem"], match["count"]) for match in matches}
    if not sets:
        return ()
    if len(sets) > 1:
        shown = ", ".join(sorted(f"{stem}-*-of-{count}" for stem, count in sets)[:4])
        raise BadIndex(f"there are several sets of shards and no {INDEX}: {shown}")
    stem, count = sets.pop()
    present = {int(match["number"]) for match in matches}
    # Counted, not listed: a name may announce 99999 shards.
    missing = next((n for n in range(1, int(count) + 1) if n not in present), None)
    if missing is not None:
        raise BadIndex(f"the shard {stem}-{missing:05}-of-{count}{_SUFFIX} is missing")
    return tuple(sorted(match.string for match in matches))


def _refuse_wrappers(entries: Collection[str]) -> None:
    for name in entries:
        for wrapper, origin in _WRAPPERS.items():
            if name.startswith(wrapper) or f".{wrapper}" in name:
                raise WrappedNames(
                    f"tensor '{printable(name)}' has the prefix {wrapper} of a wrapper",
                    hint=f"it comes from {origin}",
                )


def _no_weights(names: Collection[str]) -> UnsupportedWeights:
    pickle = next((name for name in names if name.lower().endswith(_PICKLES)), None)
    if pickle:
        return UnsupportedWeights(
            f"the weights are a pickle ({pickle}), which runs code when it is read", hint=_CONVERT
        )
    gguf = next((name for name in names if name.lower().endswith((".gguf", ".ggml"))), None)
    if gguf:
        return UnsupportedWeights(
            f"the weights are GGUF ({gguf}), which no fine-tune is trained on",
            hint="use the safetensors model that it was made from",
        )
    near = nearest(SINGLE, names)
    return UnsupportedWeights(f"there is no {SINGLE} and no other *{_SUFFIX}", hint=near)
