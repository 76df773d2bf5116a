"""Options of merge methods: declared beside the parameter they describe, checked in one place.

A method writes `density: Annotated[float, Number("share kept", minimum=0, maximum=1)] = 0.2`; the
decorator of `tvc.merging.method` makes an `Option` of it. Options are plain Python values, since
they are stored in recipes. Whether one was written in a recipe, a flag or a YAML file is not known
here.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast, get_args, get_type_hints

from tvc.domain.errors import InputError

__all__ = [
    "Choice",
    "Flag",
    "Number",
    "Option",
    "OptionError",
    "OptionValue",
    "UnknownOption",
    "Whole",
    "nearest",
    "options_of",
]

OptionValue = bool | int | float | str | tuple[float, ...]
"""What an option can be; a tuple has one number for each member."""


class OptionError(InputError):
    """An option of a merge method has a value that it cannot have."""


class UnknownOption(OptionError):
    """A merge method has no option of this name."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a merge method; valid once built.

    Args:
        name: The keyword.
        type: `float`, `int`, `bool` or `str`.
        default: The value where none is given.
        help: One phrase, without a final full stop.
        minimum: Least number allowed, or None.
        maximum: Largest number allowed, or None.
        choices: The words allowed for a `str`.
        per_member: Whether a sequence of numbers, one for each member, is allowed too.
    """

    name: str
    type: type[bool] | type[int] | type[float] | type[str]
    default: OptionValue
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    per_member: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is bool:
            return "true or false"
        kind = "a whole number" if self.type is int else "a number"
        low = "" if self.minimum is None else f" from {self.minimum:g}"
        high = "" if self.maximum is None else f" up to {self.maximum:g}"
        return kind + low + high + (", or one for each member" if self.per_member else "")

    def check(self, value: object) -> OptionValue:
        """Return the value as the method takes it.

        Args:
            value: A bool, number (fractions too), word, or for `per_member` a list of numbers.

        Raises:
            OptionError: It is of the wrong kind, or outside of the range.
        """
        if self.per_member and isinstance(value, list | tuple):
            return tuple(self._number(each) for each in cast("Sequence[object]", value))
        if self.type is bool and isinstance(value, bool):
            return value
        if self.type is str and isinstance(value, str) and value in self.choices:
            return value
        if self.type in {int, float}:
            return self._number(value)
        raise self._refusal(value)

    def _number(self, value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
            raise self._refusal(value)
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if abs(value) == math.inf or not low <= value <= high:  # NaN is in no range
            raise self._refusal(value)
        try:
            number = int(value) if self.type is int else float(value)
        except OverflowError:
            raise self._refusal(value) from None
        if self.type is int and number != value:
            raise self._refusal(value)
        return number

    def _refusal(self, value: object) -> OptionError:
        shown = str(value) if isinstance(value, Fraction) else repr(value)
        return OptionError(f"{self.name} cannot be {shown}", hint=f"it is {self.allowed}")


@dataclass(frozen=True, slots=True)
class Number:
    """Marks a parameter as a real number; the range includes its ends."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    per_member: bool = False

    def option(self, name: str, default: OptionValue) -> Option:
        """Name the option that this parameter is."""
        return Option(
            name, float, default, self.help, self.minimum, self.maximum, (), self.per_member
        )


@dataclass(frozen=True, slots=True)
class Whole:
    """Marks a parameter as a whole number; the range includes its ends."""

    help: str
    minimum: int | None = None
    maximum: int | None = None

    def option(self, name: str, default: OptionValue) -> Option:
        """Name the option that this parameter is."""
        return Option(name, int, default, self.help, self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class Flag:
    """Marks a parameter as yes or no."""

    help: str

    def option(self, name: str, default: OptionValue) -> Option:
        """Name the option that this parameter is."""
        return Option(name, bool, default, self.help)


@dataclass(frozen=True, slots=True)
class Choice:
    """Marks a parameter as one word of a few."""

    help: str
    choices: tuple[str, ...]

    def option(self, name: str, default: OptionValue) -> Option:
        """Name the option that this parameter is."""
        return Option(name, str, default, self.help, choices=self.choices)


def options_of(function: Callable[..., Any], *, skip: Iterable[str] = ()) -> Mapping[str, Option]:
    """Read the options of a merge method from its signature.

    Args:
        function: Its keyword-only parameters, those of `skip` apart, carry a `Number`, `Whole`,
            `Flag` or `Choice`, and a default.
        skip: Names of keyword-only parameters that are no options.

    Raises:
        TypeError: A parameter has no description, no default, or a default it does not allow:
            a mistake in the method, not in what a user gave.
    """
    skipped = frozenset(skip)
    hints = get_type_hints(function, include_extras=True)
    options: dict[str, Option] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name in skipped:
            continue
        marks = [
            mark
            for mark in get_args(hints.get(name))
            if isinstance(mark, Number | Whole | Flag | Choice)
        ]
        if len(marks) != 1 or parameter.default is inspect.Parameter.empty:
            raise TypeError(f"parameter {name} of {function.__name__} is not described")
        option = marks[0].option(name, parameter.default)
        try:
            options[name] = replace(option, default=option.check(parameter.default))
        except OptionError as error:
            raise TypeError(f"default of {name} of {function.__name__}: {error}") from error
    return options


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one, or None where none is near."""
    matches = difflib.get_close_matches(name, sorted(known), n=1)
    return matches[0] if matches else None
