"""tvc init."""

import re
from pathlib import Path

import click

from tvc.cli.progress import byte_progress, format_bytes
from tvc.cli.session import Session, pass_session
from tvc.models.directory import ModelDirectory
from tvc.models.hub import fetch, parse_source
from tvc.recording.starting import start_repository

__all__ = ["base_name", "init"]


@click.command(epilog="Example: tvc init mymodel --base Qwen/Qwen3-0.6B@main")
@click.argument("folder", type=click.Path(path_type=Path), default=Path(), metavar="[FOLDER]")
@click.option("--base", required=True, metavar="MODEL", help="A folder, or a hub id ORG/NAME@REV.")
@click.option("--name", metavar="NAME", help="What to call the base here (default: its own name).")
@click.option("--vendor", is_flag=True, help="Copy the base into the store, not only borrow it.")
@click.option("--allow-code", is_flag=True, help="Fetch the hub model's Python files too.")
@pass_session
def init(
    session: Session,
    *,
    folder: Path,
    base: str,
    name: str | None,
    vendor: bool,
    allow_code: bool,
) -> None:
    """Start a repository in FOLDER on a base model.

    The base's tensors are hashed once and read from where they lie; nothing is copied without
    --vendor. A hub id is pinned to the commit that it names today.
    """
    path, source = fetch(parse_source(base), allow_code=allow_code)
    model = ModelDirectory.open(path)
    root = session.folder / folder
    location = str(path) if source.kind == "path" else source.location
    total = sum(entry.spec.nbytes for entry in model.entries.values())
    with byte_progress(session, "hashing the base", total) as on_bytes:
        repository = start_repository(
            root,
            model,
            name=name or base_name(location),
            source=location,
            revision=source.revision,
            vendor=vendor,
            command=session.command_line,
            on_bytes=on_bytes,
        )
    recipe = repository.working_state().recipe
    session.say(
        f"started {root} on {recipe.base}: {len(model.entries)} tensors, {format_bytes(total)}"
    )
    if source.revision:
        session.say(f"pinned to {source.location}@{source.revision}")


def base_name(location: str) -> str:
    """Make a name of a folder's or a hub model's own one."""
    words = re.sub(r"[^a-z0-9]+", "_", location.rstrip("/").rpartition("/")[2].lower()).strip("_")
    return words if words[:1].isalpha() else f"base_{words}".rstrip("_")
