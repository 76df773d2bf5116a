"""What passes over whole vectors remember of members, by the content that it follows from."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tvc.domain.plan import Merged
from tvc_store.cache import Cache
from tvc_store.ids import hash_fields

__all__ = ["MemberMemory"]


class MemberMemory:
    """What is remembered of the members of one merge: a `tvc.merging.passes.Memory`.

    A member's text names its vectors by id, and with the base's tensors and its weight, where the
    method is given differences that it has multiplied, says what is counted.

    Args:
        cache: Where it is kept, if anywhere.
        kind: What counts: the pass's module and name.
        weighted: Whether members are given multiplied by their weights.
        tensors: The merge, at every tensor that it changes.
        numel: Elements of a member's whole vector.
    """

    def __init__(
        self,
        cache: Cache | None,
        tensors: Mapping[str, Merged],
        numel: int,
        *,
        kind: str,
        weighted: bool,
    ) -> None:
        self._cache = cache
        merged = next(iter(tensors.values()))
        base = hash_fields(
            "tvc.merged-base",
            *(f"{name} {tensors[name].base.id}".encode() for name in sorted(tensors)),
        )
        weights = [str(member.weight) if weighted else "1" for member in merged.members]
        self._keys = [
            f"{kind} {base} {numel} {weight} * {member.key}"
            for weight, member in zip(weights, merged.members, strict=True)
        ]

    def recall(self, member: int, label: str, size: int) -> npt.NDArray[np.int64] | None:
        """Return counts that were kept, int64 (size,), or None."""
        if self._cache is None:
            return None
        data = self._cache.get(self._key(member, label), size=8 * size)
        if data is None:
            return None
        counts = np.frombuffer(data, "<i8").astype(np.int64)
        return counts if counts.min(initial=0) >= 0 else None

    def keep(self, member: int, label: str, counts: npt.NDArray[np.int64]) -> None:
        """Keep counts of a member's whole vector."""
        if self._cache is not None:
            self._cache.put(self._key(member, label), counts.astype("<i8").tobytes())

    def _key(self, member: int, label: str) -> str:
        return f"{label} {self._keys[member]}"
