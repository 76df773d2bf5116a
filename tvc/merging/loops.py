"""Which loops run: the compiled ones, at a level of vector instructions, or plain NumPy.

Both give the same bytes: every element by the same operations in the same order, multiplied and
added in separate steps, and sums over elements in pieces and lanes of a fixed size. The compiled
ones (`native/`, float32 only) choose the processor's vector instructions when they are loaded. A
NaN that arithmetic made is stored as the canonical quiet NaN, as which payload survives depends on
the order of operands, which compilers may exchange.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

try:
    from tvc.merging import _fused
except ImportError:  # no compiler, or no wheel for this platform, when tvc was installed
    _fused = None

__all__ = ["PLAIN", "Floats", "compiled", "level", "levels", "use"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""Contiguous numbers, float32 or float64."""

PLAIN: Final = "NumPy"
"""The way without anything compiled."""
_state = {"level": _fused.levels()[0] if _fused else PLAIN}


def levels() -> list[str]:
    """Return the ways that there are to run the loops here, the fastest first."""
    return [*(_fused.levels() if _fused else []), PLAIN]


def level() -> str:
    """Return the way that is in use: "AVX-512", "AVX2", "plain C" or "NumPy"."""
    return _state["level"]


def use(name: str) -> None:
    """Run the loops in another way; for tests and measurements, not while merges run.

    Args:
        name: One of `levels()`.

    Raises:
        ValueError: This machine has no such way.
    """
    if name != PLAIN:
        if _fused is None:
            raise ValueError(f"no {name}: the compiled loops are not installed")
        _fused.use(name)
    _state["level"] = name


def compiled(values: Floats | None = None):  # what it returns, the module, has no name as a type
    """Return the compiled loops, if they are in use and made for these numbers."""
    usable = values is None or values.dtype == np.float32
    return _fused if usable and _state["level"] != PLAIN else None
