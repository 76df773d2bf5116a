"""Reads YAML from outside as plain values: no aliases, no tags, no key twice, everything bounded.

Numbers are read exactly, as recipes hold them; what two readers of YAML would take for different
numbers (octal, sexagesimal, underscores) is refused.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, cast

import yaml

from tvc.domain.errors import InputError
from tvc.domain.grammar import parse_number
from tvc.domain.names import printable

__all__ = ["MAX_YAML", "BadYaml", "Value", "read_number", "read_yaml"]

Value = None | bool | Fraction | str | list["Value"] | dict[str, "Value"]

MAX_YAML: Final = 1 << 20
_MAX_DEPTH: Final = 20
_MAX_EVENTS: Final = 50_000
_NUMBER: Final = re.compile(r"([-+]?)((?:0|[1-9]\d*)?)(\.\d*)?([eE][-+]?\d+)?")
_PREFIX: Final = "tag:yaml.org,2002:"
_BOOLS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class BadYaml(InputError):
    """A YAML file is not one that tvc reads."""


def read_yaml(text: str, *, what: str) -> dict[str, Value]:
    """Read a YAML file that is a mapping.

    Args:
        text: The file.
        what: What it is called in errors.

    Raises:
        BadYaml: It is malformed, too large or too deep, has aliases, tags, several documents or a
            key twice, or is no mapping.
    """
    if len(text) > MAX_YAML:
        raise BadYaml(f"{what} is larger than {MAX_YAML >> 20} MiB")
    try:
        _check_events(text, what)
        root = cast("object", yaml.compose(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise BadYaml(f"{what} is not YAML: {_words(error)}") from None
    if not isinstance(root, yaml.MappingNode):
        raise BadYaml(f"{what} is not a mapping of keys to values")
    return cast("dict[str, Value]", _value(root, what))


def read_number(text: str) -> Fraction | None:
    """Return the number that a text is, exactly, or None where it is none or in doubt."""
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or (match[3] or ".") != "."):
        return None
    places = (match[3] or "").removeprefix(".")
    sign = match[1].removeprefix("+")
    decimal = f"{match[2] or '0'}{'.' + places if places else ''}"
    try:
        return parse_number(f"{sign}{decimal}{match[4] or ''}")
    except InputError:
        return None


def _check_events(text: str, what: str) -> None:
    """Bound what the composer, which is recursive, will be given."""
    depth = 0
    events = cast("Iterator[yaml.Event]", yaml.parse(text, Loader=yaml.SafeLoader))
    for count, event in enumerate(events):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH or count > _MAX_EVENTS:
            raise BadYaml(f"{what} is nested too deep, or has too many values")
        line = cast("int", event.start_mark.line) + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise BadYaml(
                f"{what}, line {line}: anchors and aliases (& and *) are not read",
                hint="write the value out where it is used",
            )
        if getattr(event, "tag", None):
            raise BadYaml(f"{what}, line {line}: tags (!) are not read")


def _words(error: yaml.YAMLError) -> str:
    return printable(" ".join(str(error).split()), limit=200)


def _value(node: yaml.Node, what: str) -> Value:
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, what) for each in cast("list[yaml.Node]", node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, what)
    text, kind = str(node.value), str(node.tag).removeprefix(_PREFIX)
    if kind in ("int", "float"):
        number = read_number(text)
        if number is None:
            raise _refused(node, what, f"{printable(text)!r} is not a plain number")
        return number
    if kind == "bool":
        return _BOOLS[text.lower()]
    if kind == "null":
        return None
    if kind != "str":
        raise _refused(node, what, f"{printable(text)!r} is read as a {kind}: put it in quotes")
    return text


def _mapping(node: yaml.MappingNode, what: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
        name = _value(key, what)
        if not isinstance(name, str):
            raise _refused(key, what, "a key must be a text")
        if name in found:
            raise _refused(key, what, f"{printable(name)!r} is there twice")
        found[name] = _value(value, what)
    return found


def _refused(node: yaml.Node, what: str, problem: str) -> BadYaml:
    line = cast("int", node.start_mark.line) + 1
    return BadYaml(f"{what}, line {line}: {problem}")
