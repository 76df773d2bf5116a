"""A running vLLM with tvc's plugin, as a client sees it: asked what it serves, paused, changed.

vLLM's own interface for weight updates, and one method of its workers that the plugin adds. What
the server says of itself is checked for form; whether it is true, nobody but the server knows.
Absent: what to change.
"""

import http.client
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tvc.dialogues.exchange import Answer, EndpointFailed, HttpServer
from tvc.domain.errors import StateError
from tvc.domain.names import printable
from tvc.models.strict_json import BadJson, parse_object
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import StoreError
from tvc_store.ids import ObjectId, parse_id

__all__ = ["LiveServer", "ServerGone", "Serving", "Unfit"]

_MAX_ANSWER: Final = 256 << 20
_READ_AT_ONCE: Final = 256 << 20
_RPC: Final = "tvc_live"
_SAID: Final = 500
_MOMENT: Final = 0.05
_MAX_WORD: Final = 100_000
_COMMIT: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_WORDS: Final = ("label", "commit", "recipe", "repository", "state", "failed")


class Unfit(StateError):
    """A server is not one that this can be done with."""


class _HungUp(EndpointFailed):
    """Nobody is there, or somebody who hung up."""


class ServerGone(EndpointFailed):
    """A server stopped answering while it was being changed."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What a server says it serves.

    Args:
        label: A commit's hash, or what stands for it.
        commit: The hash; empty where it is none.
        recipe: In names.
        repository: Where it lies, on the server's machine.
        held: Tensor name → type and shape as the server holds it.
        ids: Tensor name → its id.
        raw: All of the answer, as `delta_to` wants it.
    """

    label: str
    commit: str
    recipe: str
    repository: str
    held: Mapping[str, TensorSpec]
    ids: Mapping[str, ObjectId]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that it holds."""
        return sum(spec.nbytes for spec in self.held.values())

    @property
    def name(self) -> str:
        """What it serves, fit to be printed."""
        return printable(self.label, limit=80)


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server.

    Args:
        url: Its address, with or without `/v1`.
        key: Sent as a bearer token; None for none.
        seconds: For one answer; a pause lasts as long as the longest request under way.

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

    def describe(self) -> Serving:
        """Ask what it serves.

        Raises:
            EndpointFailed: It does not answer.
            Unfit: It has no plugin, is quantized, or divided between devices.
        """
        return _serving(self._call("describe"))

    def wait(self) -> Serving:
        """Wait until nothing is being written, and ask what it serves.

        Raises:
            Unfit: What was being written could not be, and was put back.
        """
        end = time.monotonic() + self.seconds
        while (answer := self._call("wait")).get("writing") is True:
            if time.monotonic() > end:
                raise EndpointFailed(f"{self.url} was still writing after {self.seconds:g} s")
            time.sleep(_MOMENT)  # a worker that waited would not serve meanwhile
        return _serving(answer)

    def forget(self, *, running: bool = False) -> None:
        """Empty the prefix cache: what was computed with other weights.

        Args:
            running: Let requests under way begin again, since they hold a part of it.

        Raises:
            Unfit: Some of it is in use.
        """
        query = "?reset_running_requests=true" if running else ""
        answer = self._json("POST", f"/reset_prefix_cache{query}")
        if answer.get("success") is False:
            raise Unfit(
                f"{self.url} did not empty its prefix cache: answers may be of older weights",
                hint="start the server again with: tvc serve",
            )

    def digests(
        self, serving: Serving, *, on_bytes: Callable[[int], None] = lambda _: None
    ) -> dict[str, str]:
        """Have every tensor read back, some at a time, between which the server serves.

        Returns:
            Tensor name → its id now; where it is not held any more, why.
        """
        found: dict[str, str] = {}
        for names in _portions(serving.held):
            on_bytes(sum(serving.held[name].nbytes for name in names))
            answer = self._call("digests", names).get("digests")
            if not isinstance(answer, dict):
                raise EndpointFailed(f"{self.url} answered without digests")
            found |= {str(name): str(i) for name, i in cast("dict[str, object]", answer).items()}
        return found

    def share(self) -> dict[str, Any]:
        """Ask where in this machine's memory its weights are; see `tvc.serving.sharing`.

        Raises:
            Unfit: It does not share them.
        """
        return self._call("share")

    @property
    def is_paused(self) -> bool:
        """Whether requests wait.

        Raises:
            EndpointFailed: It does not answer.
            Unfit: It does not say.
        """
        return self._json("GET", "/is_paused").get("is_paused") is True

    def resume(self) -> None:
        """Let requests go on.

        Raises:
            EndpointFailed: It does not answer.
            Unfit: It refused.
        """
        self._json("POST", "/resume")

    @contextmanager
    def paused(self) -> Generator[None]:
        """Hold new requests back and wait for those under way; let them go on at the end.

        Raises:
            Unfit: It is paused already.
        """
        if self.is_paused:
            raise Unfit(
                f"{self.url} is paused: somebody is changing it, or was killed while at it",
                hint=f"if nobody is: tvc live {self.url} --resume",
            )
        try:
            # Also where the answer did not come in time: it would stay paused.
            self._json("POST", "/pause?mode=wait")
            yield
        except BaseException:
            self._resume_after_failure()
            raise
        self.resume()

    def _resume_after_failure(self) -> None:
        """Let requests go on; what failed before this is what has to be said."""
        with suppress(EndpointFailed, Unfit):
            self.resume()

    def change(self, update: Mapping[str, Any], *, label: str) -> None:
        """Have the plugin's backend change what is served.

        Args:
            update: See `TvcUpdate`.
            label: The weight version that vLLM tells with every answer.

        Raises:
            Unfit: It was refused, and nothing was changed.
            ServerGone: It stopped answering.
        """
        try:
            self._json("POST", "/init_weight_transfer_engine", {"init_info": {}})
            self._json("POST", "/start_weight_update", {})
            answer = self._ask("POST", "/update_weights", {"update_info": dict(update)})
            if answer.status != http.client.OK:
                said = self._call("describe").get("failed")
                words = printable(str(said or answer.said), limit=_SAID)
                raise Unfit(f"{self.url} refused: {words}")
            self._json("POST", "/finish_weight_update", {"weight_version": label})
        except _HungUp:
            raise ServerGone(
                f"{self.url} is gone: it stopped answering while it was being changed",
                hint="nothing of it is left in memory; start it again with: tvc serve",
            ) from None

    def ready(self, *, seconds: float) -> None:
        """Wait until it answers.

        Raises:
            EndpointFailed: It does not within `seconds`.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                if self._http.exchange("GET", "/health").status == http.client.OK:
                    return
            except (ConnectionError, EndpointFailed):
                pass
            if time.monotonic() > end:
                raise EndpointFailed(f"{self.url} does not answer within {seconds:g} s")
            time.sleep(0.2)

    def _call(self, action: str, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Call the plugin's method of the server's worker."""
        arguments = [action] if names is None else [action, list(names)]
        answer = self._ask("POST", "/collective_rpc", {"method": _RPC, "args": arguments})
        _refuse_without_key(answer, self.url)
        if answer.status == http.client.NOT_FOUND:
            raise Unfit(
                f"{self.url} does not let itself be asked or changed",
                hint="start it with `tvc serve`, or with VLLM_SERVER_DEV_MODE=1 in its environment",
            )
        if answer.status != http.client.OK:
            raise Unfit(
                f"{self.url} does not know tvc (HTTP {answer.status})",
                hint="tvc has to be installed where vLLM is; start it with `tvc serve`",
            )
        results = _parsed(answer, self.url).get("results")
        if not isinstance(results, list) or not results or not isinstance(results[0], dict):
            raise Unfit(f"{self.url} does not know tvc", hint="start it with `tvc serve`")
        if len(cast("list[object]", results)) != 1:
            raise Unfit(f"{self.url} runs on several devices, between which weights are divided")
        found = cast("dict[str, Any]", results[0])
        if "error" in found:
            hint = printable(str(found.get("hint", ""))) or None
            raise Unfit(f"{self.url}: {printable(str(found['error']))}", hint=hint)
        return found

    def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        answer = self._ask(method, path, body)
        _refuse_without_key(answer, self.url)
        if answer.status != http.client.OK:
            raise Unfit(f"{self.url} answered {answer.status} to {path}: {answer.said}")
        return _parsed(answer, self.url) if answer.body.strip() else {}

    def _ask(self, method: str, path: str, body: object = None) -> Answer:
        try:
            return self._http.ask(method, path, body)
        except ConnectionError as error:
            failed = self._http.unreachable(error)
            raise _HungUp(failed.message, hint=failed.hint) from None


def _refuse_without_key(answer: Answer, url: str) -> None:
    if answer.status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        raise Unfit(
            f"{url} lets nobody ask it without its key (HTTP {answer.status})",
            hint="give it with --api-key, or in VLLM_API_KEY",
        )


def _parsed(answer: Answer, url: str) -> dict[str, Any]:
    try:
        return parse_object(answer.body, what="the answer")
    except BadJson:
        raise EndpointFailed(f"{url} answered with something else than JSON") from None


def _portions(held: Mapping[str, TensorSpec]) -> Generator[list[str]]:
    """Yield names of tensors of some hundred megabytes together."""
    names: list[str] = []
    size = 0
    for name, spec in held.items():
        names.append(name)
        size += spec.nbytes
        if size > _READ_AT_ONCE:
            yield names
            names, size = [], 0
    if names:
        yield names


def _serving(raw: dict[str, Any]) -> Serving:
    try:
        words = _words(raw)
        entries = cast("dict[str, dict[str, Any]]", raw["tensors"])
        held = {name: _spec(entry) for name, entry in entries.items()}
        ids = {name: parse_id(entry["id"]) for name, entry in entries.items()}
        _check_rest(raw, held)
    except (KeyError, TypeError, AttributeError, StoreError) as error:
        raise EndpointFailed(
            f"the server does not say what it serves: {printable(str(error), limit=_SAID)}"
        ) from None
    return Serving(
        words["label"], words["commit"], words["recipe"], words["repository"], held, ids, raw
    )


def _words(raw: dict[str, Any]) -> dict[str, str]:
    words = {word: raw[word] for word in _WORDS}
    if not all(isinstance(word, str) and len(word) <= _MAX_WORD for word in words.values()):
        raise TypeError("a word that is no text")
    # Else a commit could be any name that git knows here, and the label another's.
    if words["commit"] and not (
        _COMMIT.fullmatch(words["commit"]) and words["label"] == words["commit"]
    ):
        raise TypeError("a commit that is none")
    return words


def _spec(entry: dict[str, Any]) -> TensorSpec:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(shape, list) or any(
        type(extent) is not int for extent in cast("list[object]", shape)
    ):
        raise TypeError("a shape that is none")
    return TensorSpec(dtype, tuple(cast("list[int]", shape)))


def _check_rest(raw: dict[str, Any], held: Mapping[str, object]) -> None:
    """Check what else is read of an answer: unheld tensors, groups, what was before, counts."""
    for entry in cast("dict[str, dict[str, Any]]", raw["unheld"]).values():
        if not isinstance(entry["why"], str) or not isinstance(entry["id"], str | None):
            raise TypeError("tensors of another form")
    for group in cast("list[list[str]]", raw["groups"]):
        if not isinstance(group, list) or not all(  # pyright: ignore[reportUnnecessaryIsInstance] -- nobody has checked it yet
            name in held or name in raw["unheld"] for name in group
        ):
            raise TypeError("groups of tensors that it does not have")
    before = cast("list[object]", raw["before"])
    if not isinstance(before, list) or not all(isinstance(each, dict) for each in before):  # pyright: ignore[reportUnnecessaryIsInstance] -- nobody has checked it yet
        raise TypeError("what was before in another form")
    if any(type(raw["forwards"][count]) is not int for count in ("done", "torn")):
        raise TypeError("counts that are none")
