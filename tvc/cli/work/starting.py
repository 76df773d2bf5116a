"""What tvc init does."""

import re
from pathlib import Path

from tvc.cli.progress import byte_progress, format_bytes
from tvc.cli.session import Session
from tvc.models.directory import ModelDirectory
from tvc.models.hub import fetch, parse_source
from tvc.recording.starting import start_repository

__all__ = ["base_name", "init"]


def init(
    session: Session,
    *,
    folder: Path,
    base: str,
    name: str | None,
    vendor: bool,
    allow_code: bool,
) -> None:
    """Do what `tvc init` says; its options are the command's."""
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
