"""What the shell offers after a command: names of branches, tags and vectors. Never fails aloud."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from tvc.domain.recipe import vector_names
from tvc.repository.repository import Repository
from tvc_store.errors import TvcError

__all__ = ["complete_revision", "complete_term", "complete_vector"]


def complete_revision(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer branches and tags."""
    del parameter  # click's signature
    return _offered(context, incomplete, _revisions)


def complete_vector(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the vectors of all branches."""
    del parameter  # click's signature
    return _offered(context, incomplete, _vectors)


def complete_term(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the vectors of the working tree's recipe."""
    del parameter  # click's signature
    return _offered(context, incomplete, _terms)


def _revisions(repository: Repository) -> Iterable[str]:
    return (name.split("/", 2)[2] for name in repository.position().refs)


def _vectors(repository: Repository) -> Iterable[str]:
    found = set(repository.working_state().vectors)
    for commit in set(repository.position().refs.values()):
        found |= set(repository.state_at(commit).vectors)
    return found


def _terms(repository: Repository) -> Iterable[str]:
    return vector_names(repository.working_state().recipe.terms)


def _offered(
    context: click.Context, incomplete: str, names: Callable[[Repository], Iterable[str]]
) -> list[CompletionItem]:
    with suppress(TvcError, OSError):
        folder = Path(str(context.find_root().params.get("folder") or "."))
        known = sorted(set(names(Repository.open(folder.resolve()))))
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]
    return []
