"""A model that is being served, and what may be done to it: read back, changed as a whole, counted.

A change is staged, checked tensor by tensor against the ids that it announces, written in place,
and read back; what goes wrong after the first write is put back as it was. Nothing here knows vLLM
or HTTP.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from tvc.domain.errors import StateError
from tvc.domain.names import printable
from tvc.serving.delta import TRAINING, BadDelta, Change, Delta, state_id
from tvc.vllm.holding import TORCH_DTYPES, LoadRecord, NotHeld, content_id
from tvc.vllm.sharing import SharedParameters
from tvc_store.ids import ObjectId

__all__ = ["LiveModel", "Origin", "WrongServer"]

_SHOWN: Final = 3
_REMEMBERED: Final = 100
_UNFINISHED: Final = "+unfinished"


class WrongServer(StateError):
    """A server is not one that this can be done with."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a server serves, in words.

    Args:
        label: A commit's hash, or what stands for it.
        commit: The hash; empty where it is none.
        recipe: In names.
        repository: Where it lies; empty where that is not known.
    """

    label: str
    commit: str = ""
    recipe: str = ""
    repository: str = ""

    def as_words(self) -> dict[str, str]:
        """Return them by name."""
        return {name: getattr(self, name) for name in ("label", "commit", "recipe", "repository")}


@dataclass
class _Forwards:
    """Counts forwards, and those during which a weight was written; hooks do it."""

    done: int = 0
    torn: int = 0
    writes: int = 0
    """Odd while somebody writes."""
    others: Callable[[], int] = lambda: 0
    """The same, of a process that shares the memory; never both at a time."""
    began: int = 0
    handles: list[Any] = field(default_factory=list[Any])

    def watch(self, model: torch.nn.Module) -> None:
        if not self.handles:
            self.handles = [
                model.register_forward_pre_hook(self._begin),
                model.register_forward_hook(self._end),
            ]

    def _begin(self, *_: object) -> None:
        self.began = self.writes + self.others()

    def _end(self, *_: object) -> None:
        self.done += 1
        self.torn += self.began % 2 == 1 or self.began != self.writes + self.others()


class LiveModel:
    """A served model.

    Args:
        model: It.
        record: Where it holds its checkpoint's tensors.
        origin: What it was loaded from.

    Raises:
        WrongServer: Nothing that it holds can be read back.
    """

    def __init__(self, model: torch.nn.Module, record: LoadRecord, origin: Origin) -> None:
        self._model = model
        self._record = record
        self.unheld = record.check()
        self.ids: dict[str, ObjectId] = {
            name: held.id
            for name, held in record.tensors.items()
            if name not in self.unheld and held.id is not None
        }
        if not self.ids:
            raise WrongServer(
                "the server's weights are packed: none of them can be read back",
                hint="start it with `tvc serve`, or with --load-format tvc",
            )
        self.origin = origin
        self.before: list[Origin] = []
        self.failed = ""
        self.hogwild = False
        self.forwards = _Forwards()
        self._writer: threading.Thread | None = None
        self._unwritten = ""
        self._groups = record.groups()
        self._undoes = False
        self._shared: SharedParameters | None = None
        self._told = 0

    @property
    def state(self) -> str:
        """Id of what is held."""
        return state_id(self.ids)

    @property
    def is_writing(self) -> bool:
        """Whether a change is being written beside the serving."""
        return self._writer is not None and self._writer.is_alive()

    @property
    def is_shared(self) -> bool:
        """Whether a training may write to the weights at any time."""
        return self._shared is not None and self._shared.is_attached

    def describe(self) -> dict[str, Any]:
        """Return what a client has to know, as plain values."""
        self._catch_up()
        specs = {name: self._record.tensors[name].held_spec for name in self.ids}
        return {
            **self.origin.as_words(),
            "state": self.state,
            "writing": self.is_writing or self.is_shared,
            "hogwild": self.hogwild,
            "failed": self.failed,
            "before": [origin.as_words() for origin in self.before],
            "forwards": {"done": self.forwards.done, "torn": self.forwards.torn},
            "tensors": {
                name: {"dtype": specs[name].dtype, "shape": list(specs[name].shape), "id": i}
                for name, i in self.ids.items()
            },
            "unheld": {
                name: {"why": why, "id": self._record.tensors[name].id}
                for name, why in self.unheld.items()
            },
            "groups": [group for group in self._groups if len(group) > 1],
        }

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Read tensors as they are now, and return their ids; of one that is gone, why."""
        found: dict[str, str] = {}
        for name in names:
            try:
                found[name] = content_id(self._record.read(name))
            except NotHeld as error:
                found[name] = str(error)
        return found

    def apply(self, delta: Delta, *, hogwild: bool = False, undo: bool = False) -> None:
        """Change what is served.

        Args:
            delta: It.
            hogwild: Return at once and write beside the serving; `wait` tells how it went.
            undo: It is a step back, and what is served now is not remembered.

        Raises:
            StateError: Another change is being written, or a training shares the memory.
            BadDelta: It is for another state, breaks a group, or does not give what it announces;
                nothing was changed.
        """
        if self.is_writing:
            raise StateError("another change is being written", hint="try again when it is done")
        if self.is_shared:
            raise StateError(
                "a training writes to the weights of the server", hint="wait until it is done"
            )
        self._catch_up()
        self.failed = ""
        self._check(delta)
        staged = {name: self._staged(name, change) for name, change in delta.changes.items()}
        self._undoes = undo
        self.hogwild = hogwild
        if not hogwild:
            self._write(delta, staged)
            return
        self.forwards.watch(self._model)
        self._unwritten = ""
        self._writer = threading.Thread(
            target=self._write_beside, args=(delta, staged), name="tvc-hogwild", daemon=True
        )
        self._writer.start()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            BadDelta: What was written last could not be, and was put back.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._unwritten:  # a refusal of somebody else's change is nothing of this one
            raise BadDelta(self._unwritten)

    def share(self) -> dict[str, Any]:
        """Let a process of this user's and machine's write to the weights, while they are served.

        Returns:
            What it has to know, as plain values.

        Raises:
            CannotShare: They cannot be shared.
            StateError: A change is being written.
        """
        if self.is_writing:
            raise StateError("another change is being written", hint="try again when it is done")
        if self._shared is None:
            self._shared = SharedParameters(self._model, self._record)
            self.forwards.others = lambda: shared.writes
            shared = self._shared
        self.forwards.watch(self._model)
        self._catch_up()
        return self._shared.describe(self._record, self.ids)

    def note(self, delta: Delta) -> None:
        """Take over what a training says that it wrote to the shared weights.

        It is not read back here, since that would take longer than the writing did: `digests` does.

        Args:
            delta: With ids, but no values.

        Raises:
            StateError: Nobody shares the weights.
            BadDelta: It is for another state, or breaks a group.
        """
        if self._shared is None or not self.is_shared:
            raise StateError("no training shares the weights of the server")
        self.failed = ""
        self._check(delta)
        self._told = self._shared.writes
        self._undoes, self.hogwild = False, True
        self._settle(delta)

    def _catch_up(self) -> None:
        """Read what is held, where a training that shared it ended without saying what it wrote."""
        shared = self._shared
        if shared is None or shared.writes == self._told or shared.is_attached:
            return
        shared.end_writing()
        self._told = shared.writes
        self.ids = {name: content_id(self._record.read(name)) for name in self.ids}
        label = f"{self.origin.label.removesuffix(_UNFINISHED)}{_UNFINISHED}"
        self.origin = Origin(label, repository=self.origin.repository)

    def _check(self, delta: Delta) -> None:
        if delta.before != self.state:
            raise BadDelta(
                f"the delta is for another state than that of {printable(self.origin.label)}, which"
                " is served",
                hint="ask what it serves with `tvc live`, and push again",
            )
        unknown = [name for name in delta.changes if name not in self.ids]
        if unknown:
            name = unknown[0]
            why = self.unheld.get(name, "the model that is served has no such tensor")
            raise BadDelta(f"{printable(name)} cannot be changed: {why}")
        for group in self._groups:
            missing = [name for name in group if name not in delta.changes]
            if 0 < len(missing) < len(group):
                shown = ", ".join(missing[:_SHOWN])
                raise BadDelta(f"{group[0]} is fused with tensors that the delta lacks: {shown}")

    def _staged(self, name: str, change: Change) -> torch.Tensor:
        """Return a tensor as it will be, checked."""
        held = self._record.tensors[name].held_spec
        if change.spec != held:
            raise BadDelta(
                f"{printable(name)} is {change.spec.dtype} {list(change.spec.shape)},"
                f" but is held as {held.dtype} {list(held.shape)}"
            )
        if change.positions is None:
            flat = torch.from_numpy(np.array(change.values)).view(TORCH_DTYPES[held.dtype])
            tensor = flat.reshape(held.shape)
        else:
            tensor = self._record.read(name)
            words = np.dtype(f"u{tensor.element_size()}")
            flat = tensor.reshape(-1).view(torch.uint8).numpy().view(words)
            flat[change.positions] = change.values.view(words)
        if content_id(tensor) != change.id:
            raise BadDelta(f"the delta does not give the {printable(name)} that it announces")
        return tensor

    def _write(self, delta: Delta, staged: Mapping[str, torch.Tensor]) -> None:
        old = {name: self._record.read(name) for name in staged}
        try:
            self._put(staged)
            self._verify({name: change.id for name, change in delta.changes.items()})
        except BaseException as error:
            self._put(old)
            self._verify({name: self.ids[name] for name in old})
            raise BadDelta(f"{error}; what was written was put back") from error
        self._settle(delta)

    def _settle(self, delta: Delta) -> None:
        self.ids |= {name: change.id for name, change in delta.changes.items()}
        if self._undoes:
            del self.before[-1:]
        # A step of a training is nothing to go back to, nor is what is served already.
        elif not self.origin.label.startswith(TRAINING) and self.origin.label != delta.label:
            self.before = [*self.before[1 - _REMEMBERED :], self.origin]
        self.origin = Origin(delta.label, delta.commit, delta.recipe, delta.repository)

    def _write_beside(self, delta: Delta, staged: Mapping[str, torch.Tensor]) -> None:
        try:
            self._write(delta, staged)
        except Exception as error:  # noqa: BLE001 -- whoever waits has to be told of any
            self.failed = self._unwritten = str(error) or type(error).__name__

    def _put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.forwards.writes += 1
        try:
            for name, tensor in tensors.items():
                self._record.write(name, tensor)
        finally:
            self.forwards.writes += 1

    def _verify(self, ids: Mapping[str, ObjectId]) -> None:
        for name, identity in ids.items():
            if content_id(self._record.read(name)) != identity:
                raise BadDelta(f"{printable(name)} was written, but is something else now")
