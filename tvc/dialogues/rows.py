"""Reads files of dialogues: one JSON object a line, every line right or named with what is wrong.

Three formats, told apart by their keys:

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…" or messages, "completion": "…" or [one assistant message]}
    {"context": "…" or messages, "decision": "…" or ["…", …]}

Of `messages` the last one, the assistant's, is trained on; where messages carry "train": true,
those are, each with what stands before it. A string as prompt or context is plain text, for which
no chat template is used. Besides: "tools" (a list of schemas for the template) and "guidance", an
instruction that training may strip; so may be messages with "strip": true or the role "guidance".

Absent: tokens and templates (tvc/dialogues/rendering.py).
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from tvc.dialogues.problems import BadRows, Problem
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc.models.strict_json import BadJson, parse_object

__all__ = ["DataFile", "Message", "Row", "guided", "read_rows", "row_from", "stripped"]

_ENOUGH: Final = 1000  # problems after which nobody needs another
_MAX_LINE: Final = 16 << 20
_MAX_MESSAGES: Final = 10_000
_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "guidance")
_REST: Final = ("name", "reasoning_content", "tool_call_id", "tool_calls")
_MESSAGE_KEYS: Final = {"role", "content", "strip", "train", *_REST}
_BESIDES: Final = {"guidance", "tools"}
_PAIRS: Final = {"prompt": "completion", "context": "decision"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue.

    Args:
        role: system, developer, user, assistant or tool.
        content: What is said.
        strip: Whether it is an instruction that training may strip.
        rest: What the template may use besides: tool_calls, tool_call_id, name, reasoning_content.
    """

    role: str
    content: str
    strip: bool = False
    rest: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @property
    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it."""
        return {"role": self.role, "content": self.content, **self.rest}


@dataclass(frozen=True, slots=True)
class Row:
    """A context and the decisions that may follow it, as text.

    Args:
        context: Messages, or plain text; not empty.
        decisions: Alternatives: an assistant's messages, or plain text after plain text; none where
            the response is still to be generated.
        source: `FILE:LINE`, for messages.
        guidance: An instruction that is not one of the messages; empty for none.
        tools: Schemas that the template is given.
    """

    context: tuple[Message, ...] | str
    decisions: tuple[Message, ...] | tuple[str, ...]
    source: str
    guidance: str = ""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def is_instructed(self) -> bool:
        """Whether it holds an instruction that could be stripped."""
        marked = not isinstance(self.context, str) and any(each.strip for each in self.context)
        return bool(self.guidance) or marked


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was read.

    Args:
        path: As it was given.
        sha256: Of its bytes, hexadecimal.
        rows: In the order of its lines; a line with several trained messages is several rows.
    """

    path: Path
    sha256: str
    rows: tuple[Row, ...]


def read_rows(path: Path, *, responses: bool = True) -> DataFile:
    """Read a file of dialogues, one JSON object a line.

    Args:
        path: The file.
        responses: Whether every row must have a decision; False where those that have none get
            theirs from a model.

    Raises:
        BadRows: A line is wrong; the first of them are named.
        InputError: The file cannot be read, or is empty.
    """
    digest, rows, problems = hashlib.sha256(), list[Row](), list[Problem]()
    name, number = printable(str(path)), 0
    try:
        with path.open("rb") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{name} is a device, and may have no end")
            for number, line in enumerate(_lines(file, digest), 1):
                source = f"{name}:{number}"
                try:
                    rows += _parsed(line, source, responses=responses)
                except (BadJson, _Wrong) as error:
                    problems.append(Problem(source, str(error)))
                    if len(problems) == _ENOUGH:
                        break
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or 'cannot be read'}") from None
    if problems:
        raise BadRows(problems, total=number)
    if not rows:
        raise InputError(f"{name} is empty", hint="one JSON object a line is needed")
    return DataFile(path, digest.hexdigest(), tuple(rows))


def guided(row: Row) -> Row:
    """Return a row whose guidance stands in its context, as an instruction to follow.

    In a dialogue it ends the system message that opens it, or is one; before plain text it is a
    paragraph.
    """
    if not row.guidance:
        return row
    if isinstance(row.context, str):
        return replace(row, context=f"{row.guidance}\n\n{row.context}", guidance="")
    first, others = row.context[0], row.context[1:]
    if first.role == "system":
        joined = replace(first, content=f"{first.content}\n\n{row.guidance}")
        return replace(row, context=(joined, *others), guidance="")
    return replace(row, context=(Message("system", row.guidance), *row.context), guidance="")


