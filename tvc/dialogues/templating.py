"""Text of dialogues, by the model's own chat template, rendered in a process that can be ended.

Absent: tokens, and what of the text is trained on (tvc/dialogues/rendering.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from transformers import PreTrainedTokenizerBase

from tvc.dialogues.rows import Message
from tvc.dialogues.sandbox import Limits, Sandbox
from tvc.domain.errors import InputError

__all__ = ["NoTemplate", "Template"]

_PROGRAM: Final = Path(__file__).with_name("template_process.py")
_LIMITS: Final = Limits(seconds=10.0, memory=2 << 30, answer=64 << 20)


class NoTemplate(InputError):
    """A model has no chat template, or none that can be used."""


class Template:
    """A model's chat template; use it in a `with`, which ends the process that renders.

    Args:
        tokenizer: Whose template it is; it need not have one until something is rendered.
        variables: What the template is given besides, such as `enable_thinking`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, object] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._variables: dict[str, Any] = {**tokenizer.special_tokens_map, **(variables or {})}
        self._processes: dict[bool, Sandbox] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.__exit__(kind, error, traceback)

    def render(
        self,
        messages: Sequence[Message],
        *,
        asks: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Return the text of messages, with the start of the model's answer where `asks`.

        Raises:
            NoTemplate: The model has none.
            SandboxFailed: The template fails on these messages, or does not come to an end.
        """
        question = {
            "messages": [each.for_template for each in messages],
            "tools": list(tools),
            "asks": asks,
        }
        return self._process(bool(tools)).ask(question)

    def _process(self, with_tools: bool) -> Sandbox:  # noqa: FBT001 -- a key, and private
        if with_tools not in self._processes:
            setup = {"template": self._text(with_tools), "variables": self._variables}
            self._processes[with_tools] = Sandbox(_PROGRAM, setup, limits=_LIMITS, libraries=True)
        return self._processes[with_tools]

    def _text(self, with_tools: bool) -> str:  # noqa: FBT001 -- as above
        """Return the template, which may be another one where there are tools."""
        if self._tokenizer.chat_template is None:
            raise NoTemplate(
                "the model has no chat template, and the data are dialogues",
                hint='give plain text ({"prompt": "…", "completion": "…"}), or a model '
                "whose folder holds chat_template.jinja",
            )
        tools: Any = [{}] if with_tools else None
        return self._tokenizer.get_chat_template(tools=tools)
