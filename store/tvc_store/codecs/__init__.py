"""How the bytes of a frame become fewer bytes: one file with one class per codec.

A third party's codec is a class behind an entry point of the group `tvc.codecs`, whose name is the
id that stands in the objects' headers. Entry points are searched only for an id that is not built
in.
"""

from tvc_store.codecs.interface import Codec, Coder, MalformedFrame
from tvc_store.codecs.registry import BUILT_IN, GROUP, UnknownCodec, find_codec

__all__ = ["BUILT_IN", "GROUP", "Codec", "Coder", "MalformedFrame", "UnknownCodec", "find_codec"]