def stripped(row: Row) -> Row:
    """Return a row without the instructions that it marks.

    Raises:
        BadRows: Nothing would be left of its context.
    """
    if isinstance(row.context, str):
        return replace(row, guidance="")
    kept = tuple(each for each in row.context if not each.strip)
    if not kept:
        raise BadRows([Problem(row.source, "nothing is left when its instructions are stripped")])
    return replace(row, context=kept, guidance="")


def row_from(value: Mapping[str, Any], source: str, *, responses: bool = True) -> list[Row]:
    """Return the rows of one object, as `read_rows` does for one line.

    Raises:
        BadRows: It is not a row.
    """
    try:
        return _rows(value, source, responses=responses)
    except _Wrong as error:
        raise BadRows([Problem(source, str(error))]) from None


class _Wrong(Exception):
    """What is wrong with one line."""


def _lines(file: BinaryIO, digest: Any) -> Iterator[bytes | None]:
    """Yield lines without their ends, None for one that is too long; every byte is hashed."""
    while line := file.readline(_MAX_LINE + 1):
        digest.update(line)
        if len(line) <= _MAX_LINE:
            yield line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE)
            digest.update(line)
        yield None


def _parsed(line: bytes | None, source: str, *, responses: bool) -> list[Row]:
    if line is None:
        raise _Wrong(f"the line is longer than {_MAX_LINE >> 20} MiB")
    if not line.strip():
        raise _Wrong("the line is empty")
    return _rows(parse_object(line, what="the line"), source, responses=responses)


def _rows(value: Mapping[str, Any], source: str, *, responses: bool) -> list[Row]:
    guidance, tools = _guidance(value), _tools(value)
    if "messages" in value:
        _only(value, {"messages", *_BESIDES})
        found = _from_messages(_list(value["messages"], "messages"), source, responses=responses)
    else:
        found = [_from_pair(value, source, responses=responses)]
    return [
        replace(row, guidance="\n\n".join(filter(None, [guidance, row.guidance])), tools=tools)
        for row in found
    ]


def _only(value: Mapping[str, Any], keys: set[str]) -> None:
    unknown = sorted(value.keys() - keys)
    if unknown:
        raise _Wrong(
            f"has the key '{printable(unknown[0])}', which is none of {', '.join(sorted(keys))}"
        )


def _guidance(value: Mapping[str, Any]) -> str:
    return _text(value["guidance"], "guidance") if "guidance" in value else ""


