"""A model directory as tvc reads it: checked once, then tensors by name.

What belongs to a model is decided here: its safetensors weights, and the small files that make them
usable (configuration, tokenizer, chat template, code). Everything else is listed as skipped.
Arithmetic, element types wider than bytes, and the hub are deliberately absent.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from tvc.domain.errors import InputError
from tvc.domain.names import check_file_name, nearest, printable, refuse_case_twins
from tvc.models.folder import (
    Listing,
    PlainFile,
    list_folder,
    open_plain,
    read_open,
    read_plain,
    read_range,
    resolve_folder,
)
from tvc.models.header import TensorEntry
from tvc.models.strict_json import BadJson, parse_object
from tvc.models.ties import tied_names
from tvc.models.weights import INDEX, find_shards, read_entries
from tvc_store.arrays import ByteArray
from tvc_store.errors import IntegrityError

__all__ = [
    "MAX_FILE_BYTES",
    "FileTensor",
    "ModelDirectory",
    "NotAModel",
    "UnknownTensor",
    "UntiedWeights",
]

MAX_FILE_BYTES: Final = 64 << 20
_MAX_CONFIG: Final = 16 << 20
_MAX_FILES: Final = 2_000
_COMPARED: Final = 8 << 20  # bytes compared at a time
_CARRIED: Final = (
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.py",
    "*.tiktoken",
    "*.vocab",
    "*.bpe",
    "*.spm",
)
# Of these kinds, but records of a training run or of tvc, not part of what a model is.
_RECORDS: Final = (
    "*.index.json",
    "*_results.json",
    "trainer_state.json",
    "trainer_log*.json*",
    "training.json",
    "training_args.json",
    "tvc.json",
    "log*.txt",
    "requirements*.txt",
)
_TEMPLATES: Final = "additional_chat_templates"


class NotAModel(InputError):
    """A folder is not a model that transformers would load."""


class UnknownTensor(InputError):
    """A name is none of the model's tensors."""


class UntiedWeights(IntegrityError):
    """The configuration ties two tensors that hold different bytes."""


