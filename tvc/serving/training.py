"""Keeps a running server at the weights of a training, while it is made.

Before the first step the server holds what is trained from; every push makes it hold the weights of
a step, under a label of the training's own; at the end it is the commit that the training made.
Absent: the training, which knows of no server.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tvc.domain.names import printable
from tvc.evaluation.numbers import cast_elements
from tvc.repository.repository import Repository
from tvc.serving.attesting import Attested, attest
from tvc.serving.changing import closed_over_groups, is_held_alike
from tvc.serving.delta import TRAINING, Change, Delta, changed_elements, state_id
from tvc.serving.pushing import NotAttested, delta_file, push, push_delta
from tvc.serving.server import LiveServer, Serving, Unfit
from tvc.serving.sharing import SharedWeights
from tvc_store.arrays import ByteArray
from tvc_store.dtypes import ITEMSIZE, TensorSpec
from tvc_store.ids import ObjectId, tensor_id

__all__ = ["LiveTraining", "Totals", "Weights", "weights_delta"]

Weights = Iterable[tuple[str, TensorSpec, ByteArray]]
"""Names of a checkpoint, types and shapes, and bytes."""

_SHORT: Final = 10


@dataclass(slots=True)
class Totals:
    """What the pushes of a training came to.

    Args:
        pushes: How many arrived.
        nbytes: Bytes that travelled.
        written: Bytes that were written to shared memory.
        seconds: For how long no request was served.
        torn: Forwards that saw weights of two models, of `forwards`; counted in mode hogwild.
        forwards: See `torn`.
    """

    pushes: int = 0
    nbytes: int = 0
    written: int = 0
    seconds: float = 0.0
    torn: int = 0
    forwards: int = 0


class LiveTraining:
    """A server that follows a training.

    Args:
        server: It.
        repository: Where the training will be committed; the server may read its private folder.
        name: The training's.
        hogwild: Write while it serves.
        share: Write to the memory that it computes with, which has to be this machine's; nothing
            but names travels then. With `hogwild` only.
    """

    def __init__(
        self,
        server: LiveServer,
        repository: Repository,
        name: str,
        *,
        hogwild: bool = False,
        share: bool = False,
    ) -> None:
        self.server = server
        self.totals = Totals()
        self._repository = repository
        self._label = f"{TRAINING}{name}@"
        self._hogwild = hogwild
        self._share = share
        self._shared: SharedWeights | None = None
        self._state = ""
        self._old: dict[str, ByteArray] = {}

    def begin(self, commit: str, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """Make the server hold what is trained from, unless it is at a step of this training.

        Args:
            commit: Full hash of what is trained from.
            on_bytes: Called with the bytes of tensors that were looked at.

        Returns:
            What it served before, where that was something else; else nothing.

        Raises:
            Unfit: It cannot be changed.
            WrongModel: It serves a model of another base.
            NotAttested: It does not hold what it says.
            EndpointFailed: It does not answer.
        """
        serving, before = self.server.describe(), ""
        if serving.commit != commit and not serving.label.startswith(self._label):
            before = serving.commit[:_SHORT] or serving.name
            push(
                self.server,
                self._repository,
                commit,
                hogwild=self._hogwild,
                on_plan=lambda _: on_bytes,
            )
            serving = self.server.describe()
        self._attested(serving)
        if self._share:
            self._shared = SharedWeights(self.server, serving)
        self._state = str(serving.raw["state"])
        counted = serving.raw["forwards"]
        self.totals.torn, self.totals.forwards = -counted["torn"], -counted["done"]
        return before

    def check(self, weights: Weights, *, needed: Collection[str]) -> None:
        """Check that the server can follow, before anything is trained.

        Args:
            weights: All that may change, as they are before.
            needed: Names of which the server has to hold those that may change: the checkpoint's,
                but those that are others under a second name.

        Raises:
            Unfit: It does not hold one, or not as it is.
        """
        serving = self.server.describe()
        for name, spec, content in weights:
            if name in serving.held:
                _require_alike(name, spec, serving.held[name])
                new = cast_elements(content, spec.dtype, serving.held[name].dtype)
                if not self._shared and tensor_id(serving.held[name], new) == serving.ids[name]:
                    self._old[name] = np.array(new)
            elif name in needed:
                entry = serving.raw["unheld"].get(name, {"why": "the server has no such tensor"})
                raise Unfit(
                    f"{printable(name)} is trained, but {self.server.url} cannot change it:"
                    f" {printable(str(entry['why']))}",
                    hint="go on without --live: --resume; then start a server on the commit",
                )

    def push(self, step: int, weights: Weights) -> None:
        """Make the server hold the weights of a step.

        Args:
            step: Its number.
            weights: They; read once.

        Raises:
            Unfit: It refused, or somebody else changed it; it serves what it served.
            ServerGone: It stopped answering.
            NotAttested: It holds something else.
        """
        serving = self._unchanged()
        root = str(self._repository.layout.root.resolve())
        label = f"{self._label}{step}"
        delta, new = weights_delta(weights, serving, label=label, repository=root, old=self._old)
        if self._shared is None:
            mode: dict[str, Any] = {"mode": "hogwild" if self._hogwild else "paused", "undo": False}
            pushed = push_delta(self.server, serving, delta, self._repository.layout, mode)
            # Copies: the training's own memory changes with its next step.
            self._old |= {name: np.array(content) for name, content in new.items()}
            self.totals.nbytes += pushed.nbytes
            self.totals.seconds += pushed.seconds
        else:
            self.totals.written += self._shared.write(new)
        changed = {name: change.id for name, change in delta.changes.items()}
        self._state = state_id(dict(serving.ids) | changed)
        if self._shared is not None:
            self._tell(delta)
        self.totals.pushes += 1

    def _tell(self, delta: Delta) -> None:
        """Tell the server what was written to its memory."""
        none = np.empty(0, np.uint8)
        named = {
            name: Change(change.spec, change.id, none, none.view(np.uint32))
            for name, change in delta.changes.items()
        }
        told = replace(delta, changes=named)
        with delta_file(told, self._repository.layout) as update:
            self.server.change(
                {**update, "mode": "shared", "undo": False}, label=f"{delta.label}+hogwild"
            )
        self.server.forget(running=True)

    def release(self) -> None:
        """Let go of the server's memory, where it is shared."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def finish(self, commit: str, on_bytes: Callable[[int], None] = lambda _: None) -> Attested:
        """Make the server the commit that the training ended in, paused in either mode.

        What differs travels: usually no tensor, but the name.

        Args:
            commit: Its full hash.
            on_bytes: Called with the bytes of tensors that were looked at.

        Returns:
            What came of comparing every tensor with the commit's.

        Raises:
            Unfit: The server refused, or somebody else changed it.
            ServerGone: It stopped answering.
            NotAttested: It holds something else.
        """
        self._old.clear()
        self.release()
        self._unchanged()
        pushed = push(self.server, self._repository, commit, on_plan=lambda _: on_bytes)
        self.totals.nbytes += pushed.nbytes
        self.totals.seconds += pushed.seconds
        self.totals.torn += pushed.torn
        self.totals.forwards += pushed.forwards
        return self._attested(self.server.describe())

    def _unchanged(self) -> Serving:
        serving = self.server.describe()
        if serving.raw["state"] != self._state:
            raise Unfit(f"{self.server.url} serves {serving.name} now: somebody else changed it")
        return serving

    def _attested(self, serving: Serving) -> Attested:
        found = attest(self.server, serving, self._repository.layout.root)
        if found.wrong:
            name, why = next(iter(found.wrong.items()))
            raise NotAttested(
                f"{self.server.url} does not hold {serving.name}: {printable(name)}"
                f" {printable(why)}",
                hint="push it again with `tvc push-live`, or start the server again",
            )
        return found


