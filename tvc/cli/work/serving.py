"""What tvc serve, push-live and live do."""

import json
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from tvc.cli.progress import format_bytes, progress_of
from tvc.cli.session import Session
from tvc.domain.errors import IntegrityError
from tvc.domain.names import printable
from tvc.repository.layout import NoRepository
from tvc.repository.repository import Repository
from tvc.serving.attesting import Attested, attest
from tvc.serving.pushing import Pushed, push, undo_target
from tvc.serving.server import LiveServer, Serving
from tvc.serving.source import Location, subject_of
from tvc.serving.starting import Command, is_local, serve_command, served_folder

__all__ = ["live", "push_live", "serve"]

_SHORT = 10
_SHOWN = 5


def serve(
    session: Session,
    *,
    revision: str,
    flags: tuple[str, ...],
    stream: bool,
    live: bool | None,
    dry_run: bool,
) -> None:
    """Do what `tvc serve` says; its options are the command's."""
    repository = session.repository()
    root = repository.layout.root.resolve()
    live = is_local(flags) if live is None else live
    subject = subject_of(repository, revision) if stream else None
    commit = subject.commit if subject else repository.git.resolve(revision)
    beside = Path(sys.executable).parent

    def command(model: str) -> Command:
        return serve_command(model, revision, flags, live=live, roots=[root], beside=beside)

    if subject is not None:
        _start(session, command(str(Location(root, commit or revision))), dry_run=dry_run)
        return
    command(str(root))  # what is wrong with the flags is said before anything is written
    state = repository.state_at(commit)
    with ExitStack() as stack:  # which never ends where vLLM starts: the folder stays locked
        with progress_of(session, "checking out") as on_plan:
            folder, written = stack.enter_context(
                served_folder(repository.layout, state, commit=commit, on_plan=on_plan)
            )
        if written:
            session.note(f"checked out {format_bytes(written.nbytes)} into {folder}")
        _start(session, command(str(folder)), dry_run=dry_run)


def _start(session: Session, command: Command, *, dry_run: bool) -> None:
    added = [f"{name}={value}" for name, value in command.environment.items()]
    session.note(f"starting: {printable(shlex.join([*added, *command.arguments]), limit=2000)}")
    if dry_run:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606 -- becomes the server; the program was found by name, nothing is parsed
        command.program, command.arguments, {**os.environ, **command.environment}
    )


def push_live(
    session: Session,
    *,
    url: str,
    revision: str | None,
    undo: bool,
    mode: str,
    kind: Any,
    from_store: bool,
    timeout: float,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Do what `tvc push-live` says; its options are the command's."""
    if undo and revision is not None:
        raise click.UsageError("--undo goes back to what was served before, not to a revision")
    repository = session.repository()
    server = LiveServer(url, api_key, timeout)
    target = undo_target(server.describe()) if undo else revision or "HEAD"
    with progress_of(session, "comparing") as on_plan:
        pushed = push(
            server,
            repository,
            target,
            kind=kind,
            from_store=from_store,
            hogwild=mode == "hogwild",
            undo=undo,
            on_plan=on_plan,
        )
    if as_json:
        click.echo(json.dumps(_facts_of_push(pushed, mode), indent=2))
    else:
        _say_push(session, url, target, pushed, mode)


def _say_push(session: Session, url: str, target: str, pushed: Pushed, mode: str) -> None:
    # A name as it was given; a commit that the server named in short.
    shown = pushed.label[:_SHORT] if target == pushed.label else printable(target, limit=60)
    if not pushed.tensors:
        session.say(f"{url} holds the tensors of {shown} already; it is called so now")
        return
    travelled = "read from the store by the server"
    if pushed.kind != "store":
        travelled = (
            f"{format_bytes(pushed.nbytes)} of {format_bytes(pushed.model_bytes)} travelled"
            f" ({'whole tensors' if pushed.kind == 'dense' else 'changed elements'})"
        )
    session.say(f"{url} serves {shown}: {pushed.tensors} tensors differed, {travelled}")
    if mode == "hogwild":
        session.say(
            f"written while it served: {pushed.torn} of {pushed.forwards} forwards since the first"
            " such push saw weights of two models"
        )
    else:
        session.say(f"no request was served for {pushed.seconds:.2f} s")


def _facts_of_push(pushed: Pushed, mode: str) -> dict[str, object]:
    return {
        "label": pushed.label,
        "mode": mode,
        "tensors": pushed.tensors,
        "kind": pushed.kind,
        "bytes": pushed.nbytes,
        "model_bytes": pushed.model_bytes,
        "paused_seconds": pushed.seconds,
        "forwards": pushed.forwards,
        "torn_forwards": pushed.torn,
    }


def live(
    session: Session, *, url: str, resume: bool, timeout: float, api_key: str | None, as_json: bool
) -> None:
    """Do what `tvc live URL` says; its options are the command's."""
    server = LiveServer(url, api_key, timeout)
    if resume:
        server.resume()
    serving = server.describe()
    paused = server.is_paused
    repository = _repository(session)
    root = repository.layout.root if repository else None
    with progress_of(session, "comparing") as on_plan:
        attested = attest(server, serving, root, on_plan=on_plan)
    if as_json:
        click.echo(json.dumps(_facts(serving, attested, paused=paused), indent=2))
    else:
        _say_live(session, url, serving, attested, paused=paused)
    if attested.wrong:
        name, why = next(iter(attested.wrong.items()))
        raise IntegrityError(
            f"{url} does not hold {serving.name}: {printable(name)} {printable(why)}"
            + (f", and {len(attested.wrong) - 1} more" if len(attested.wrong) > 1 else ""),
            hint="push it again, or start the server again with: tvc serve",
        )


def _repository(session: Session) -> Repository | None:
    try:
        return session.repository()
    except NoRepository:
        return None


def _say_live(
    session: Session, url: str, serving: Serving, attested: Attested, *, paused: bool
) -> None:
    shown = serving.commit[:_SHORT] or serving.name
    session.say(
        f"{url} serves {shown}" + (f": {printable(serving.recipe)}" if serving.recipe else "")
    )
    if serving.raw.get("hogwild") is True:
        session.say("  written while it served (hogwild): requests may have seen two models")
    if paused:
        session.say(f"  PAUSED: requests wait; let them go on with: tvc live {url} --resume")
    against = "this repository's commit" if attested.with_commit else "what it said it loaded"
    session.say(
        f"  {len(attested.equal)} of {len(serving.held)} tensors ({format_bytes(serving.nbytes)})"
        f" read back and equal to {against}"
    )
    for name, why in list(attested.unheld.items())[:_SHOWN]:
        session.say(f"  not held as it is: {printable(name)}: {printable(why)}")
    if len(attested.unheld) > _SHOWN:
        session.say(f"  and {len(attested.unheld) - _SHOWN} more")


def _facts(serving: Serving, attested: Attested, *, paused: bool) -> dict[str, object]:
    return {
        "label": serving.label,
        "commit": serving.commit or None,
        "recipe": serving.recipe or None,
        "repository": serving.repository or None,
        "paused": paused,
        "hogwild": serving.raw.get("hogwild") is True,
        "compared_with_commit": attested.with_commit,
        "equal": len(attested.equal),
        "wrong": attested.wrong,
        "not_held": attested.unheld,
    }
