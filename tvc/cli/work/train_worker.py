"""One process of a training that several share: what torchrun runs, by `python -m`."""

import os
import sys
import traceback
from pathlib import Path

from tvc.training.loop import train
from tvc.training.run import Run
from tvc_store.errors import TvcError

__all__ = ["main"]


def main() -> None:
    """Train the run whose folder is the one argument; leave word of what went wrong there."""
    run = Run(Path(sys.argv[1]))
    try:
        train(run)
    except TvcError as error:
        _leave_word(run, error.message, error.hint, error.exit_code)
    except Exception:  # noqa: BLE001 -- the boundary of this process: what arrives here is a bug
        traceback.print_exc()
        _leave_word(run, traceback.format_exc(limit=-1).strip(), None, 70)


def _leave_word(run: Run, error: str, hint: str | None, exit_code: int) -> None:
    run.fail(error, hint, exit_code)
    # At once: the others may wait for this process in a collective, and so would a clean exit.
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    main()
