"""Suites: which behaviours are measured, on which prompts, and how they are told.

    format = 1
    tokens = 64                      # that an answer may have
    window = 2048                    # of prompt and answer together
    temperature = 0.0                # 0: the likeliest words; else drawn, from `seed`

    [general]                        # what should stay as it is
    data = "general.jsonl"

    [[behaviours]]
    name = "listens"
    prompts = "prompts.jsonl"        # or a list of what users say
    verifier = "regex:(?i)^sure"     # or "FILE.py:FUNCTION", or "judge:QUESTION"
    guidance = "Accept what is proposed."
    opposite = { guidance = "Suggest something else.", verifier = "regex:(?i)instead" }

Files are relative to the suite. Absent: addresses and keys of servers, which are the user's to
give and not a file's.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from tvc.dialogues.generation import Sampling
from tvc.dialogues.rows import Message, Row, read_rows
from tvc.dialogues.stripping import row_value
from tvc.dialogues.verifiers import Verifier, parse_verifier
from tvc.domain.errors import InputError
from tvc.domain.names import check_name, printable

__all__ = ["BadSuite", "Behaviour", "Opposite", "Suite", "read_suite"]

_FORMAT: Final = 1
_MAX_SUITE: Final = 4 << 20
_MAX_BEHAVIOURS: Final = 200
_NUMBERS: Final = {"tokens", "window", "temperature", "top_p", "seed"}
_KEYS: Final = {"format", "template", "general", "behaviours", *_NUMBERS}
_OF_A_BEHAVIOUR: Final = {"name", "prompts", "plain", "verifier", "guidance", "opposite"}


class BadSuite(InputError):
    """A suite cannot be read."""


@dataclass(frozen=True, slots=True)
class Opposite:
    """An instruction to do the contrary, and how to tell whether it is followed."""

    guidance: str
    verifier: Verifier


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Something that a model may or may not do.

    Args:
        name: What it is called.
        prompts: What is answered; decisions that rows have do not matter.
        verifier: Tells whether an answer shows it.
        guidance: An instruction that asks for it; empty for none.
        opposite: An instruction that asks for the contrary.
    """

    name: str
    prompts: tuple[Row, ...]
    verifier: Verifier
    guidance: str = ""
    opposite: Opposite | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """What is measured.

    Args:
        behaviours: At least one; each name once.
        sampling: How answers are chosen.
        window: Tokens that a prompt and its answer may have together.
        variables: What the chat template is given besides.
        general: Rows whose loss says whether a model became worse; none where that is not asked.
    """

    behaviours: tuple[Behaviour, ...]
    sampling: Sampling
    window: int
    variables: Mapping[str, object]
    general: tuple[Row, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The behaviours' names."""
        return tuple(each.name for each in self.behaviours)

    def only(self, name: str) -> "Suite":
        """Return the suite of one of the behaviours, without instructions and general data."""
        chosen = tuple(
            replace(each, guidance="", opposite=None)
            for each in self.behaviours
            if each.name == name
        )
        return replace(self, behaviours=chosen, general=())

    def id(self, *, judge: str = "") -> str:
        """Return what the suite is, as a hash: equal ones measure the same, wherever they lie.

        Args:
            judge: Name of the model that judges, where one does.
        """
        judged = any(
            verifier.kind == "judge"
            for each in self.behaviours
            for verifier in (each.verifier, *((each.opposite.verifier,) if each.opposite else ()))
        )
        drawn = self.sampling
        value = {
            "behaviours": [_canonical(each) for each in self.behaviours],
            "sampling": [drawn.tokens, repr(drawn.temperature), repr(drawn.top_p), drawn.seed],
            "window": self.window,
            "variables": dict(self.variables),
            "general": [row_value(row) for row in self.general],
            "judge": judge if judged else "",
        }
        text = json.dumps(value, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(b"tvc suite 1\0" + text.encode()).hexdigest()


def _canonical(behaviour: Behaviour) -> dict[str, Any]:
    opposite = behaviour.opposite
    return {
        "name": behaviour.name,
        "prompts": [row_value(row) for row in behaviour.prompts],
        "verifier": behaviour.verifier.id,
        "guidance": behaviour.guidance,
        "opposite": [opposite.guidance, opposite.verifier.id] if opposite else None,
    }


def read_suite(path: Path) -> Suite:
    """Read a suite and the files that it names.

    Raises:
        BadSuite: It cannot be read, or something in it is wrong.
        BadRows: A line of a file that it names is wrong.
        InputError: Such a file cannot be read; a verifier is none.
    """
    name = printable(str(path))
    body = _toml(path, name)
    try:
        return _suite(body, path.parent)
    except _Wrong as error:
        raise BadSuite(f"{name}: {error}") from None


class _Wrong(Exception):
    """What is wrong with a suite."""


def _toml(path: Path, name: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SUITE + 1)
        if len(data) > _MAX_SUITE:
            raise BadSuite(f"{name} is larger than {_MAX_SUITE >> 20} MiB")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise BadSuite(f"{name}: {error.strerror or 'cannot be read'}") from None
    except (ValueError, RecursionError) as error:
        words = printable(str(error)) or "nested too deep"
        raise BadSuite(f"{name} is not TOML: {words}") from None


def _suite(body: dict[str, Any], folder: Path) -> Suite:
    if body.get("format") != _FORMAT:
        raise _Wrong(f"format is {printable(str(body.get('format')))}, expected {_FORMAT}")
    _only(body, _KEYS, "the suite")
    tables = body.get("behaviours")
    if not isinstance(tables, list) or not tables:
        raise _Wrong("there are no [[behaviours]]")
    several = cast("list[Any]", tables)
    if len(several) > _MAX_BEHAVIOURS:
        raise _Wrong(f"it has {len(several)} behaviours; {_MAX_BEHAVIOURS} are allowed")
    files: dict[str, tuple[Row, ...]] = {}
    behaviours = tuple(_behaviour(each, n, folder, files) for n, each in enumerate(several, 1))
    names = [each.name for each in behaviours]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _Wrong(f"there are two behaviours '{twice}'")
    sampling = Sampling(
        tokens=_whole(body, "tokens", 128),
        temperature=_number(body, "temperature", 0.0),
        top_p=_number(body, "top_p", 1.0),
        seed=_whole(body, "seed", 0),
    )
    window = _whole(body, "window", 4096)
    if window <= sampling.tokens:
        raise _Wrong(f"the window of {window} tokens has no room for answers of {sampling.tokens}")
    variables = _table(body, "template")
    if not all(isinstance(each, str | bool | int | float) for each in variables.values()):
        raise _Wrong("template holds more than texts, numbers, true and false")
    return Suite(behaviours, sampling, window, variables, _general(body, folder))


def _general(body: dict[str, Any], folder: Path) -> tuple[Row, ...]:
    table = _table(body, "general")
    if not table:
        return ()
    _only(table, {"data"}, "general")
    return read_rows(folder / _string(table, "data", "general")).rows


def _behaviour(
    value: object, number: int, folder: Path, files: dict[str, tuple[Row, ...]]
) -> Behaviour:
    where = f"behaviour {number}"
    if not isinstance(value, dict):
        raise _Wrong(f"{where} is not a table")
    table = cast("dict[str, Any]", value)
    _only(table, _OF_A_BEHAVIOUR, where)
    name = check_name(_string(table, "name", where), what="behaviour")
    opposite = _table(table, "opposite")
    if opposite:
        _only(opposite, {"guidance", "verifier"}, f"opposite of {name}")
    return Behaviour(
        name=name,
        prompts=_prompts(table, name, folder, files),
        verifier=parse_verifier(_string(table, "verifier", name), folder=folder),
        guidance=_string(table, "guidance", name) if "guidance" in table else "",
        opposite=Opposite(
            _string(opposite, "guidance", f"opposite of {name}"),
            parse_verifier(_string(opposite, "verifier", f"opposite of {name}"), folder=folder),
        )
        if opposite
        else None,
    )


def _prompts(
    table: dict[str, Any], name: str, folder: Path, files: dict[str, tuple[Row, ...]]
) -> tuple[Row, ...]:
    value, plain = table.get("prompts"), table.get("plain", False)
    if not isinstance(plain, bool):
        raise _Wrong(f"plain of {name} is neither true nor false")
    if isinstance(value, str) and not plain:
        if value not in files:
            files[value] = read_rows(folder / value, responses=False).rows
        return files[value]
    several = cast("list[Any]", value) if isinstance(value, list) else []
    if not several or not all(isinstance(each, str) and each.strip() for each in several):
        raise _Wrong(f"prompts of {name} is neither a file nor a list of texts")
    return tuple(
        Row(each if plain else (Message("user", each),), (), f"{name}:{n}")
        for n, each in enumerate(cast("list[str]", several), 1)
    )


def _only(table: Mapping[str, Any], keys: set[str], where: str) -> None:
    unknown = sorted(table.keys() - keys)
    if unknown:
        raise _Wrong(f"{where} has the unknown key '{printable(unknown[0])}'")


def _table(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    value: object = body.get(key, {})
    if not isinstance(value, dict):
        raise _Wrong(f"{key} is not a table")
    return cast("dict[str, Any]", value)


def _string(table: Mapping[str, Any], key: str, where: str) -> str:
    value: object = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"{key} of {where} is {'not a text' if key in table else 'missing'}")
    return value


def _whole(body: Mapping[str, Any], key: str, default: int) -> int:
    value: object = body.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise _Wrong(f"{key} is not a whole number")
    return value


def _number(body: Mapping[str, Any], key: str, default: float) -> float:
    value: object = body.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Wrong(f"{key} is not a number")
    return float(value)