class FileTensor:
    """A tensor where it lies in a file, which is open meanwhile; a context manager and `Elements`.

    Args:
        file: The file, as it was when it was looked at.
        entry: Where in it.

    Raises:
        ChangedFile: The file is no longer that one.
    """

    def __init__(self, file: PlainFile, entry: TensorEntry) -> None:
        self._file = file
        self._entry = entry
        self._stack = ExitStack()
        self._fd = self._stack.enter_context(open_plain(file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self._entry.spec.nbytes

    def read(self, start: int, out: ByteArray) -> None:
        """Fill `out` with the bytes from `start` on.

        Raises:
            ChangedFile: The file changed since it was looked at.
        """
        read_open(self._fd, self._file, out.data, offset=self._entry.offset + start)


@dataclass(frozen=True)
class ModelDirectory:
    """A model's folder, checked when it was opened; safe to read from several threads.

    Args:
        root: The folder, all links resolved.
        entries: Tensor name → where its bytes are, sorted by name.
        shards: Name of each file with weights → the file, as it was when opened.
        files: Relative posix path of each carried file → where it is, sorted.
        skipped: What else lies in the folder, safe to print; a folder ends with `/`.
        config: The parsed `config.json`.
    """

    root: Path
    entries: Mapping[str, TensorEntry]
    shards: Mapping[str, PlainFile]
    files: Mapping[str, Path]
    skipped: tuple[str, ...]
    config: Mapping[str, Any]
    _carried: Mapping[str, PlainFile] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "ModelDirectory":
        """Read and check what a folder holds; no weights are read.

        Args:
            path: The folder.

        Raises:
            InputError: It is no model folder, or holds what tvc does not read; see the hint.
            IntegrityError: A header, the index or a JSON file is not what it claims.
        """
        root = resolve_folder(path)
        listing = list_folder(root)
        _refuse_adapter(listing)
        names = find_shards(listing.files)
        if "config.json" not in listing.files:
            raise NotAModel(
                f"{printable(root.name)} has no config.json",
                hint="save_pretrained writes it beside the weights",
            )
        shards = {name: listing.files[name] for name in names}
        carried = dict(sorted(_carried_files(root, listing, shards).items()))
        refuse_case_twins(carried, what="the files")
        config = parse_object(
            read_plain(carried["config.json"], limit=_MAX_CONFIG), what="config.json"
        )
        model = cls(
            root=root,
            entries=read_entries(listing.files, names),
            shards=shards,
            files={name: file.path for name, file in carried.items()},
            skipped=_skipped(listing, carried, shards),
            config=config,
            _carried=carried,
        )
        model.check_ties()
        return model

    def read(self, name: str, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read the bytes of a tensor.

        Args:
            name: The tensor's name.
            out: Where to read to, flat uint8 (nbytes,); a new array where None.

        Returns:
            Flat uint8 (nbytes,), little-endian elements in row-major order; `out` where given.

        Raises:
            UnknownTensor: The model has no such tensor.
            ChangedFile: The file changed since it was opened.
        """
        entry = self._entry(name)
        if out is None:
            out = np.empty(entry.spec.nbytes, np.uint8)
        if out.shape != (entry.spec.nbytes,) or out.dtype != np.uint8:
            raise ValueError(f"{name} needs {entry.spec.nbytes} bytes, not {out.dtype} {out.shape}")
        read_range(self.shards[entry.file], out.data, offset=entry.offset)
        return out

    def opened(self, name: str) -> FileTensor:
        """Open a tensor, to be read by parts; a context manager.

        Raises:
            UnknownTensor: The model has no such tensor.
            ChangedFile: The file changed since the directory was opened; reading raises it too.
        """
        entry = self._entry(name)
        return FileTensor(self.shards[entry.file], entry)

    def read_file(self, path: str) -> bytes:
        """Read a carried file, of at most `MAX_FILE_BYTES`.

        Raises:
            InputError: There is no such file, or it is too large.
            ChangedFile: It changed since the directory was opened.
        """
        if path not in self._carried:
            shown = printable(path)
            raise InputError(f"there is no file '{shown}'", hint=nearest(path, self._carried))
        return read_plain(self._carried[path], limit=MAX_FILE_BYTES)

    def check_ties(self) -> None:
        """Compare the tensors that the configuration ties, where both are stored.

        Raises:
            UntiedWeights: They differ.
        """
        for name, source in tied_names(self.config, self.entries).items():
            if not self._equal(self.entries[name], self.entries[source]):
                raise UntiedWeights(
                    f"config.json ties '{name}' to '{source}', but their bytes differ",
                    hint='set "tie_word_embeddings": false if they were trained apart',
                )

    def _entry(self, name: str) -> TensorEntry:
        entry = self.entries.get(name)
        if entry is None:
            shown = printable(name)
            raise UnknownTensor(f"there is no tensor '{shown}'", hint=nearest(name, self.entries))
        return entry

    def _equal(self, one: TensorEntry, other: TensorEntry) -> bool:
        if one.spec != other.spec:
            return False
        return all(a == b for a, b in zip(self._pieces(one), self._pieces(other), strict=True))

    def _pieces(self, entry: TensorEntry) -> Iterator[bytes]:
        """Read a tensor by pieces: an embedding has gigabytes, and two are compared."""
        for start in range(0, entry.spec.nbytes, _COMPARED):
            piece = bytearray(min(_COMPARED, entry.spec.nbytes - start))
            file = self.shards[entry.file]
            read_range(file, memoryview(piece), offset=entry.offset + start)
            yield bytes(piece)


def _refuse_adapter(listing: Listing) -> None:
    if "adapter_config.json" in listing.files:
        raise NotAModel(
            "the folder holds an adapter (adapter_config.json), which is no whole model",
            hint="`tvc import DIR` takes an adapter",
        )


def _carried_files(
    root: Path, listing: Listing, shards: Mapping[str, PlainFile]
) -> dict[str, PlainFile]:
    carried = {name: file for name, file in listing.files.items() if _is_carried(name)}
    for folder in _module_folders(listing):
        inner = list_folder(root, sub=folder)
        # A module's own weights, such as those of a dense layer, are small and carried as they are.
        for name, file in inner.files.items():
            if _is_carried(name) or name.endswith(".safetensors"):
                carried[f"{folder}/{name}"] = file
    for path, file in carried.items():
        if file.size > MAX_FILE_BYTES:
            raise NotAModel(f"{path} has {file.size} bytes, more than {MAX_FILE_BYTES}")
    if len(carried) > _MAX_FILES:
        raise NotAModel(f"there are {len(carried)} files beside the weights: no model folder")
    return {path: file for path, file in carried.items() if path not in shards}


def _module_folders(listing: Listing) -> list[str]:
    """Return the folders that hold parts of the model: sentence-transformers modules, templates."""
    folders = [_TEMPLATES] if _TEMPLATES in listing.folders else []
    if "modules.json" not in listing.files:
        return folders
    data = read_plain(listing.files["modules.json"], limit=_MAX_CONFIG)
    # The file is a list at the top; wrapped, the one strict parser serves for it too.
    modules = parse_object(b'{"modules":' + data + b"}", what="modules.json")["modules"]
    for module in cast("list[object]", modules) if isinstance(modules, list) else []:
        described = cast("dict[str, object]", module) if isinstance(module, dict) else {}
        path = described.get("path")
        if not isinstance(path, str):
            raise BadJson("modules.json is not a list of modules with a path")
        if path and path not in folders:
            if check_file_name(path) not in listing.folders:
                if str(described.get("type")).endswith(".Normalize"):
                    continue  # it has no files, and git, where models come from, no empty folders
                raise NotAModel(f"modules.json names the folder '{path}', which is not there")
            folders.append(path)
    return folders


def _is_carried(name: str) -> bool:
    # fnmatchcase: what is carried must not depend on the system that reads the folder.
    if any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in _RECORDS):
        return False
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in _CARRIED)


def _skipped(
    listing: Listing, carried: Mapping[str, PlainFile], shards: Mapping[str, PlainFile]
) -> tuple[str, ...]:
    known = {*carried, *shards, INDEX}
    walked = {path.split("/")[0] for path in carried if "/" in path}
    files = [name for name in listing.files if name not in known]
    folders = [f"{name}/" for name in listing.folders if name not in walked]
    return tuple(sorted([*files, *folders, *listing.hidden]))
