"""Refuses versions of vLLM that this plugin was not tried with."""

import vllm

from tvc.serving.versions import SUPPORTED, is_supported
from tvc.vllm.live import WrongServer

__all__ = ["require_supported"]


def require_supported() -> None:
    """Refuse a version whose interface was not tried.

    Raises:
        WrongServer: It is another.
    """
    if not is_supported(vllm.__version__):
        raise WrongServer(
            f"tvc does not know vLLM {vllm.__version__}",
            hint=f"it was tried with {', '.join(SUPPORTED)}; without the plugin, serve a checkout",
        )
