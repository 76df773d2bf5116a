"""Finding the codec that an object's header names.

Absent on purpose: imports of third-party code for the built-in codecs, which must stay cheap.
"""

from importlib.metadata import entry_points
from typing import Final, cast

from tvc_store.codecs.interface import Codec
from tvc_store.codecs.lowrank import LowRank
from tvc_store.codecs.planes import Planes
from tvc_store.codecs.rans import Rans
from tvc_store.codecs.raw import Raw
from tvc_store.errors import StoreError

__all__ = ["BUILT_IN", "GROUP", "UnknownCodec", "find_codec"]

GROUP: Final = "tvc.codecs"
"""The entry point group of third-party codecs."""

BUILT_IN: Final[dict[str, Codec]] = {
    "lowrank": LowRank(),
    "planes": Planes(),
    "rans": Rans(),
    "raw": Raw(),
}
"""The codecs that every store can read, by the id that headers name; frozen, like the format."""

_loaded: dict[str, Codec] = {}


class UnknownCodec(StoreError):
    """An object names a codec that is not installed."""


def find_codec(name: str) -> Codec:
    """Return the codec of an id.

    Args:
        name: The id, as in headers.

    Raises:
        UnknownCodec: It is neither built in nor registered, or its entry point cannot be loaded.
    """
    codec = BUILT_IN.get(name) or _loaded.get(name)
    return codec or _loaded.setdefault(name, _load(name))


def _load(name: str) -> Codec:
    points = sorted(entry_points(group=GROUP, name=name), key=lambda point: point.value)
    if not points:
        known = ", ".join(BUILT_IN)
        raise UnknownCodec(
            f"the codec {name!r} is not installed",
            hint=f"built in: {known}; install the package that provides it",
        )
    try:
        return cast("Codec", points[0].load()())
    except Exception as error:  # a third party's code may raise anything
        raise UnknownCodec(
            f"the codec {name!r} ({points[0].value}) fails to load: {error}"
        ) from error
