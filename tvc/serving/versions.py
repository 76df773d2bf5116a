"""The versions of vLLM that tvc's plugin was tried with; apart, so that it imports nothing."""

from typing import Final

__all__ = ["SUPPORTED", "is_supported"]

SUPPORTED: Final = ("0.31", "0.32", "0.33")
"""Served on a CPU: 0.31.0 and 0.32.0. Of 0.33.0 loading and changing weights, without a server."""


def is_supported(version: str) -> bool:
    """Say whether a version of vLLM was tried."""
    return ".".join(version.split(".")[:2]) in SUPPORTED
