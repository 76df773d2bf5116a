"""Servers that answer, and code that decides, for commands: what is asked of them and said of them.

The key for servers comes from the environment, so that it stands in no file and no history.
"""

import os
from collections.abc import Callable

import click

from tvc.cli.session import Session
from tvc.dialogues.endpoint import Endpoint
from tvc.dialogues.sandbox import Containment

__all__ = ["containment_teller", "server"]


def server(url: str | None, model: str | None, *, option: str) -> Endpoint | None:
    """Return the server that two options name, or None where they name none.

    Args:
        url: Its address.
        model: What the model is called there.
        option: That names the model, for messages: `--judge-model`.

    Raises:
        UsageError: The model is not named.
        InputError: The address is none.
    """
    if url is None:
        return None
    if model is None:
        raise click.UsageError(f"say which model the server has: {option} NAME")
    return Endpoint(url, model, key=os.environ.get("OPENAI_API_KEY"))


def containment_teller(session: Session) -> Callable[[Containment], None]:
    """Return what says, once, what somebody's code could do on this system, if anything."""
    told = set[Containment]()

    def tell(found: Containment) -> None:
        open_ = {"reach the network": found.network, "read and remove files": found.files}
        free = [words for words, contained in open_.items() if not contained]
        if free and found not in told:
            session.note(f"note: on this system a verifier's code could {' and '.join(free)}")
        told.add(found)

    return tell
