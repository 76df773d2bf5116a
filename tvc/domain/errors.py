"""The exception tree of tvc above the store.

TvcError (tvc_store.errors)  exit 1
├── InputError               exit 1   a file, name, option or recipe given by the user is wrong
│   ├── RecipeSyntaxError    (domain/grammar.py)
│   └── …                    leaves sit beside their cause
├── StateError               exit 1   the repository is not in a state in which this can be done
├── ConflictError            exit 4   two sides disagree; a person has to choose
├── StoreError               exit 1   (tvc_store.errors)
└── IntegrityError           exit 3   (tvc_store.errors)
"""

from tvc_store.errors import IntegrityError, StoreError, TvcError

__all__ = ["ConflictError", "InputError", "IntegrityError", "StateError", "StoreError", "TvcError"]


class InputError(TvcError):
    """Something the user named or gave is wrong."""


class StateError(TvcError):
    """The repository is not in a state in which this can be done."""


class ConflictError(TvcError):
    """Two sides changed the same thing differently."""

    exit_code = 4
