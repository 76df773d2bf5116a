"""Texts that are kept: compared, or written anew where UPDATE_GOLDEN is set."""

import os
from pathlib import Path

__all__ = ["check_golden"]

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare a text with the one that is kept under a name."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing: run once with UPDATE_GOLDEN=1"
    assert text == path.read_text(), f"{path} differs: if it should, run with UPDATE_GOLDEN=1"
