"""Where a model comes from: a folder, or a pinned revision on the Hugging Face hub.

Importing the hub's client takes longer than most commands, so only the command line's lazy table
imports this module. What was fetched is a folder like any other; directory.py reads it.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType] -- one of its parameters is an untyped dict
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.models.folder import resolve_folder

__all__ = ["BadSource", "FetchFailed", "ModelSource", "fetch", "parse_source"]

_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_HUB: Final = re.compile(rf"(?P<id>(?P<org>{_PART})/{_PART})(?:@(?P<revision>.+))?", re.ASCII)
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MODEL_FILES: Final = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "*.vocab",
    "*.bpe",
    "*.spm",
)
# Other formats of the same weights, and what a training run left.
_OTHER_FORMATS: Final = (
    "onnx/*",
    "openvino/*",
    "original/*",
    "consolidated*",
    "checkpoint-*/*",
    "runs/*",
    ".*",
)


class BadSource(InputError):
    """A text names neither a folder nor a model on the hub."""


class FetchFailed(InputError):
    """The hub did not give the model."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from.

    Args:
        kind: A folder, or the hub.
        location: The folder's path as it was given, or ORG/NAME.
        revision: For the hub: what was asked for, and from `fetch` the commit, 40 hexadecimal
            digits. None for a folder, and before `fetch` where no revision was named.
    """

    kind: Literal["path", "hub"]
    location: str
    revision: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether this will always be the same model, as far as a name can say so."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"{self.location}@{self.revision}" if self.revision else self.location


def parse_source(text: str) -> ModelSource:
    """Say what a text names; an existing folder goes first, nothing is fetched.

    Args:
        text: A folder's path, or ORG/NAME, or ORG/NAME@REVISION.

    Raises:
        BadSource: It is neither.
    """
    shown = printable(text)
    try:
        exists = text != "" and Path(text).is_dir()
    except (OSError, ValueError):
        exists = False
    if exists:
        return ModelSource("path", text)
    match = _HUB.fullmatch(text)
    if match is None:
        if text and printable(text, limit=4096) == text:
            resolve_folder(Path(text))  # says that there is none, and what is near
        raise BadSource(
            f"'{shown}' is neither a folder nor a model on the hub",
            hint="name a folder, or a model as ORG/NAME or ORG/NAME@REVISION",
        )
    identity, revision = match["id"], match["revision"]
    if "--" in identity or ".." in identity or identity.endswith(".git"):
        raise BadSource(f"'{shown}' cannot be the name of a model on the hub")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise BadSource(f"'{printable(revision)}' cannot be a revision of {identity}")
    if revision is None and Path(match["org"]).is_dir():
        raise BadSource(
            f"there is no folder '{shown}'",
            hint=nearest(Path(text).name, _folders(Path(match["org"])))
            or f"write {identity}@main for the model on the hub",
        )
    return ModelSource("hub", identity, revision)


def fetch(source: ModelSource, *, allow_code: bool = False) -> tuple[Path, ModelSource]:
    """Return the folder of a model, downloaded where it is not in the hub's cache.

    Args:
        source: What `parse_source` returned.
        allow_code: Download Python files too.

    Returns:
        The folder, and the source pinned to the commit that it holds.

    Raises:
        FetchFailed: The hub has no such model, does not give it, or cannot be reached.
        InputError: The folder is not there.
    """
    if source.kind == "path":
        return resolve_folder(Path(source.location)), source
    try:
        folder = snapshot_download(
            source.location,
            revision=source.revision or "main",
            allow_patterns=[*_MODEL_FILES, *(["*.py"] if allow_code else [])],
            ignore_patterns=list(_OTHER_FORMATS),
        )
    except Exception as error:
        # All are looked at: the client lets errors of its transport through, and those have other
        # classes in other versions of it.
        failure = _failure(error, source)
        if failure is None:
            raise
        raise failure from error
    commit = Path(folder).name
    if not _COMMIT.fullmatch(commit):
        raise FetchFailed(f"the hub's cache has no commit for {source}: {printable(commit)}")
    return Path(folder), replace(source, revision=commit)


def _failure(error: Exception, source: ModelSource) -> FetchFailed | None:
    """Return one line for an error of the hub's client, or None for an error that is not its."""
    log_in = "log in with `hf auth login`, and accept the model's terms on its page"
    match error:
        case GatedRepoError():
            return FetchFailed(f"{source} is gated: its owner gives access", hint=log_in)
        case RepositoryNotFoundError():
            return FetchFailed(
                f"the hub has no model {source.location}, or it is private",
                hint="check the name; for a private model, log in with `hf auth login`",
            )
        case RevisionNotFoundError():
            return FetchFailed(
                f"{source.location} has no revision {source.revision or 'main'}",
                hint="name a branch, a tag or a commit of it",
            )
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return FetchFailed(
                f"{source} is not in the cache, and the hub cannot be reached",
                hint="check the network and HF_HUB_OFFLINE, or name a folder",
            )
        case HFValidationError():
            return FetchFailed(f"the hub refuses the name {source}")
        case HfHubHTTPError():
            code = error.response.status_code
            return FetchFailed(
                f"the hub answered {code} for {source}", hint=log_in if code in (401, 403) else None
            )
        case OSError():
            return FetchFailed(f"{source} cannot be fetched: {_line(error)}")
        case _ if type(error).__module__.startswith(("httpx", "huggingface_hub", "hf_xet")):
            return FetchFailed(f"{source} cannot be fetched: {_line(error)}", hint="try again")
        case _:
            return None


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return printable(text[0] if text else type(error).__name__)


def _folders(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if entry.is_dir()]