def weights_delta(
    weights: Weights,
    serving: Serving,
    *,
    label: str,
    repository: str,
    old: Mapping[str, ByteArray],
) -> tuple[Delta, dict[str, ByteArray]]:
    """Return what makes a server hold weights that are in memory.

    Args:
        weights: They; what the server does not hold is left out.
        serving: What it says it serves.
        label: What it serves afterwards.
        repository: For people.
        old: Name → bytes that the server holds, as far as they are known: those can change by
            elements.

    Returns:
        The delta; and name → bytes of what it changes. Both lie in the weights' own memory where
        they could.

    Raises:
        Unfit: A tensor has another shape there, or is no float.
    """
    changes: dict[str, Change] = {}
    changed: dict[str, ByteArray] = {}
    for name, spec, content in weights:
        held = serving.held.get(name)
        if held is None:
            continue
        _require_alike(name, spec, held)
        cast = cast_elements(content, spec.dtype, held.dtype)
        identity = tensor_id(held, cast)
        if identity != serving.ids[name]:
            changed[name] = cast
            changes[name] = _change(held, identity, old.get(name), changed[name])
    closed = closed_over_groups(changes, serving.raw["groups"], serving.held, serving.ids)
    before = str(serving.raw["state"])
    return Delta(before, label, repository=repository, changes=closed), changed


def _change(held: TensorSpec, identity: ObjectId, old: ByteArray | None, new: ByteArray) -> Change:
    """Return a change by elements where that is shorter, and what they change is known."""
    positions = None if old is None else changed_elements(old, new, held)
    if positions is None:
        return Change(held, identity, new)
    words = np.dtype(f"u{ITEMSIZE[held.dtype]}")
    return Change(held, identity, new.view(words)[positions].view(np.uint8), positions)


def _require_alike(name: str, spec: TensorSpec, held: TensorSpec) -> None:
    if not is_held_alike(spec, held):
        there, here = (f"{each.dtype} {list(each.shape)}" for each in (held, spec))
        raise Unfit(f"the server's {printable(name)} is {there}, not {here}")
