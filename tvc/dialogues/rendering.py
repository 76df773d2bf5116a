"""Rows become token ids, cut where a model that generates would begin and end to speak.

A context is tokenized with the start of the answer that the template gives, as it is for
generation; a decision is what follows in the text of the whole dialogue, up to and with the token
that ends the turn. So a trained model sees what it will see when it is used. What does not fit in
the window is an error, never cut. Absent: padding, and what is done with the ids.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from transformers import PreTrainedTokenizerBase

from tvc.dialogues.example import Example
from tvc.dialogues.problems import BadRows, Problem
from tvc.dialogues.rows import Message, Row, guided
from tvc.dialogues.sandbox import SandboxFailed, TookTooLong
from tvc.dialogues.templating import Template
from tvc.domain.names import printable

__all__ = ["Renderer", "render_examples", "render_prompts"]

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
    with Renderer(tokenizer, ends=ends, variables=variables) as renderer:
        return renderer.examples(rows, window=window)


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
    with Renderer(tokenizer, variables=variables) as renderer:
        return renderer.prompts(rows, window=window)


class _Unfit(Exception):
    """Why a row cannot be rendered.

    Args:
        words: What is wrong with it.
        last: Whether other rows need not be tried.
    """

    def __init__(self, words: str, *, last: bool = False) -> None:
        super().__init__(words)
        self.last = last


def _for_all(rows: Sequence[Row], work: Callable[[Row], T]) -> list[T]:
    found: list[T] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            found.append(work(row))
        except _Unfit as error:
            problems.append(Problem(row.source, str(error)))
            if error.last or len(problems) == _ENOUGH:
                break
    if problems:
        raise BadRows(problems, total=len(rows))
    return found


class Renderer:
    """Renders rows for one model; use it in a `with`, which ends the process of its template.

    Args:
        tokenizer: The model's.
        ends: Ids that end a turn besides the tokenizer's end-of-sequence.
        variables: What the chat template is given besides.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ends: Collection[int] = (),
        variables: Mapping[str, object] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = Template(tokenizer, variables)
        end = cast("int | None", tokenizer.eos_token_id)
        self._end = end
        self._ends = {*ends, *(() if end is None else (end,))}
        # Some tokenizers name the end of a line, or nothing, where others have a mark.
        self._control = [token for token in map(str, tokenizer.all_special_tokens) if token.strip()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._template.__exit__(kind, error, traceback)

    def examples(self, rows: Sequence[Row], *, window: int) -> list[Example]:
        """Do what `render_examples` says."""
        return _for_all(rows, lambda row: _fitted(self._example(guided(row)), window))

    def prompts(self, rows: Sequence[Row], *, window: int) -> list[tuple[int, ...]]:
        """Do what `render_prompts` says."""
        return _for_all(rows, lambda row: _fitted_context(self._context(guided(row))[1], window))

    def _example(self, row: Row) -> Example:
        before, context = self._context(row)
        decisions = tuple(self._decision(row, before, context, each) for each in row.decisions)
        return Example(context, decisions, row.source)

    def _context(self, row: Row) -> tuple[str, tuple[int, ...]]:
        """Return a context's text and ids."""
        if isinstance(row.context, str):
            text, found = row.context, self._ids(row.context, special=True)
        else:
            self._check(row.context)
            text = self._text(row, row.context, asks=True)
            found = self._ids(text)
        if not found:
            raise _Unfit("its context has no tokens")
        return text, found

    def _decision(
        self, row: Row, before: str, context: tuple[int, ...], decision: Message | str
    ) -> tuple[int, ...]:
        if isinstance(row.context, str):
            assert isinstance(decision, str)
            whole = self._ids(row.context + decision, special=True)
            return self._ended(self._after(context, whole, decision))
        assert isinstance(decision, Message)
        self._check([decision])
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
            slow = isinstance(error, TookTooLong)
            raise _Unfit(f"the chat template failed: {error.message}", last=slow) from None

    def _check(self, messages: Sequence[Message]) -> None:
        """Refuse text that would be taken for the template's own marks."""
        for message in messages:
            said = f"{message.content}\n{json.dumps(message.rest, ensure_ascii=False)}"
            for token in self._control:
                if token in said:
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