def _tools(value: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    found = _list(value["tools"], "tools") if "tools" in value else []
    if not all(isinstance(each, dict) for each in found):
        raise _Wrong("tools is not a list of objects")
    return tuple(cast("list[dict[str, Any]]", found))


def _from_messages(values: list[Any], source: str, *, responses: bool) -> list[Row]:
    messages, marks, guidance = _messages(values, "messages")
    marked = [place for place, mark in enumerate(marks) if mark]
    if not marked and (True in marks or False in marks):
        raise _Wrong('no message is trained on: one needs "train": true')
    if not marked and messages[-1].role != "assistant":
        if responses:
            raise _Wrong(_unanswered(messages))
        return [Row(messages, (), source, guidance)]
    for place in marked or [len(messages) - 1]:
        if messages[place].role != "assistant":
            raise _Wrong(f"message {place + 1} is the {messages[place].role}'s: none to train on")
        if place == 0:
            raise _Wrong("message 1 is the assistant's: nothing stands before what is trained on")
        if messages[place].strip:
            raise _Wrong(f"message {place + 1} is to be trained on and to be stripped")
    return [
        Row(messages[:place], (messages[place],), source, guidance)
        for place in marked or [len(messages) - 1]
    ]


def _unanswered(messages: Sequence[Message]) -> str:
    if not any(each.role == "assistant" for each in messages):
        return "no message is the assistant's: there is nothing to train on"
    return f"ends with a message of the {messages[-1].role}'s, and none is marked to be trained on"


def _from_pair(value: Mapping[str, Any], source: str, *, responses: bool) -> Row:
    asked = next((key for key in _PAIRS if key in value), None)
    if asked is None:
        raise _Wrong("has neither messages, nor prompt and completion, nor context and decision")
    answer = _PAIRS[asked]
    _only(value, {asked, answer, *_BESIDES})
    if answer not in value and responses:
        raise _Wrong(f"has {asked} and no {answer}")
    if isinstance(value[asked], str):
        texts = _decided_texts(value, answer)
        return Row(_text(value[asked], asked), texts, source)
    messages, marks, guidance = _messages(_list(value[asked], asked), asked)
    if True in marks:
        raise _Wrong(f"a message of {asked} is marked to be trained on: {answer} is")
    if isinstance(value.get(answer), list) and answer == "completion":
        decided, _, _ = _messages(value[answer], answer)
        if len(decided) != 1 or decided[0].role != "assistant" or decided[0].strip:
            raise _Wrong("completion is not one message of the assistant's")
        return Row(messages, decided, source, guidance)
    texts = _decided_texts(value, answer)
    return Row(messages, tuple(Message("assistant", text) for text in texts), source, guidance)


def _decided_texts(value: Mapping[str, Any], answer: str) -> tuple[str, ...]:
    if answer not in value:
        return ()
    found = value[answer]
    if answer == "decision" and isinstance(found, list):
        several = _list(cast("list[Any]", found), answer)
        return tuple(_text(each, f"decision {n}") for n, each in enumerate(several, 1))
    return (_text(found, answer),)


def _messages(values: list[Any], what: str) -> tuple[tuple[Message, ...], list[bool | None], str]:
    """Return messages, each one's mark to be trained on, and the guidance that stood among them."""
    messages, marks, guidance = list[Message](), list[bool | None](), list[str]()
    for number, value in enumerate(_list(values, what), 1):
        where = f"message {number} of {what}"
        if not isinstance(value, dict):
            raise _Wrong(f"{where} is not an object")
        found = cast("dict[str, Any]", value)
        message = _message(found, where)
        if message.role == "guidance":
            guidance.append(message.content)
        else:
            messages.append(message)
            marks.append(_flag(found, "train", where))
    if not messages:
        raise _Wrong(f"{what} holds guidance and nothing else")
    return tuple(messages), marks, "\n\n".join(guidance)


def _message(value: dict[str, Any], where: str) -> Message:
    unknown = sorted(value.keys() - _MESSAGE_KEYS)
    if unknown:
        raise _Wrong(f"{where} has the unknown key '{printable(unknown[0])}'")
    role = value.get("role")
    if role not in _ROLES:
        shown = printable(json.dumps(role), limit=40) if "role" in value else "missing"
        raise _Wrong(f"{where}: its role is {shown}, which is none of {', '.join(_ROLES)}")
    rest = {key: value[key] for key in _REST if value.get(key) is not None}
    _check_text(json.dumps(rest, ensure_ascii=False), where)
    content = value.get("content")
    if "tool_calls" in rest or role == "tool":  # either may say nothing besides
        content = "" if content is None else content
        if not isinstance(content, str):
            raise _Wrong(f"the content of {where} is not a string")
        _check_text(content, where)
    else:
        content = _text(content, f"the content of {where}")
    return Message(role, content, _flag(value, "strip", where) or False, rest)


def _flag(value: Mapping[str, Any], key: str, where: str) -> bool | None:
    found = value.get(key)
    if found is not None and not isinstance(found, bool):
        raise _Wrong(f"{key} of {where} is neither true nor false")
    return found


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Wrong(f"{what} is not a list")
    found = cast("list[Any]", value)
    if not found:
        raise _Wrong(f"{what} is an empty list")
    if len(found) > _MAX_MESSAGES:
        raise _Wrong(f"{what} has {len(found)} entries; {_MAX_MESSAGES} are allowed")
    return found


def _text(value: object, what: str) -> str:
    if value is None:
        raise _Wrong(f"{what} is missing")
    if not isinstance(value, str):
        raise _Wrong(f"{what} is not a string")
    if not value.strip():
        raise _Wrong(f"{what} is empty")
    _check_text(value, what)
    return value


def _check_text(value: str, what: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Wrong(f"{what} holds half a character (a lone surrogate)") from None
