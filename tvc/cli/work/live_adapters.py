"""What tvc live load-lora and unload-lora do: adapters go to a running vLLM, and leave it."""

import json
import os
from fractions import Fraction
from pathlib import Path

import click

from tvc.checkout.folder import replaced_folder
from tvc.cli.progress import progress_of
from tvc.cli.session import Session
from tvc.cli.work.low_rank import WORKERS, Difference, find_difference
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.domain.recipe import Recipe, Term, VectorName, recipe_id
from tvc.domain.vector import VectorRecord
from tvc.models.adapters import AdapterDirectory
from tvc.recording.adapter import restore_adapter
from tvc.recording.factoring import Wanted, export_factors
from tvc.repository.objects import Objects, open_objects
from tvc.serving.adapters import AdapterServer, check_fits
from tvc_store.durable import make_folder
from tvc_store.ids import hash_fields

__all__ = ["load_lora", "unload_lora"]


def load_lora(
    session: Session,
    *,
    url: str,
    name: str,
    source: str,
    rank: int | None,
    energy: float | None,
    timeout: float,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Do what `tvc live load-lora` says; its options are the command's."""
    if rank and energy is not None:
        raise click.UsageError("--energy is for --rank auto: a rank keeps what it keeps")
    server = AdapterServer(url, api_key, timeout)
    models = server.models()
    if "/" in source or source in {".", ".."}:
        if rank or energy is not None:
            raise click.UsageError("--rank and --energy are for vectors: a folder is what it is")
        adapter = AdapterDirectory.open(session.folder / source)
        before = models.get(name)
        if before is not None and before.root == str(adapter.root):
            raise InputError(
                f"{url} has {printable(name)} from this folder already",
                hint="other weights need another path: copy it, or load a vector by its name",
            )
    else:
        adapter = AdapterDirectory.open(_made(session, source, rank, energy))
    looked = check_fits(adapter, models)
    before = server.load(name, adapter.root)
    if as_json:
        facts = {
            "url": url,
            "name": name,
            "path": str(adapter.root),
            "replaced": before.root if before else None,
            "compared": looked,
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        now = "answers now" if before is None else "answers from now on"
        session.say(f"{url} {now} as {printable(name)} with {adapter.root}")
    if not looked:
        session.note(
            "remark: the model that is served cannot be read from here, so whether the adapter "
            "fits it was not compared"
        )


def unload_lora(
    session: Session, *, url: str, name: str, timeout: float, api_key: str | None, as_json: bool
) -> None:
    """Do what `tvc live unload-lora` says; its options are the command's."""
    AdapterServer(url, api_key, timeout).unload(name)
    if as_json:
        click.echo(json.dumps({"url": url, "name": name}, indent=2))
    else:
        session.say(f"{url} has forgotten {printable(name)}")


def _made(session: Session, source: str, rank: int | None, energy: float | None) -> Path:
    """Return a folder with the adapter that a vector is, made if it is not there yet."""
    repository = session.repository()
    found = find_difference(repository, source)
    record = None if rank or energy is not None else _adapter(found)
    wanted = Wanted(rank, 0.9 if energy is None else energy)
    kind = "as it was" if record else f"{wanted.rank or 'auto'} {wanted.energy.hex()}"
    content = recipe_id(Recipe(found.base, found.terms))
    target = repository.layout.adapters / hash_fields(
        "tvc.live-adapter", content.encode(), kind.encode()
    )
    if target.is_dir():
        os.utime(target)  # so that tvc gc knows that it is in use
        return target
    make_folder(target.parent)
    with (
        open_objects(repository.layout) as store,
        replaced_folder(target, force=False) as folder,
        progress_of(session, "factoring") as on_plan,
    ):
        objects = Objects(store, found.state)
        if record:
            restore_adapter(objects, record, folder)
        else:
            export_factors(
                objects,
                found.terms,
                folder,
                base=found.base,
                wanted=wanted,
                workers=WORKERS,
                on_plan=on_plan,
            )
    return target


def _adapter(found: Difference) -> VectorRecord | None:
    """Return the vector that a difference is, if it is one that was taken in as an adapter."""
    match found.terms:
        case (Term(Fraction(numerator=1, denominator=1), VectorName(vector)),):
            record = found.state.library().record(vector)
            return record if record.kind == "adapter" else None
        case _:
            return None
