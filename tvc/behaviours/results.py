"""What was measured of one model, and how it is written down.

Verdicts are kept prompt by prompt, so that two models can be compared on the same prompts. Absent:
where results are kept (tvc/behaviours/keeping.py).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tvc.behaviours.intervals import Estimate, Rate
from tvc.domain.errors import IntegrityError
from tvc.models.strict_json import parse_object

__all__ = ["Answers", "BadResult", "Measured", "Shown", "format_measured", "parse_measured"]

_FORMAT: Final = 1
_MAX_PROMPTS: Final = 1_000_000
_MAX_ABOUT: Final = 500


class BadResult(IntegrityError):
    """A result that was kept cannot be read."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Verdicts on a model's answers.

    Args:
        verdicts: Whether each shows what was asked about, prompt by prompt; at least one.
        unended: How many were cut off at the limit of tokens.
    """

    verdicts: tuple[bool, ...]
    unended: int

    @property
    def rate(self) -> Rate:
        """How often they do."""
        return Rate(sum(self.verdicts), len(self.verdicts))


@dataclass(frozen=True, slots=True)
class Shown:
    """How often a model shows a behaviour.

    Args:
        alone: Without an instruction.
        guided: When it is asked to; None where the suite has no guidance.
        opposed: How often it does the opposite when it is asked to: its controllability.
    """

    alone: Answers
    guided: Answers | None = None
    opposed: Answers | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one model.

    Args:
        behaviours: By name.
        loss: Of general data, in nats for each token of a decision.
        general_kl: KL(model ‖ base) on general data, in nats for each token.
        answers_kl: The same on the model's own answers.
        about: How it was measured: device, versions, time.
    """

    behaviours: Mapping[str, Shown]
    loss: Estimate | None = None
    general_kl: Estimate | None = None
    answers_kl: Estimate | None = None
    about: Mapping[str, str] = field(default_factory=dict[str, str])


def format_measured(measured: Measured, *, recipe: str, suite: str) -> str:
    """Write a result as one line of JSON.

    Args:
        measured: The result.
        recipe: Id of the recipe that was measured.
        suite: Id of the suite.
    """
    body: dict[str, Any] = {
        "format": _FORMAT,
        "recipe": recipe,
        "suite": suite,
        "behaviours": {name: _shown_value(each) for name, each in measured.behaviours.items()},
        "about": dict(measured.about),
    }
    for key in ("loss", "general_kl", "answers_kl"):
        found: Estimate | None = getattr(measured, key)
        if found is not None:
            body[key] = [found.value, None if math.isnan(found.error) else found.error]
    return json.dumps(body, ensure_ascii=True)


def parse_measured(line: bytes, *, what: str) -> tuple[str, str, Measured]:
    """Read what `format_measured` wrote: ids of the recipe and the suite, and the result.

    Args:
        line: Bounded by the caller.
        what: Where it is from, for messages.

    Raises:
        BadResult: It is something else.
        BadJson: It is no JSON object.
    """
    body = parse_object(line, what=what)
    try:
        if body["format"] != _FORMAT:
            raise BadResult(f"{what} is of another version", hint="measure again with --rerun")
        measured = Measured(
            behaviours={name: _shown(value) for name, value in body["behaviours"].items()},
            loss=_estimate(body.get("loss")),
            general_kl=_estimate(body.get("general_kl")),
            answers_kl=_estimate(body.get("answers_kl")),
            about={
                str(key)[:_MAX_ABOUT]: str(value)[:_MAX_ABOUT]
                for key, value in body["about"].items()
            },
        )
        return str(body["recipe"]), str(body["suite"]), measured
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BadResult(f"{what} is no result", hint="measure again with --rerun") from None


def _shown_value(shown: Shown) -> dict[str, Any]:
    parts = {"alone": shown.alone, "guided": shown.guided, "opposed": shown.opposed}
    return {
        key: ["".join("01"[verdict] for verdict in each.verdicts), each.unended]
        for key, each in parts.items()
        if each is not None
    }


def _shown(value: Any) -> Shown:
    return Shown(
        _answers(value["alone"]),
        _answers(value["guided"]) if "guided" in value else None,
        _answers(value["opposed"]) if "opposed" in value else None,
    )


def _answers(value: Any) -> Answers:
    verdicts, unended = value
    if not isinstance(verdicts, str) or not verdicts or set(verdicts) - {"0", "1"}:
        raise ValueError("not verdicts")
    if type(unended) is not int or not 0 <= unended <= len(verdicts) <= _MAX_PROMPTS:
        raise ValueError("not a number of them")
    return Answers(tuple(each == "1" for each in verdicts), unended)


def _estimate(value: object) -> Estimate | None:
    if value is None:
        return None
    number, error = cast("list[Any]", value)
    found = Estimate(float(number), math.nan if error is None else float(error))
    if not math.isfinite(found.value) or isinstance(number, str) or isinstance(error, str):
        raise ValueError("not a number")
    return found
