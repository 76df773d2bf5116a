"""Renders chat templates in a process of its own, where one that loops or hoards is ended.

Its first line holds the template and the variables that every rendering gets; each question holds
messages, tools, and whether the model is to speak next. The rendering is transformers' own, which
is jinja's sandbox. Absent: loading models, so that neither torch nor tokenizers are imported.
"""

from collections.abc import Callable, Mapping
from typing import Any

from transformers.utils import chat_template_utils

from tvc.dialogues.sandboxed import serve

__all__ = ["prepare"]

templates: Any = chat_template_utils  # its signatures say less than they should


def prepare(setup: Mapping[str, Any]) -> Callable[[Any], str]:
    """Return what renders one question by the template."""

    def render(question: Any) -> str:
        found: Any = templates.render_jinja_template(
            conversations=[question["messages"]],
            tools=question["tools"] or None,
            chat_template=setup["template"],
            add_generation_prompt=question["asks"],
            **setup["variables"],
        )
        texts, _ = found
        return texts[0]

    return render


if __name__ == "__main__":
    serve(prepare)
