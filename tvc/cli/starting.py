"""tvc init."""

from pathlib import Path
from typing import Any

import click

from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["init"]


@click.command(epilog="Example: tvc init mymodel --base Qwen/Qwen3-0.6B@main")
@click.argument("folder", type=click.Path(path_type=Path), default=Path(), metavar="[FOLDER]")
@click.option("--base", required=True, metavar="MODEL", help="A folder, or a hub id ORG/NAME@REV.")
@click.option("--name", metavar="NAME", help="What to call the base here (default: its own name).")
@click.option("--vendor", is_flag=True, help="Copy the base into the store, not only borrow it.")
@click.option("--allow-code", is_flag=True, help="Fetch the hub model's Python files too.")
@pass_session
def init(session: Session, **options: Any) -> None:
    """Start a repository in FOLDER on a base model.

    The base's tensors are hashed once and read from where they lie; nothing is copied without
    --vendor. A hub id is pinned to the commit that it names today.
    """
    load("tvc.cli.work.starting:init")(session, **options)
