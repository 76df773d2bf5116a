"""The model card of a checkout: what it is made of, in the form that the Hugging Face hub reads.

Every text of the repository's is quoted: names and messages may be anything.
"""

import json

from tvc.domain.library import Library
from tvc.domain.recipe import Recipe, format_number, format_recipe, format_term, vector_names
from tvc.domain.vector import BaseRecord, VectorRecord

__all__ = ["model_card", "public_source"]


def model_card(
    *, title: str, commit: str, recipe: Recipe, base: BaseRecord, library: Library
) -> str:
    """Write README.md.

    Args:
        title: What the checkout is called: a branch, or the folder's name.
        commit: Full hash.
        recipe: By names.
        base: The recipe's base.
        library: What the names stand for.
    """
    names = list(dict.fromkeys(vector_names(recipe.terms)))
    front = ["---", f"base_model: {json.dumps(public_source(base))}"]
    if base.revision:
        front.append(f"base_model_revision: {json.dumps(base.revision)}")
    front += ["tags:", "- tvc", *(["- merge"] if len(names) > 1 else []), "---"]
    rows = [_row(name, library.vectors[name]) for name in names]
    table = ["| vector | kind | changes | trained from |", "|---|---|---|---|", *rows]
    body = [
        f"# {_plain(title)}",
        "",
        "Written by `tvc checkout`: a base model and task vectors added to it.",
        "",
        f"- recipe: `{format_recipe(recipe)}`",
        f"- commit: `{commit}`",
        f"- base: `{_plain(public_source(base))}`",
        "",
        *(["## Terms", "", *(f"- `{format_term(term)}`" for term in recipe.terms), ""]),
        *(["## Vectors", "", *table, ""] if rows else []),
    ]
    return "\n".join([*front, "", *body])


def public_source(base: BaseRecord) -> str:
    """Return where a base is had from, as it may be published: of a local folder only its name."""
    return base.source if base.revision else base.source.rstrip("/").rpartition("/")[2]


def _row(name: str, record: VectorRecord) -> str:
    share = record.measured.get("changed_share")
    changes = f"{share:.1%} of the weights" if isinstance(share, float) else "low rank"
    parent = [format_number(term.coefficient) for term in record.parent.terms]
    origin = "the base" if not parent else f"the base and {len(parent)} more"
    return f"| `{_plain(name)}` | {record.kind} | {changes} | {origin} |"


def _plain(text: str) -> str:
    """Return text that cannot break out of a line, a code span or a table cell."""
    return "".join(char if char.isprintable() and char not in "`|<>" else "_" for char in text)
