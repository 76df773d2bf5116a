"""Adapters of a running vLLM: which there are, and loading and unloading them at run time.

vLLM keeps what it computed of a prompt by an adapter's name and path, so a path whose content
changed would go on answering with what it was: other weights need another path. It also copies
factors that are too small for its model in silence, so whether they fit is looked at before they
are sent, where the served model can be read from here. What a server says is checked for form.
Absent: making adapters.
"""

import http.client
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from tvc.dialogues.exchange import Answer, EndpointFailed, HttpServer
from tvc.domain.errors import InputError, StateError
from tvc.domain.names import nearest, printable
from tvc.models.adapters import AdapterDirectory
from tvc.models.directory import ModelDirectory
from tvc.models.strict_json import BadJson, parse_object
from tvc_store.errors import TvcError

__all__ = ["AdapterRefused", "AdapterServer", "ServedModel", "check_fits"]

_MAX_ANSWER: Final = 8 << 20
_MAX_NAME: Final = 200
_MAX_SAID: Final = 4_000
_WORKER: Final = re.compile(r"Worker failed with error '(.*)', please check", re.DOTALL)
"""What vLLM says around the reason that a worker gave."""
_MAX_MODELS: Final = 100_000


class AdapterRefused(StateError):
    """A server does not load or unload adapters, or not this one."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model or an adapter that a server answers as.

    Args:
        name: What requests name it by.
        root: Where the server has it from; empty where it does not say.
        is_adapter: Whether it is an adapter, and not what adapters are laid over.
    """

    name: str
    root: str
    is_adapter: bool


@dataclass(frozen=True, slots=True)
class AdapterServer:
    """A running vLLM.

    Args:
        url: Its address, with or without `/v1`.
        key: Sent as a bearer token; None for none.
        seconds: For one answer.

    Raises:
        InputError: The address is not one.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 600.0

    def __post_init__(self) -> None:
        _ = self._http

    @property
    def _http(self) -> HttpServer:
        return HttpServer.at_root(self.url, self.key, self.seconds, _MAX_ANSWER)

    def models(self) -> dict[str, ServedModel]:
        """Return what it serves, by name.

        Raises:
            EndpointFailed: It does not answer, or not as vLLM does.
        """
        answer = self._ask("GET", "/v1/models")
        if answer.status != http.client.OK:
            raise EndpointFailed(f"{self.url} answered {answer.status}: {answer.said}")
        try:
            entries: object = parse_object(answer.body, what="the answer").get("data")
        except BadJson:
            entries = None
        if not isinstance(entries, list) or len(cast("list[object]", entries)) > _MAX_MODELS:
            raise EndpointFailed(f"{self.url} does not say which models it serves")
        found = [_served(entry) for entry in cast("list[object]", entries)]
        return {model.name: model for model in found if model is not None}

    def load(self, name: str, folder: Path) -> ServedModel | None:
        """Load an adapter, in the place of another of that name if there is one.

        Args:
            name: What requests will name it by.
            folder: An absolute path that the server can read.

        Returns:
            The adapter that had the name before.

        Raises:
            AdapterRefused: The server refused; what it served it goes on serving.
            EndpointFailed: It does not answer, or not as vLLM does.
            InputError: The name is none, or that of the model itself.
        """
        _check_name(name)
        before = self.models().get(name)
        if before is not None and not before.is_adapter:
            raise InputError(f"{printable(name)} is the model that {self.url} serves, no adapter")
        body = {"lora_name": name, "lora_path": str(folder), "load_inplace": before is not None}
        answer = self._ask("POST", "/v1/load_lora_adapter", body)
        if answer.status != http.client.OK:
            raise self._refused(answer, f"{printable(name)} was not loaded")
        return before

    def unload(self, name: str) -> None:
        """Unload an adapter.

        Args:
            name: What requests name it by.

        Raises:
            AdapterRefused: The server refused.
            EndpointFailed: It does not answer, or not as vLLM does.
            InputError: It serves no adapter of that name.
        """
        _check_name(name)
        names = [model.name for model in self.models().values() if model.is_adapter]
        if name not in names:
            shown = ", ".join(printable(each) for each in names[:10])
            raise InputError(
                f"{self.url} serves no adapter {printable(name)!r}",
                hint=nearest(name, names) or (f"it serves {shown}" if names else "it serves none"),
            )
        answer = self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        if answer.status != http.client.OK:
            raise self._refused(answer, f"{printable(name)} was not unloaded")

    def _refused(self, answer: Answer, what: str) -> AdapterRefused:
        said = _message(answer)
        if answer.status in {http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED} and not said:
            return AdapterRefused(
                f"{self.url} takes no adapters while it runs",
                hint="start it with --enable-lora, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its "
                "environment",
            )
        hint = None
        if "max_lora_rank" in said:
            hint = "export it at a lower --rank, or start the server with a higher --max-lora-rank"
        elif "not enabled" in said.lower():
            hint = "start the server with --enable-lora"
        shown = printable(said, limit=400) or answer.said
        return AdapterRefused(f"{what}: {self.url} answered {answer.status}: {shown}", hint=hint)

    def _ask(self, method: str, path: str, body: object = None) -> Answer:
        try:
            return self._http.ask(method, path, body)
        except ConnectionError as error:
            raise self._http.unreachable(error) from None


def check_fits(adapter: AdapterDirectory, models: dict[str, ServedModel]) -> bool:
    """Check that an adapter's targets are those of the model that a server serves.

    Args:
        adapter: Its folder.
        models: What the server says it serves.

    Returns:
        Whether the served model could be looked at.

    Raises:
        MisfitAdapter: A target is missing there, or has another shape.
    """
    roots = [Path(model.root) for model in models.values() if not model.is_adapter and model.root]
    if not roots or not roots[0].is_absolute():
        return False
    try:
        served = ModelDirectory.open(roots[0])
    except (TvcError, OSError, ValueError):  # nobody checked that this names anything here
        return False
    adapter.fitted({name: entry.spec.shape for name, entry in served.entries.items()})
    return True


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= _MAX_NAME or not name.isprintable() or name != name.strip():
        raise InputError(f"'{printable(name)}' cannot name an adapter")


def _served(entry: object) -> ServedModel | None:
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    name, root = fields.get("id"), fields.get("root")
    if not isinstance(name, str):
        return None
    return ServedModel(
        name, root if isinstance(root, str) else "", isinstance(fields.get("parent"), str)
    )


def _message(answer: Answer) -> str:
    """Return what vLLM's own errors say; empty for those of other making."""
    try:
        body = parse_object(answer.body, what="the answer")
    except BadJson:
        return ""
    error: object = body.get("error")
    message = cast("dict[str, object]", error).get("message") if isinstance(error, dict) else None
    if not isinstance(message, str):
        return ""
    worker = _WORKER.search(message[:_MAX_SAID])
    return worker[1] if worker else message
