"""LoRA adapters as PEFT 0.21 saves them, kept as factors: a target changes by `scale · B A`.

Whatever PEFT can save that is not exactly such a product is refused by its name, since leaving it
out would be another behaviour. The product itself is deliberately not computed here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvc.domain.errors import InputError
from tvc.domain.names import check_file_name, nearest, printable, refuse_case_twins
from tvc.models.adapter_config import BadAdapter, LoraOptions, UnsupportedAdapter
from tvc.models.folder import (
    Listing,
    PlainFile,
    list_folder,
    open_plain,
    read_plain,
    read_range,
    resolve_folder,
)
from tvc.models.header import Header, TensorEntry, check_tensor_name, parse_header, read_header
from tvc.models.strict_json import parse_object
from tvc_store.arrays import ByteArray, byte_view
from tvc_store.buffers import Buffer
from tvc_store.durable import write_durably

__all__ = ["AdapterDirectory", "LoraFactors", "MisfitAdapter", "write_adapter"]

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_MAX_FILE: Final = 64 << 20
_MAX_CONFIG: Final = 16 << 20
_FLOATING: Final = ("F16", "BF16", "F32", "F64")
# Suffix of a key → (is it A, is it of an embedding).
_FACTORS: Final = {
    ".lora_A.weight": (True, False),
    ".lora_B.weight": (False, False),
    ".lora_embedding_A": (True, True),
    ".lora_embedding_B": (False, True),
}
_BASE_LAYER: Final = ".base_layer."
# Never carried: weights, and what a trainer leaves behind.
_LEFT: Final = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf")


class MisfitAdapter(InputError):
    """An adapter's targets are not those of the base model."""


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """What an adapter changes in one tensor: `scale · B A`, transposed where the base is.

    Args:
        target: Name of the base model's tensor.
        down: Where A is, of shape (rank, in).
        up: Where B is, of shape (out, rank).
        scale: What the product is multiplied by.
        transposed: The target has shape (in, out), not (out, in).
        embedding: The target is an embedding, which is always transposed.
    """

    target: str
    down: TensorEntry
    up: TensorEntry
    scale: Fraction
    transposed: bool
    embedding: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Shape that the target must have."""
        out, inner = self.up.spec.shape[0], self.down.spec.shape[1]
        return (inner, out) if self.transposed else (out, inner)


@dataclass(frozen=True)
class AdapterDirectory:
    """A PEFT adapter's folder, checked when it was opened.

    Args:
        root: The folder, all links resolved.
        config: The parsed `adapter_config.json`.
        factors: Name of the base model's tensor → its factors, sorted.
        base_copies: Name of a base model's tensor → a copy of it that PEFT saved with the adapter,
            as it does for embeddings. The adapter is a product of factors only if the copy is equal
            to the base model's tensor: whoever uses the adapter has to compare them.
        entries: Every tensor of the adapter by its own name, sorted.
        layout: The first bytes of the file of weights, from which `write_adapter` makes it again.
        files: Every other file that belongs to the adapter, by name; the configuration is one.
        skipped: What else lies in the folder, safe to print.
    """

    root: Path
    config: Mapping[str, Any]
    factors: Mapping[str, LoraFactors]
    base_copies: Mapping[str, TensorEntry]
    entries: Mapping[str, TensorEntry]
    layout: bytes = field(repr=False)
    files: Mapping[str, Path]
    skipped: tuple[str, ...]
    _plain: Mapping[str, PlainFile] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "AdapterDirectory":
        """Read and check what a folder holds; no weights are read.

        Args:
            path: The folder.

        Raises:
            InputError: It is no adapter, or one that is not exactly a sum of products.
            IntegrityError: A header or the configuration is not what it claims.
        """
        root = resolve_folder(path)
        listing = list_folder(root)
        files = listing.files
        _check_present(root, listing)
        config = parse_object(read_plain(files[_CONFIG], limit=_MAX_CONFIG), what=_CONFIG)
        options = LoraOptions.from_config(config)
        with open_plain(files[_WEIGHTS]) as fd:
            header = read_header(fd, file=_WEIGHTS)
        kept = {name: file for name, file in files.items() if _is_kept(name, file)}
        refuse_case_twins([*kept, _WEIGHTS], what="the files")
        left = [name for name in files if name not in kept and name != _WEIGHTS]
        return cls(
            root=root,
            config=config,
            factors=_factors(header, options),
            base_copies=_base_copies(header),
            entries=dict(sorted((entry.name, entry) for entry in header.entries)),
            layout=header.raw,
            files={name: file.path for name, file in kept.items()},
            skipped=tuple(sorted([*left, *(f"{n}/" for n in listing.folders), *listing.hidden])),
            _plain={**kept, _WEIGHTS: files[_WEIGHTS]},
        )

    def read(self, entry: TensorEntry) -> NDArray[np.uint8]:
        """Read the bytes of a factor.

        Returns:
            Flat uint8 (nbytes,), little-endian elements in row-major order.

        Raises:
            ChangedFile: The file changed since it was opened.
        """
        out = np.empty(entry.spec.nbytes, np.uint8)
        read_range(self._plain[entry.file], out.data, offset=entry.offset)
        return out

    def read_file(self, name: str) -> bytes:
        """Read one of `files`.

        Raises:
            InputError: There is no such file.
            ChangedFile: It changed since the folder was opened.
        """
        if name not in self.files:
            shown = printable(name)
            raise InputError(f"there is no file '{shown}'", hint=nearest(name, self.files))
        return read_plain(self._plain[name], limit=_MAX_FILE)

    def fitted(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LoraFactors]:
        """Return the factors with `transposed` as the base model's shapes tell it.

        PEFT goes by the class of a layer and overwrites `fan_in_fan_out` with what the last one
        said, so for a model with both kinds the saved flag is wrong for some. Shapes decide where
        they can; a square target follows the flag, unless the flag is wrong elsewhere.

        Args:
            shapes: Name of each tensor of the base model → its shape.

        Raises:
            MisfitAdapter: A target is missing or has another shape, or cannot be told.
        """
        fitted = {target: _fit(factors, shapes) for target, factors in self.factors.items()}
        flag_fails = any(fitted[target] != self.factors[target] for target in fitted)
        for target, factors in fitted.items():
            rows, columns = factors.shape
            if flag_fails and rows == columns and not factors.embedding:
                raise MisfitAdapter(
                    f"fan_in_fan_out of the adapter is wrong for some targets, so it cannot be told"
                    f" which way round '{printable(target)}' is meant: it is square",
                    hint="merge the adapter with PEFT and commit the model that results",
                )
        return fitted


def write_adapter(
    folder: Path, *, layout: bytes, read: Callable[[str], Buffer], files: Mapping[str, bytes]
) -> None:
    """Write an adapter's folder again, byte for byte as it was read.

    Args:
        folder: An existing folder.
        layout: `AdapterDirectory.layout`.
        read: Gives the bytes of a tensor by its name in the adapter (a key of `entries`).
        files: Name → content, of all other files.

    Raises:
        BadAdapter: The bytes that `read` gave are not as many as the layout says.
        WriteFailed: The system refused.
        TvcError: The layout is refused, see `parse_header`.
    """
    header = parse_header(layout, size=None, file=_WEIGHTS)
    for name in files:
        if "/" in check_file_name(name) or name == _WEIGHTS:
            raise BadAdapter(f"an adapter has no other file '{printable(name)}'")
    write_durably(folder / _WEIGHTS, _content(header, read))
    for name, content in files.items():
        write_durably(folder / name, [content])


def _content(header: Header, read: Callable[[str], Buffer]) -> Iterator[Buffer]:
    yield header.raw
    for entry in header.entries:
        data: ByteArray = byte_view(read(entry.name))
        if data.nbytes != entry.spec.nbytes:
            shown = printable(entry.name)
            raise BadAdapter(f"'{shown}' has {entry.spec.nbytes} bytes, {data.nbytes} were stored")
        yield data


def _check_present(root: Path, listing: Listing) -> None:
    shown = printable(root.name)
    if _CONFIG not in listing.files:
        raise UnsupportedAdapter(
            f"{shown} has no {_CONFIG}", hint="a model is committed with `tvc commit DIR`"
        )
    if _WEIGHTS in listing.files:
        return
    if "adapter_model.bin" in listing.files:
        raise UnsupportedAdapter(
            "the adapter is a pickle (adapter_model.bin), which runs code when it is read",
            hint="load it with PEFT and save it again: PeftModel.save_pretrained('NEW')",
        )
    raise UnsupportedAdapter(f"{shown} has no {_WEIGHTS}", hint=nearest(_WEIGHTS, listing.files))


def _is_kept(name: str, file: PlainFile) -> bool:
    return not name.lower().endswith(_LEFT) and file.size <= _MAX_FILE


def _factors(header: Header, options: LoraOptions) -> dict[str, LoraFactors]:
    pairs: dict[tuple[str, bool], dict[bool, TensorEntry]] = {}
    for entry in header.entries:
        module, suffix = _split(entry.name)
        if suffix in _FACTORS:
            is_down, is_embedding = _FACTORS[suffix]
            pairs.setdefault((module, is_embedding), {})[is_down] = entry
    if not pairs:
        raise UnsupportedAdapter(f"{_WEIGHTS} has no LoRA factors")
    found = [
        _pair(module, pair, options, embedding=embedding)
        for (module, embedding), pair in sorted(pairs.items())
    ]
    factors = {factor.target: factor for factor in found}
    if len(factors) != len(found):
        raise BadAdapter("the adapter changes a module both as a layer and as an embedding")
    return factors


def _split(key: str) -> tuple[str, str]:
    """Return the module of a key, and what follows it."""
    shown = printable(key)
    if not key.startswith(_PREFIX):
        raise UnsupportedAdapter(f"'{shown}' is not named as PEFT names factors ({_PREFIX}…)")
    rest = key.removeprefix(_PREFIX)
    if ".lora_magnitude_vector" in rest:
        raise UnsupportedAdapter(f"'{shown}' belongs to DoRA, which is no product of two factors")
    if rest.endswith(".lora_B.bias"):
        raise UnsupportedAdapter(f"'{shown}' is a trained bias (lora_bias)")
    for suffix in _FACTORS:
        if rest.endswith(suffix):
            return rest.removesuffix(suffix), suffix
    module, found, parameter = rest.rpartition(_BASE_LAYER)
    if found and "." not in parameter:
        return module, _BASE_LAYER + parameter
    raise UnsupportedAdapter(f"'{shown}' is neither A nor B of a LoRA layer")


def _pair(
    module: str, pair: Mapping[bool, TensorEntry], options: LoraOptions, *, embedding: bool
) -> LoraFactors:
    for entry in pair.values():
        _check_factor(entry)
    if len(pair) != 2:
        lone = next(iter(pair.values()))
        shown = printable(lone.name)
        raise BadAdapter(f"'{shown}' has no partner: A and B belong together")
    down, up = pair[True], pair[False]
    ranks = {down.spec.shape[0], up.spec.shape[1], options.rank_of(module)}
    if len(ranks) != 1:
        raise BadAdapter(
            f"the factors of '{printable(module)}' do not have one rank: A {list(down.spec.shape)},"
            f" B {list(up.spec.shape)}, configured {options.rank_of(module)}"
        )
    target = f"{module}.weight"
    check_tensor_name(target)
    transposed = embedding or options.fan_in_fan_out
    return LoraFactors(target, down, up, options.scale_of(module), transposed, embedding)


def _check_factor(entry: TensorEntry) -> None:
    shown, spec = printable(entry.name), entry.spec
    if len(spec.shape) != 2:
        kind = "of a convolution" if len(spec.shape) > 2 else "no matrix"
        raise UnsupportedAdapter(f"'{shown}' of shape {list(spec.shape)} is {kind}")
    if spec.dtype not in _FLOATING:
        raise UnsupportedAdapter(f"'{shown}' has elements of type {spec.dtype}, not floats")


def _base_copies(header: Header) -> dict[str, TensorEntry]:
    copies: dict[str, TensorEntry] = {}
    for entry in header.entries:
        module, suffix = _split(entry.name)
        if suffix.startswith(_BASE_LAYER):
            copies[f"{module}.{suffix.removeprefix(_BASE_LAYER)}"] = entry
    return dict(sorted(copies.items()))


def _fit(factors: LoraFactors, shapes: Mapping[str, tuple[int, ...]]) -> LoraFactors:
    target = factors.target
    if target not in shapes:
        raise MisfitAdapter(
            f"the adapter changes '{printable(target)}', which the base model does not have",
            hint=nearest(target, shapes),
        )
    other = factors if factors.embedding else replace(factors, transposed=not factors.transposed)
    for choice in (factors, other):
        if choice.shape == tuple(shapes[target]):
            return choice
    raise MisfitAdapter(
        f"the adapter changes '{printable(target)}' of shape {list(factors.shape)}, the base model"
        f" has {list(shapes[target])}"
    )
