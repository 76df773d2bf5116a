"""What the shell offers after a command: names of branches, tags and vectors. Never fails aloud."""

from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from tvc.repository.repository import Repository
from tvc_store.errors import TvcError

__all__ = ["complete_revision", "complete_vector"]


def complete_revision(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer branches and tags."""
    del context, parameter  # click's signature
    with suppress(TvcError, OSError):
        refs = Repository.open(Path.cwd()).position().refs
        names = [name.split("/", 2)[2] for name in refs]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return []


def complete_vector(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the vectors of the working tree."""
    del context, parameter  # click's signature
    with suppress(TvcError, OSError):
        names = Repository.open(Path.cwd()).working_state().vectors
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return []
