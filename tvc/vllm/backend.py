"""The weight-transfer backend `tvc`, and what a worker answers when it is asked what it serves.

A running server takes a file with a hash, or a commit of a repository that it may read, through
vLLM's own interface. Absent: pausing and labels, which the client asks vLLM for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from vllm.config import VllmConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from tvc.domain.errors import InputError, TvcError
from tvc.domain.names import printable
from tvc.serving.changing import delta_to
from tvc.serving.delta import read_delta
from tvc.serving.source import Location, served
from tvc.serving.versions import TRIED
from tvc.vllm.live import LiveModel, WrongServer
from tvc.vllm.loader import LOADED, Loaded
from tvc.vllm.roots import allowed, named_roots
from tvc.vllm.versions import require_supported

__all__ = ["BACKEND", "RPC", "TvcTransferEngine", "answer"]

BACKEND: Final = "tvc"
"""The name of the backend in vLLM's configuration."""

RPC: Final = "tvc_live"
"""The name under which a worker answers."""

_MODES: Final = ("paused", "hogwild", "shared")


@dataclass
class TvcInit(WeightTransferInitInfo):
    """Nothing has to be said at the beginning."""


@dataclass
class TvcUpdate(WeightTransferUpdateInfo):
    """What shall be served: a file, or a commit.

    Args:
        path: A delta's file.
        sha256: Of that file.
        kind: `dense` or `sparse`.
        repository: A repository, instead of a file.
        commit: A full hash of it.
        mode: `paused`; `hogwild` to write beside the serving; or `shared` where the sender wrote
            already, and says what.
        undo: Whether this is a step back to what was served before.
    """

    path: str = ""
    sha256: str = ""
    kind: str = ""
    repository: str = ""
    commit: str = ""
    mode: str = "paused"
    undo: bool = False


class TvcTransferEngine(WeightTransferEngine[TvcInit, TvcUpdate]):
    """Changes what a worker serves."""

    init_info_cls = TvcInit
    update_info_cls = TvcUpdate
    supports_draft_weight_update = False

    _live: LiveModel | None = None

    @property
    def live(self) -> LiveModel:
        """The model that is served; read back when it is asked for first.

        Raises:
            WrongServer: It was not loaded by tvc, or is on several cards, or quantized.
        """
        if self._live is None:
            loaded = getattr(self.model, LOADED, None)
            _refuse_unfit(self.vllm_config, loaded)
            assert isinstance(loaded, Loaded)
            self._live = LiveModel(self.model, loaded.record, loaded.origin)
        return self._live

    @property
    def roots(self) -> list[Path]:
        """Folders that files and repositories may be read from."""
        settings = self.vllm_config.additional_config
        given = cast("dict[str, object]", settings) if isinstance(settings, dict) else {}
        # What was loaded, and not what is served now: that names what a client's delta said.
        loaded: Loaded = getattr(self.model, LOADED)
        return named_roots(given.get("tvc_roots", []), own=loaded.origin.repository)

    def init_transfer_engine(self, init_info: TvcInit) -> None:  # noqa: ARG002 -- vLLM's name
        """Read everything back once."""
        _ = self.live

    def start_weight_update(self) -> None:
        """Nothing has to be prepared."""

    def finish_weight_update(self) -> None:
        """Wait for what is written beside the serving only where somebody paused it."""

    def shutdown(self) -> None:
        """Nothing is held."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Change what is served; overridden, since the base's ends in a device's synchronisation.

        Raises:
            TvcError: Nothing was changed.
        """
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except Exception as error:
            self.live.failed = str(error)  # vLLM keeps from clients what was wrong
            raise

    def receive_weights(self, update_info: TvcUpdate) -> None:
        """Change what is served; see `TvcUpdate`."""
        if update_info.mode not in _MODES:
            raise InputError(f"there is no mode '{printable(update_info.mode)}'")
        live = self.live
        if update_info.path:
            path = allowed(update_info.path, self.roots)
            limit = 2 * sum(held.held_spec.nbytes for held in self._held()) + (64 << 20)
            delta = read_delta(path, sha256=update_info.sha256, kind=update_info.kind, limit=limit)
        else:
            root = allowed(update_info.repository, self.roots)
            with served(Location(root, update_info.commit)) as target:
                delta = delta_to(target, live.describe(), repository=str(root))
        if update_info.mode == "shared":
            live.note(delta)
            return
        live.apply(delta, hogwild=update_info.mode == "hogwild", undo=update_info.undo is True)

    def _held(self) -> list[Any]:
        return [held for held in getattr(self.model, LOADED).record.tensors.values() if held.dtype]


def answer(worker: Any, action: str, names: list[str] | None = None) -> dict[str, Any]:
    """Answer a client, through vLLM's call of a method of every worker.

    Args:
        worker: vLLM's.
        action: `describe`, `digests` (of `names`), `wait`, or `share`.
        names: Tensors.

    Returns:
        Plain values; `error` and `hint` where it cannot be said.
    """
    try:
        engine = getattr(worker, "weight_transfer_engine", None)
        if not isinstance(engine, TvcTransferEngine):
            raise WrongServer(
                "the server was not started with tvc's backend",
                hint="start it with `tvc serve`, or with --weight-transfer-config"
                """ '{"backend": "tvc"}'""",
            )
        if action == "digests":
            return {"digests": engine.live.digests(names or [])}
        if action == "share":
            return engine.live.share()
        if action == "wait":
            if engine.live.is_writing:
                return {"writing": True}
            engine.live.wait()
        return engine.live.describe() | {"roots": [str(root) for root in engine.roots]}
    except TvcError as error:
        return {"error": error.message, "hint": error.hint or ""}


def _refuse_unfit(config: VllmConfig, loaded: object) -> None:
    require_supported()
    if config.parallel_config.world_size_across_dp != 1:
        raise WrongServer(
            "the server runs on several devices, between which weights are divided",
            hint="what is live can be changed where the model is on one",
        )
    if config.model_config.quantization is not None:
        raise WrongServer(
            f"the server has quantized the model ({config.model_config.quantization})",
            hint="what is live can be changed where it is served as it was trained",
        )
    names: list[str] = getattr(config.model_config.hf_config, "architectures", None) or ["none"]
    if not TRIED & set(names):
        raise WrongServer(
            f"a served {printable(names[0])} was never changed to see whether that does anything",
            hint="what is live can be changed of the architectures in tvc/serving/versions.py",
        )
    if not isinstance(loaded, Loaded):
        raise WrongServer(
            "the server did not load its model through tvc",
            hint="start it with `tvc serve`, or with --load-format tvc",
        )
