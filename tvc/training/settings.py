"""What a training is to do: every number that its result depends on, checked, and as JSON.

Absent: the data, which a run keeps beside its settings, and where anything lies.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from tvc.domain.errors import InputError
from tvc.optimizers.building import OPTIMIZERS
from tvc.training.tiers import Tier

__all__ = ["KEEP_DELTA", "SCHEDULES", "BadSetting", "Settings"]

KEEP_DELTA: Final = ("float32", "bfloat16", "none")
SCHEDULES: Final = ("linear", "cosine", "constant")
_DEVICES: Final = ("cpu", "cuda")
_MAX_SEED: Final = (1 << 31) - 1
"""With a step's number after it, it is still one of torch's."""

Keep = Literal["float32", "bfloat16", "none"]


class BadSetting(InputError):
    """A number that a training is to run with is out of its range."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything but the data that the result of a training depends on.

    Args:
        tier: How far the gradient goes: `full`, `frozen-context` or `checkpointed`.
        optimizer: Its name, as `make_optimizer` knows it.
        rank: Of Apollo's projections.
        multiplier: Of the scale of Apollo's updates.
        lr: Learning rate at its highest.
        weight_decay: Decoupled; it pulls towards the model that is trained from.
        clip: Norm to which a step's gradient is cut; 0 for none.
        schedule: Of the learning rate after the warm-up: `linear` and `cosine` end at 0.
        warmup: Steps in which it rises from 0.
        steps: Updates of the weights.
        batch: Rows of an update, over all processes.
        micro_batch: Rows that one process has in memory at once.
        checkpoint_decisions: With a frozen context, compute the decision's layers twice.
        seed: Of the order of rows, of projections and of dropout.
        keep_delta: Type in which the vector keeps the trained difference, or `none`.
        checkpoint_every: Steps between two checkpoints; 0 for none.
        processes: How many share the weights.
        threads: Of each process, on a CPU.
        device: `cpu` or `cuda`.

    Raises:
        BadSetting: One is out of its range.
    """

    tier: str
    optimizer: str
    rank: int
    multiplier: float
    lr: float
    weight_decay: float
    clip: float
    schedule: str
    warmup: int
    steps: int
    batch: int
    micro_batch: int
    checkpoint_decisions: bool
    seed: int
    keep_delta: Keep
    checkpoint_every: int
    processes: int
    threads: int
    device: str

    def __post_init__(self) -> None:
        for name, allowed in (
            ("tier", tuple(Tier)),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("keep_delta", KEEP_DELTA),
            ("device", _DEVICES),
        ):
            if getattr(self, name) not in allowed:
                shown = name.replace("_", "-")
                raise BadSetting(
                    f"{shown} cannot be {getattr(self, name)!r}",
                    hint=f"it is one of {', '.join(allowed)}",
                )
        for name in ("rank", "steps", "batch", "micro_batch", "processes", "threads"):
            self._from(name, 1)
        for name in ("weight_decay", "clip", "warmup", "seed", "checkpoint_every"):
            self._from(name, 0)
        if self.seed > _MAX_SEED:
            raise BadSetting(f"seed must be at most {_MAX_SEED}, not {self.seed}")
        for name in ("lr", "multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadSetting(f"{name} must be a positive number, not {getattr(self, name)}")
        if self.batch % self.processes:
            raise BadSetting(
                f"{self.batch} rows cannot be shared evenly by {self.processes} processes",
                hint="choose a --batch that is a multiple of --processes",
            )

    def _from(self, name: str, least: int) -> None:
        value: float = getattr(self, name)
        if not least <= value < math.inf:
            raise BadSetting(f"{name.replace('_', '-')} must be at least {least}, not {value}")

    def to_json(self) -> dict[str, Any]:
        """Return them as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Settings":
        """Read what `to_json` returned.

        Raises:
            BadSetting: It is not that.
        """
        wanted: dict[str, Any] = {each.name: each.type for each in fields(cls)}
        if value.keys() != wanted.keys():
            raise BadSetting("the settings of the run are of another version of tvc")
        for name, kind in wanted.items():
            expected = (float, int) if kind is float else kind if isinstance(kind, type) else str
            if not isinstance(value[name], expected):
                raise BadSetting(f"{name} cannot be {value[name]!r}")
        return cls(**value)
