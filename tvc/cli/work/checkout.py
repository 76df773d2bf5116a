"""What tvc checkout does."""

import json
from pathlib import Path

import click

from tvc.checkout.dtypes import DTYPES
from tvc.checkout.writing import Checkout
from tvc.cli.progress import byte_progress, format_bytes
from tvc.cli.session import Session
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe, recipe_id
from tvc.models.writer import parse_size
from tvc.repository.objects import Objects, open_objects
from tvc_store.durable import write_errors

__all__ = ["checkout"]


def checkout(
    session: Session,
    *,
    revision: str,
    output: Path | None,
    force: bool,
    shard_size: str,
    dtype: str | None,
    allow_code: bool,
    verify: bool,
    unservable: bool,
    dry_run: bool,
    as_json: bool,
    workers: int,
) -> None:
    """Do what `tvc checkout` says; its options are the command's."""
    repository = session.repository()
    commit = repository.git.resolve(revision)
    state = repository.state_at(commit)
    size = parse_size(shard_size)
    with open_objects(repository.layout) as store:
        planned = Checkout(
            Objects(store, state),
            state.recipe,
            commit=commit,
            dtype=DTYPES[dtype] if dtype else None,
            workers=workers,
        )
        checked = not unservable and planned.check_servable()
        if dry_run:
            _say_plan(planned, format_recipe(state.recipe), checked=checked, as_json=as_json)
            return
        target = (
            session.folder / output if output else _default_target(repository.layout.root, revision)
        )
        _refuse_inside(target, repository.layout.root)
        with byte_progress(session, "checking out", planned.work_bytes) as on_bytes:
            written = planned.write(
                target,
                title=revision if revision != "HEAD" else target.name,
                force=force,
                shard_size=size,
                allow_code=allow_code,
                verify=verify,
                on_bytes=on_bytes,
            )
    if as_json:
        facts = {
            "folder": str(written.folder),
            "commit": commit,
            "recipe": format_recipe(state.recipe),
            "recipe_id": recipe_id(planned.normal),
            "tensors": written.tensors,
            "kept": written.kept,
            "bytes": written.nbytes,
            "verified": verify,
            "servable": checked or None,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    session.say(
        f"wrote {output or target}: {written.tensors} tensors, {format_bytes(written.nbytes)}"
        f"{', verified' if verify else ''}"
    )
    if written.kept:
        session.say(f"  kept from what was there: {written.kept} of {written.tensors} tensors")
    if written.code:
        names = ", ".join(map(printable, written.code))
        session.say(f"  code was not written (--allow-code): {names}")


def _default_target(root: Path, revision: str) -> Path:
    folder = root / "checkouts"
    with write_errors(folder):
        folder.mkdir(exist_ok=True)
        # What is written here is never meant for git.
        if not (folder / ".gitignore").exists():
            (folder / ".gitignore").write_text("*\n")
    return folder / revision.replace("/", "-").replace("~", "-").replace("^", "-")


def _refuse_inside(target: Path, root: Path) -> None:
    resolved = target.resolve()
    if root.resolve().is_relative_to(resolved) or resolved.is_relative_to(root.resolve() / ".tvc"):
        raise InputError(f"{target} holds the repository itself", hint="name another one with -o")


def _say_plan(planned: Checkout, recipe: str, *, checked: bool, as_json: bool) -> None:
    costs = planned.costs
    if as_json:
        facts = {
            "recipe": recipe,
            "recipe_id": recipe_id(planned.normal),
            "copy": costs.copied,
            "restore": costs.restored,
            "combine": costs.combined,
            "passes": planned.evaluator.passes,
            "tensor_passes": planned.evaluator.tensor_passes,
            "read_bytes": costs.read,
            "write_bytes": sum(spec.nbytes for spec in planned.specs.values()),
            "peak_bytes": planned.evaluator.peak_bytes,
            "servable": checked or None,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"recipe   {recipe}")
    click.echo(
        f"tensors  {costs.copied} copied from the base, {costs.restored} restored, "
        f"{costs.combined} computed"
    )
    if passes := _passes(planned):
        click.echo(f"passes   {passes}")
    click.echo(f"read     {format_bytes(costs.read)}")
    click.echo(f"write    {format_bytes(sum(s.nbytes for s in planned.specs.values()))}")
    click.echo(f"memory   {format_bytes(planned.evaluator.peak_bytes)} at most for tensors")
    click.echo(f"vLLM     {'finds every tensor that it needs' if checked else 'not checked'}")


def _passes(planned: Checkout) -> str:
    """Say what is read more often than once."""
    counts = {
        "over whole vectors before computing": planned.evaluator.passes,
        "over a tensor before computing it": planned.evaluator.tensor_passes,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
