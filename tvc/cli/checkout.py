"""tvc checkout."""

import json
from pathlib import Path

import click

from tvc.checkout.writing import DTYPES, Checkout
from tvc.cli.completing import complete_revision
from tvc.cli.progress import byte_progress, format_bytes
from tvc.cli.session import Session, pass_session
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import format_recipe, recipe_id
from tvc.models.writer import parse_size
from tvc.repository.objects import Objects, open_objects
from tvc_store.durable import write_errors

__all__ = ["checkout"]


@click.command(epilog="Example: tvc checkout main -o ../serve && vllm serve ../serve")
@click.argument("revision", default="HEAD", shell_complete=complete_revision, metavar="[REV]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write (default: checkouts/REV in the repository).",
)
@click.option("--force", is_flag=True, help="Replace a model that is there.")
@click.option(
    "--shard-size", default="5GB", show_default=True, help="Largest size of one weight file."
)
@click.option("--dtype", type=click.Choice(list(DTYPES)), help="Cast floating tensors.")
@click.option("--allow-code", is_flag=True, help="Write the source model's Python files too.")
@click.option("--verify", is_flag=True, help="Read everything back and compare it with the ids.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, hidden=True)
@pass_session
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
    dry_run: bool,
    as_json: bool,
    workers: int,
) -> None:
    """Write the model that a commit's recipe gives, ready for transformers and vLLM.

    REV is a branch, tag or commit. The folder is built beside its target and moved there when it
    is whole. Tensors that one fine-tune alone changed come back bit for bit.
    """
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
        if dry_run:
            _say_plan(planned, format_recipe(state.recipe), as_json=as_json)
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
            "bytes": written.nbytes,
            "verified": verify,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    session.say(
        f"wrote {output or target}: {written.tensors} tensors, {format_bytes(written.nbytes)}"
        f"{', verified' if verify else ''}"
    )
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


def _say_plan(planned: Checkout, recipe: str, *, as_json: bool) -> None:
    costs = planned.costs
    if as_json:
        facts = {
            "recipe": recipe,
            "recipe_id": recipe_id(planned.normal),
            "copy": costs.copied,
            "restore": costs.restored,
            "combine": costs.combined,
            "passes": planned.evaluator.passes,
            "read_bytes": costs.read,
            "write_bytes": sum(spec.nbytes for spec in planned.specs.values()),
            "peak_bytes": costs.peak,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"recipe   {recipe}")
    click.echo(
        f"tensors  {costs.copied} copied from the base, {costs.restored} restored, "
        f"{costs.combined} computed"
    )
    if planned.evaluator.passes:
        click.echo(f"passes   {planned.evaluator.passes} over the vectors before computing")
    click.echo(f"read     {format_bytes(costs.read)}")
    click.echo(f"write    {format_bytes(sum(s.nbytes for s in planned.specs.values()))}")
    click.echo(f"memory   {format_bytes(costs.peak)} at most for tensors")
