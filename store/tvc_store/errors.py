"""Errors of the store, and the root that every expected error of tvc shares.

TvcError                     exit 1   what a user can put right
├── StoreError               exit 1   the store cannot do what was asked
│   └── …                             leaves sit beside their cause
└── IntegrityError           exit 3   stored or given bytes are not what they claim to be
    └── …

An error carries values, a message, a hint and an exit code. It is printed at one place only, the
boundary in tvc/cli.
"""

__all__ = ["IntegrityError", "StoreError", "TvcError"]


class TvcError(Exception):
    """An expected failure: one line that says what is wrong, and a hint that says what would help.

    Args:
        message: What is wrong, with the values concerned, without a final full stop.
        hint: What the user can do, or None where nothing sensible can be said.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StoreError(TvcError):
    """The store cannot do what was asked (full, read-only, wrong version, missing object)."""


class IntegrityError(TvcError):
    """Bytes are not what their id, their header or their checksum says."""

    exit_code = 3
