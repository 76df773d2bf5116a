"""What responds to rows: a model in memory, or one behind an endpoint, both alike to whoever asks.

Absent: what is done with what they say.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvc.dialogues.endpoint import Endpoint, ask_all
from tvc.dialogues.generation import Said, Sampling, generate
from tvc.dialogues.loading import Loaded
from tvc.dialogues.problems import BadRows, Problem
from tvc.dialogues.rendering import render_prompts
from tvc.dialogues.rows import Row, guided
from tvc.domain.errors import InputError

__all__ = ["Speak", "by_endpoint", "by_model"]

Speak = Callable[[Sequence[Row], Sequence[int]], list[Said]]
"""Says something after the contexts of rows, their guidance included, given a seed for each."""


def by_model(
    loaded: Loaded,
    sampling: Sampling,
    *,
    window: int,
    variables: Mapping[str, object] | None = None,
    batch: int = 16,
    on_said: Callable[[int], None] = lambda _: None,
) -> Speak:
    """Return what speaks by a model in memory.

    Args:
        loaded: The model.
        sampling: How words are chosen.
        window: Tokens that a context may have, together with what is said after it.
        variables: What the chat template is given besides.
        batch: Contexts at a time.
        on_said: Told how many contexts were answered.

    Raises:
        InputError: The window has no room for a context.
    """
    room = window - sampling.tokens
    if room < 1:
        raise InputError(
            f"the window of {window} tokens has no room for responses of {sampling.tokens}",
            hint="let responses be shorter, or the window longer",
        )

    def speak(rows: Sequence[Row], seeds: Sequence[int]) -> list[Said]:
        prompts = render_prompts(rows, loaded.tokenizer, window=room, variables=variables)
        return generate(
            loaded.model,
            loaded.tokenizer,
            prompts,
            sampling=sampling,
            seeds=seeds,
            batch=batch,
            on_said=on_said,
        )

    return speak


def by_endpoint(
    endpoint: Endpoint,
    sampling: Sampling,
    *,
    variables: Mapping[str, object] | None = None,
    on_said: Callable[[int], None] = lambda _: None,
) -> Speak:
    """Return what speaks by a running server.

    It is repeatable as far as the server keeps to the seed that every question carries.

    Args:
        endpoint: The server.
        sampling: How words are chosen.
        variables: What the chat template is given besides, as vLLM takes it.
        on_said: Told how many contexts were answered.
    """

    def speak(rows: Sequence[Row], seeds: Sequence[int]) -> list[Said]:
        questions: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []
        for row, seed in zip(map(guided, rows), seeds, strict=True):
            if isinstance(row.context, str):
                words = "plain text cannot be asked of a chat endpoint"
                raise BadRows([Problem(row.source, words)])
            options: dict[str, Any] = {
                "max_tokens": sampling.tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": seed,
            }
            if variables:
                options["chat_template_kwargs"] = dict(variables)
            if row.tools:
                options["tools"] = list(row.tools)
            questions.append(([each.for_template for each in row.context], options))
        replies = ask_all(endpoint, questions, on_reply=on_said)
        return [Said(reply.text.strip(), reply.ended) for reply in replies]

    return speak
