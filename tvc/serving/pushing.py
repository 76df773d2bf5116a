"""Makes a running server another commit: only what differs travels, and what arrived is attested.

The delta is made while the server serves; it waits only while the delta is read, checked and put in
place. Absent: how a delta is applied (tvc/vllm).
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tvc.domain.errors import InputError, IntegrityError, TvcError
from tvc.domain.names import printable
from tvc.repository.gateway import GitFailed
from tvc.repository.layout import Layout
from tvc.repository.leftovers import remove_pushed
from tvc.repository.repository import Repository
from tvc.serving.changing import delta_to
from tvc.serving.delta import Delta, Kind, pack_delta
from tvc.serving.server import LiveServer, Serving, Unfit
from tvc.serving.source import Location, Served, served
from tvc_store.durable import make_folder, write_errors
from tvc_store.ids import ObjectId

__all__ = ["NotAttested", "Pushed", "delta_file", "push", "push_delta", "undo_target"]


class NotAttested(IntegrityError):
    """A server serves something else than what it was made to serve."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Args:
        label: What is served now.
        tensors: Number of tensors that differed.
        kind: Whether whole tensors or elements travelled; `store` where the server read them.
        nbytes: Bytes that travelled.
        model_bytes: Bytes of all tensors.
        seconds: For how long no request was served; 0 where it was never paused.
        torn: Forwards during which weights were written, of `forwards`, since the server counts.
        forwards: See `torn`.
    """

    label: str
    tensors: int
    kind: str
    nbytes: int
    model_bytes: int
    seconds: float
    torn: int = 0
    forwards: int = 0


def push(
    server: LiveServer,
    repository: Repository,
    revision: str,
    *,
    kind: Kind | None = None,
    from_store: bool = False,
    hogwild: bool = False,
    undo: bool = False,
    on_plan: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> Pushed:
    """Make a server serve a commit or a recipe.

    Args:
        server: It.
        repository: Where the commit is.
        revision: The commit, or a recipe.
        kind: `dense`, `sparse`, or None for the shorter.
        from_store: Let the server read the repository, instead of a file with what differs.
        hogwild: Write while it serves.
        undo: Count it as a step back.
        on_plan: Told of the bytes that are compared, returns what is told of every tensor's.

    Raises:
        Unfit: The server refused; it serves what it served.
        WrongModel: It serves a model of another base.
        ServerGone: It stopped answering.
        NotAttested: It serves something else now.
    """
    serving = server.describe()
    root = repository.layout.root.resolve()
    with ExitStack() as stack:
        target = stack.enter_context(served(Location(root, revision)))
        old = stack.enter_context(_old(root, serving))
        delta = delta_to(
            target,
            serving.raw,
            repository=str(root),
            old=old,
            kind=kind,
            on_bytes=on_plan(serving.nbytes),
        )
    options: dict[str, Any] = {"mode": "hogwild" if hogwild else "paused", "undo": undo}
    if not from_store:
        return push_delta(server, serving, delta, repository.layout, options)
    if not delta.commit:
        raise InputError("a server reads commits from a store, not recipes", hint="commit it first")
    update = {"repository": str(root), "commit": delta.commit, **options}
    return _changed(server, serving, delta, update, kind="store")


def push_delta(
    server: LiveServer,
    serving: Serving,
    delta: Delta,
    layout: Layout,
    options: dict[str, Any],
) -> Pushed:
    """Send a delta as a file beside a repository, and see that it arrived; see `push`.

    Args:
        server: To whom.
        serving: What it serves.
        delta: It.
        layout: Of the repository, whose private folder the server may read.
        options: `mode` and `undo`.
    """
    with delta_file(delta, layout) as update:
        return _changed(server, serving, delta, {**update, **options}, kind=delta.kind)


def undo_target(serving: Serving) -> str:
    """Return the commit or recipe that a server served before.

    Raises:
        Unfit: There is none that could be named.
    """
    before = cast("list[dict[str, Any]]", serving.raw.get("before") or [{}])
    target = before[-1].get("commit") or before[-1].get("recipe")
    if not isinstance(target, str) or not target:
        raise Unfit(f"nothing was pushed over {serving.name}, or nothing that has a name")
    return target


@contextmanager
def delta_file(delta: Delta, layout: Layout) -> Generator[dict[str, str]]:
    """Write a delta for a server to read, and remove it afterwards.

    Args:
        delta: It.
        layout: Of the repository, whose private folder the server may read.

    Yields:
        What tells the server of it.

    Raises:
        WriteFailed: The system refused.
    """
    make_folder(layout.pushed)
    remove_pushed(layout)
    path = layout.pushed / f"{os.getpid()}-{secrets.token_hex(8)}.delta"
    digest = hashlib.sha256()
    try:
        with write_errors(path), path.open("xb") as file:
            for part in pack_delta(delta):
                digest.update(part)
                file.write(part)
        yield {"path": str(path), "sha256": digest.hexdigest(), "kind": delta.kind}
    finally:
        path.unlink(missing_ok=True)


def _changed(
    server: LiveServer, serving: Serving, delta: Delta, update: dict[str, Any], *, kind: str
) -> Pushed:
    """Change a server, paused or not, and compare what it holds then."""
    hogwild = update["mode"] == "hogwild"
    began = time.monotonic()
    if hogwild:
        server.change(update, label=f"{delta.label}+hogwild")
        now = server.wait()
        server.forget(running=True)
        seconds = 0.0
    else:
        with server.paused():
            server.change(update, label=delta.label)
            server.forget()
        seconds = time.monotonic() - began
        now = server.wait()
    wanted = dict(serving.ids) | {name: change.id for name, change in delta.changes.items()}
    _attest(server, now, wanted, delta)
    forwards = now.raw.get("forwards", {})
    return Pushed(
        delta.label,
        sum(change.id != serving.ids[name] for name, change in delta.changes.items()),
        kind,
        0 if kind == "store" else delta.nbytes,
        serving.nbytes,
        seconds,
        forwards.get("torn", 0),
        forwards.get("done", 0),
    )


def _attest(server: LiveServer, now: Serving, wanted: dict[str, ObjectId], delta: Delta) -> None:
    """Compare every tensor, those that changed as they are read back now.

    Raises:
        NotAttested: One is another.
    """
    wrong = [name for name, identity in wanted.items() if now.ids.get(name) != identity]
    changed = {name: now.held[name] for name in delta.changes if name in now.held}
    found = server.digests(Serving("", "", "", "", changed, {}, {}))
    wrong += [name for name in delta.changes if found.get(name) != wanted[name]]
    if wrong or now.label != delta.label:
        shown = printable(wrong[0]) if wrong else f"its label is {now.name}"
        raise NotAttested(
            f"{server.url} does not serve {printable(delta.label)}: {shown} is another",
            hint="push it again, or start the server again with: tvc serve",
        )


@contextmanager
def _old(root: Path, serving: Serving) -> Generator[Served | None]:
    """Yield what a server serves now, if this repository has it."""
    revision = serving.commit or serving.recipe
    if not revision:
        yield None
        return
    with ExitStack() as stack:
        try:
            found = stack.enter_context(served(Location(root, revision)))
        except (GitFailed, TvcError):
            found = None
        yield found
