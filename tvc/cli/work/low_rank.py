"""What tvc export --lora does: a difference becomes an adapter, and what it keeps is told."""

import json
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import click

from tvc.checkout.folder import replaced_folder
from tvc.cli.progress import format_bytes, progress_of
from tvc.cli.session import Session
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import Sum, Term, VectorName, difference
from tvc.models.adapter_targets import MAX_RANK
from tvc.recording.factoring import Wanted, export_factors
from tvc.recording.kept_energy import Exported
from tvc.repository.objects import Objects, open_objects
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import find_vectors, readable_state
from tvc.versioning.finishing import union
from tvc.versioning.merging import tip_of
from tvc_store.ordered import THREADS

__all__ = ["WORKERS", "Difference", "export", "find_difference"]

WORKERS = min(THREADS, 4)
"""Matrices at a time; of one with 4096 rows and 12288 columns, each takes about a gigabyte."""


class Difference(NamedTuple):
    """What is exported.

    Args:
        state: Knows the vectors that it is made of.
        base: Id of the base that it is laid over.
        terms: In normal form.
    """

    state: State
    base: str
    terms: Sum


def find_difference(repository: Repository, name: str) -> Difference:
    """Find what a name stands for: a vector of any branch, or `A..B`, what B has more than A.

    Raises:
        InputError: It is neither, or A and B have different bases or equal recipes.
    """
    state = readable_state(repository)
    older, dots, newer = name.partition("..")
    if not dots or name in state.vectors:
        state = find_vectors(repository, state, [name])
        record = state.vectors[name]
        return Difference(state, record.parent.base, (Term(Fraction(1), VectorName(record.id)),))
    before, after = (
        tip_of(repository, side, repository.git.resolve(side))
        for side in (older or "HEAD", newer or "HEAD")
    )
    if before.normal.base != after.normal.base:
        raise InputError(f"the two sides of {printable(name)} have different bases")
    terms = difference(after.normal.terms, before.normal.terms)
    if not terms:
        raise InputError(f"nothing changed between the two sides of {printable(name)}")
    return Difference(union(after.state, before.state), after.normal.base, terms)


def export(
    session: Session,
    *,
    name: str,
    output: Path,
    rank: int | None,
    energy: float | None,
    modules: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Do what `tvc export --lora` says; its options are the command's."""
    if rank and energy is not None:
        raise click.UsageError("--energy is for --rank auto: a rank keeps what it keeps")
    wanted = Wanted(rank, 0.9 if energy is None else energy, modules)
    repository = session.repository()
    found = find_difference(repository, name)
    with (
        open_objects(repository.layout) as store,
        replaced_folder(session.folder / output, force=force) as folder,
        progress_of(session, "factoring") as on_plan,
    ):
        done = export_factors(
            Objects(store, found.state),
            found.terms,
            folder,
            base=found.base,
            wanted=wanted,
            workers=WORKERS,
            on_plan=on_plan,
        )
    if as_json:
        click.echo(json.dumps({"name": name, "output": str(output), **_facts(done)}, indent=2))
    else:
        _say(session, done, name=name, output=output)


def _facts(done: Exported) -> dict[str, object]:
    return {
        "rank": done.rank,
        "scale": float(done.scale),
        "bytes": done.nbytes,
        "energy": done.square,
        "kept": done.share,
        "layers": {
            layer: {"kept": kept / energy if energy else None, "energy": energy}
            for layer, (kept, energy) in done.layers().items()
        },
        "matrices": {
            target: {
                "rank": each.rank,
                "kept": each.share,
                "energy": each.square,
                "own_factors": each.exact,
            }
            for target, each in done.kept.items()
        },
        "left_out": {
            reason: {"tensors": count, "share": share}
            for reason, (count, share) in done.reasons().items()
        },
        "left_out_tensors": {target: each.square for target, each in done.left.items()},
        "left_out_files": list(done.files),
    }


def _say(session: Session, done: Exported, *, name: str, output: Path) -> None:
    """Print what an adapter keeps of a difference, and what it has nothing of."""
    count = len(done.kept)
    matrices = "matrix" if count == 1 else "matrices"
    lines = [
        f"wrote {output}: {count} {matrices} at rank {done.rank}, {format_bytes(done.nbytes)}",
        f"{printable(name)}: {done.share:.2%} of its energy is in the adapter",
    ]
    layers = done.layers()
    width = max(map(len, map(printable, layers)))
    lines += ["", f"{'':{width}}     kept  of the whole energy"]
    lines += [
        f"{printable(layer):{width}}  {kept / energy if energy else 1:7.2%}  "
        f"{energy / done.square:19.2%}"
        for layer, (kept, energy) in layers.items()
    ]
    if done.left or done.files:
        lines += ["", "not in the adapter"]
    for reason, (count, share) in done.reasons().items():
        many = "" if count == 1 else "s"
        lines.append(f"  {reason}: {count} tensor{many}, {share:.2%} of the energy")
    if done.files:
        lines.append(f"  files: {', '.join(map(printable, done.files))}")
    session.say("\n".join(lines))
    if done.rank > MAX_RANK:
        session.note(f"remark: vLLM takes ranks up to {MAX_RANK} only")
