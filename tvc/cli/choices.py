"""What options of several commands may say; what means it is not imported for their help."""

from typing import Final

__all__ = ["OPTIMIZERS", "TIERS"]

OPTIMIZERS: Final = ("sgd", "adamw", "apollo", "apollo-mini")
TIERS: Final = ("auto", "full", "frozen-context", "checkpointed")
