"""Rows become token ids, cut where a model that generates would begin and end to speak.

A context is tokenized with the start of the answer that the template gives, as it is for
generation; a decision is what follows in the text of the whole dialogue, up to and with the token
that ends the turn. So a trained model sees what it will see when it is used. What does not fit in
the window is an error, never cut. Absent: padding, and what is done with the ids.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, cast

from transformers import PreTrainedTokenizerBase

from tvc.dialogues.example import Example
from tvc.dialogues.problems import BadRows, Problem
from tvc.dialogues.rows import Message, Row, guided
from tvc.dialogues.sandbox import SandboxFailed
from tvc.dialogues.templating import Template
from tvc.domain.names import printable

__all__ = ["render_examples", "render_prompts"]

T = TypeVar("T")

_ENOUGH: Final = 1000  # problems after which nobody needs another


def render_examples(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    window: int,
    ends: Collection[int] = (),
    variables: Mapping[str, object] | None = None,
) -> list[Example]:
    """Return what is trained on for every row.

    Args:
        rows: Each with at least one decision; guidance that they hold stands in the context.
        tokenizer: The model's.
        window: Tokens that a context and one decision may have together.
        ends: Ids that end a turn besides the tokenizer's end-of-sequence: those of
            generation_config.json.
        variables: What the chat template is given besides.

    Raises:
        BadRows: A row cannot be rendered, or does not fit; the first of them are named.
        NoTemplate: There are dialogues, and the model has no chat template.
    """
    with Template(tokenizer, variables) as template:
        render = _Rendering(tokenizer, template, ends)
        return _for_all(rows, lambda row: _fitted(render.example(row), window))


def render_prompts(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    window: int,
    variables: Mapping[str, object] | None = None,
) -> list[tuple[int, ...]]:
    """Return the ids after which a model is to speak, for every row; its decisions do not matter.

    Args:
        rows: Guidance that they hold stands in the context.
        tokenizer: The model's.
        window: Tokens that a context may have.
        variables: What the chat template is given besides.

    Raises:
        BadRows: A row cannot be rendered, or does not fit; the first of them are named.
        NoTemplate: There are dialogues, and the model has no chat template.
    """
    with Template(tokenizer, variables) as template:
        render = _Rendering(tokenizer, template, ())
        return _for_all(rows, lambda row: _fitted_context(render.context(guided(row)), window))


class _Unfit(Exception):
    """Why a row cannot be rendered."""


def _for_all(rows: Sequence[Row], work: Callable[[Row], T]) -> list[T]:
    found: list[T] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            found.append(work(row))
        except (_Unfit, SandboxFailed) as error:
            problems.append(Problem(row.source, str(error)))
            if len(problems) == _ENOUGH:
                break
    if problems:
        raise BadRows(problems, total=len(rows))
    return found


class _Rendering:
    """Rows to ids, for one model."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template, ends: Collection[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        end = cast("int | None", tokenizer.eos_token_id)
        self._end = end
        self._ends = {*ends, *(() if end is None else (end,))}
        self._control = [str(token) for token in tokenizer.all_special_tokens if token]

    def example(self, row: Row) -> Example:
        row = guided(row)
        context = self.context(row)
        decisions = tuple(self._decision(row, context, each) for each in row.decisions)
        return Example(context, decisions, row.source)

    def context(self, row: Row) -> tuple[int, ...]:
        if isinstance(row.context, str):
            found = self._ids(row.context, special=True)
        else:
            self._check(row.context)
            found = self._ids(self._text(row, row.context, asks=True))
        if not found:
            raise _Unfit("its context has no tokens")
        return found

    def _decision(self, row: Row, context: tuple[int, ...], decision: Any) -> tuple[int, ...]:
        if isinstance(row.context, str):
            whole = self._ids(row.context + decision, special=True)
            return self._ended(self._after(context, whole, decision))
        assert isinstance(decision, Message)
        self._check([decision])
        before = self._text(row, row.context, asks=True)
        whole = self._text(row, (*row.context, decision), asks=False)
        if not whole.startswith(before):
            raise _Unfit(
                "the chat template's text of the dialogue does not begin with its text of the "
                f"context: {_parting(before, whole)}"
            )
        said = whole[len(before) :]
        found = self._cut(self._after(context, self._ids(whole), said))
        unended = said.rstrip().endswith(decision.content.rstrip())
        return self._ended(found) if unended and not self._ends.intersection(found) else found

    def _text(self, row: Row, messages: Sequence[Message], *, asks: bool) -> str:
        try:
            return self._template.render(messages, asks=asks, tools=row.tools)
        except SandboxFailed as error:
            raise _Unfit(f"the chat template failed: {error.message}") from None

    def _check(self, messages: Sequence[Message]) -> None:
        """Refuse text that would be taken for the template's own marks."""
        for message in messages:
            for token in self._control:
                if token in message.content:
                    raise _Unfit(
                        f"a message of the {message.role}'s holds the control token "
                        f"'{printable(token)}'"
                    )

    def _ids(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        found: Any = self._tokenizer(text, add_special_tokens=special, verbose=False)
        return tuple(found["input_ids"])

    def _after(
        self, context: tuple[int, ...], whole: tuple[int, ...], said: str
    ) -> tuple[int, ...]:
        """Return the ids of what is said after a context.

        Where a token would reach over the border, which generation cannot undo, what is said is
        tokenized by itself.
        """
        if whole[: len(context)] == context:
            found = whole[len(context) :]
        else:
            found = self._ids(said)
            if self._decoded(context + found) != self._decoded(whole):
                raise _Unfit("its decision cannot be tokenized apart from its context")
        if not found:
            raise _Unfit("its decision has no tokens")
        return found

    def _decoded(self, ids: tuple[int, ...]) -> str:
        return cast("str", self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _cut(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Leave out what stands after the end of the turn, such as the end of the line."""
        place = next((n for n in reversed(range(len(ids))) if ids[n] in self._ends), None)
        if place is None or self._decoded(ids[place + 1 :]).strip():
            return ids
        return ids[: place + 1]

    def _ended(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if self._end is None or ids[-1] in self._ends:
            return ids
        return (*ids, self._end)


def _parting(before: str, whole: str) -> str:
    place = next(
        (n for n, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
        min(len(before), len(whole)),
    )
    one, other = (printable("".join(islice(text, place, place + 30))) for text in (before, whole))
    return f"'{one}' against '{other}' at character {place}"


def _fitted(example: Example, window: int) -> Example:
    if example.length > window:
        raise _Unfit(
            f"it has {example.length} tokens ({len(example.context)} of context), and the window "
            f"{window}"
        )
    return example


def _fitted_context(context: tuple[int, ...], window: int) -> tuple[int, ...]:
    if len(context) > window:
        raise _Unfit(f"its context has {len(context)} tokens, and the window {window}")
    return context
