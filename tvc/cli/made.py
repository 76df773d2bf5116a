"""Prints what was committed of a recipe, and which share of the weights that changed.

Apart from measures.py, which needs torch.
"""

from typing import Final

from tvc.cli.session import Session
from tvc.repository.repository import Change
from tvc.versioning.finishing import Made

__all__ = ["IDLE_MERGE", "say_made"]

IDLE_MERGE: Final = "what was merged is here already, or its density or weight is too small"
"""What to look for where a merge would change nothing."""


def say_made(session: Session, change: Change, made: Made) -> None:
    """Say what was committed, and which share of the weights changed."""
    branch = change.before.branch or "detached HEAD"
    seen = made.change
    session.say(
        f"[{branch} {made.commit[:10]}] {seen.share:.2%} of the weights changed, "
        f"in {seen.tensors} of {seen.of_tensors} tensors"
    )
