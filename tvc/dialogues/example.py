"""What is trained on: token ids of a context, and of what should follow it.

Absent: text, and how it became tokens (tvc/dialogues/rendering.py).
"""

from dataclasses import dataclass

__all__ = ["Example"]


@dataclass(frozen=True, slots=True)
class Example:
    """A context and the decisions that may follow it, as token ids.

    Args:
        context: At least one token; none of them is trained on.
        decisions: Alternatives, each of at least one token that is trained on, each directly after
            the context.
        source: `FILE:LINE`, for messages.
    """

    context: tuple[int, ...]
    decisions: tuple[tuple[int, ...], ...]
    source: str

    def __post_init__(self) -> None:
        assert self.context, self.source
        assert self.decisions, self.source
        assert all(self.decisions), self.source

    @property
    def length(self) -> int:
        """Tokens of the context and the longest decision."""
        return len(self.context) + max(map(len, self.decisions))
