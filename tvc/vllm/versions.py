"""The versions of vLLM that this plugin was tried with."""

from typing import Final

import vllm

from tvc.vllm.live import WrongServer

__all__ = ["SUPPORTED", "require_supported"]

SUPPORTED: Final = ("0.31", "0.32", "0.33")
"""Served on a CPU: 0.31.0 and 0.32.0. Of 0.33.0 loading and changing weights, without a server."""


def require_supported() -> None:
    """Refuse a version whose interface was not tried.

    Raises:
        WrongServer: It is another.
    """
    found = ".".join(vllm.__version__.split(".")[:2])
    if found not in SUPPORTED:
        raise WrongServer(
            f"tvc does not know vLLM {vllm.__version__}",
            hint=f"it was tried with {', '.join(SUPPORTED)}; without the plugin, serve a checkout",
        )
