"""Where a command computes."""

import torch

from tvc.domain.errors import InputError

__all__ = ["chosen_device"]


def chosen_device(asked: str) -> str:
    """Return cpu or cuda, for what `--device` says.

    Raises:
        InputError: There is no such device.
    """
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise InputError("there is no CUDA device here", hint="leave --device out")
    return "cuda" if there and asked != "cpu" else "cpu"
