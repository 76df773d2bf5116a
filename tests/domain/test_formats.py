"""Stored and tracked formats: what is written is read back, and ids are frozen."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvc.domain.documents import (
    BadDocument,
    UnresolvedConflict,
    format_base,
    format_conflicted_recipe,
    format_recipe_document,
    format_vector,
    parse_base,
    parse_recipe_document,
    parse_vector,
)
from tvc.domain.grammar import parse_sum
from tvc.domain.recipe import Recipe, normalize, recipe_id
from tvc.domain.snapshot import BadManifest, Snapshot, TensorRef
from tvc.domain.vector import AdapterManifest, BaseRecord, Factors, VectorRecord
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId

A, B, C = (ObjectId(digit * 64) for digit in "abc")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def normal(text, files=()):
    vectors = {"x": str(A), "y": str(B)}
    return normalize(Recipe("q", parse_sum(text), files), base=str(C), vectors=vectors)


SNAPSHOT = Snapshot(
    {
        "a.weight": TensorRef(A, TensorSpec("BF16", (2, 3))),
        "s": TensorRef(B, TensorSpec("F32", ())),
    },
    {"config.json": C},
)
ADAPTER = AdapterManifest(
    {
        "a.weight": Factors(
            TensorRef(A, TensorSpec("F32", (2, 3))),
            TensorRef(B, TensorSpec("F32", (4, 2))),
            Fraction(1, 3),
            False,
        )
    },
    {"x.lora_A.weight": A, "x.lora_B.weight": B},
    C,
    {"adapter_config.json": C},
)
VECTOR = VectorRecord(
    "fine-tune",
    A,
    normal("0.5 * x"),
    B,
    {"source": 'a "quoted"\nname', "steps": 3},
    {"changed_share": 0.5},
)


KEPT = replace(VECTOR, delta=C)


def test_ids_are_frozen():
    """A change here renames what users have stored: raise the format's version instead."""
    assert recipe_id(normal("x")) == FROZEN["x"]
    assert (
        recipe_id(normal("0.5 * ties(0.8 * x, (0.3 * y), x - y; density=1/5, scope=vector)"))
        == FROZEN["ties"]
    )
    assert recipe_id(normal("x", (("t.json", "x"),))) == FROZEN["files"]
    assert SNAPSHOT.id == FROZEN["snapshot"]
    assert VECTOR.id == FROZEN["vector"]
    assert KEPT.id == FROZEN["kept"]


FROZEN = {
    "x": "2868b09c12fb652bb8c0372eed8526d3e13c1488df357d60d7e719062eff1927",
    "ties": "43b5cae5690a9e71cbe8ca995e16303c4472de53c43b63e7c64c6495b97fc325",
    "files": "7b3852d81da49c36936d1854718a033f32dec85db47984685d46a3e84d5e09bc",
    "snapshot": "9f9072419ff0d372dcfb25b61b22c3c6a3c32597a2ffd2a94c3a343442bb4240",
    "kept": "d28134f0ba74b6d3c3488d72825c4556178131b831fe4d54e0c222230e42364e",
    "vector": "65db0859ef7e3bf0827e6c15d47d43528e757d2677b6b2a5e7af4bab40f54769",
}


def test_what_a_vector_is_called_and_where_it_came_from_are_not_its_identity():
    assert VectorRecord("fine-tune", A, normal("0.5 * x"), C).id == VECTOR.id
    assert replace(VECTOR, delta=A).id not in {KEPT.id, VECTOR.id}
    assert VectorRecord("adapter", A, normal("0.5 * x"), B).id != VECTOR.id
    assert VectorRecord("fine-tune", A, normal("0.25 * x"), B).id != VECTOR.id


def test_lists_are_read_back_and_nothing_else_is():
    assert Snapshot.from_bytes(SNAPSHOT.to_bytes()) == SNAPSHOT
    assert AdapterManifest.from_bytes(ADAPTER.to_bytes()) == ADAPTER
    for kind, data in ((Snapshot, SNAPSHOT.to_bytes()), (AdapterManifest, ADAPTER.to_bytes())):
        for bad in (
            b"",
            b"{}",
            b"[]",
            b"null",
            data[:-1],
            data + b" ",
            data.replace(b"/1", b"/2"),
            data.replace(b"BF16", b"BF17").replace(b"F32", b"F33"),
            b"[" * 100_000,
            data.replace(b"aaaa", b"AAAA"),
            data.replace(b"2,3", b"2,-3"),
            data.replace(b"2,3", b"2,true"),
            data.replace(b'"config', b'"../fig').replace(b'"adapter_', b'"../pter_'),
        ):
            with pytest.raises(BadManifest):
                kind.from_bytes(bad)


@given(texts, texts, st.one_of(st.none(), st.text("0123456789abcdef", min_size=40, max_size=40)))
def test_records_are_read_back_whatever_they_say(key, value, revision):
    record = VectorRecord(
        "adapter",
        A,
        normal("x + 0.5 * y", (("a b.json", "x"),)),
        B,
        {f"k{key}": value},
        {"n": 1, "f": 0.25, "b": True},
    )
    assert parse_vector(format_vector(record), path="v") == record
    assert parse_vector(format_vector(KEPT), path="v") == KEPT
    base = BaseRecord("../some where", revision, A)
    assert parse_base(format_base(base), path="b") == base


def test_a_recipe_is_one_term_a_line():
    recipe = Recipe(
        "qwen",
        parse_sum("listen - 0.5 * 'A-b' + ties(x, y; density=0.2)"),
        (("tokenizer.json", "listen"),),
    )
    text = format_recipe_document(recipe)
    assert text == (
        'format = 1\nbase = "qwen"\nterms = [\n  "listen",\n  "-0.5 * \'A-b\'",\n'
        '  "ties(x, y; density=0.2)",\n]\n\n[files]\n"tokenizer.json" = "listen"\n'
    )
    assert parse_recipe_document(text) == recipe
    assert parse_recipe_document(format_recipe_document(Recipe("qwen"))) == Recipe("qwen")


def test_conflicts_stand_between_markers_and_are_read_once_resolved():
    recipe = Recipe("qwen", parse_sum("listen"))
    text = format_conflicted_recipe(
        recipe, [(parse_sum("0.8 * brief"), ())], {"t.json": ("a", "b")}, ours="main", theirs="side"
    )
    with pytest.raises(UnresolvedConflict):
        parse_recipe_document(text)
    kept, skipping = [], False
    for line in text.splitlines():
        if line.startswith("======="):
            skipping = True
        elif line.startswith(">>>>>>>"):
            skipping = False
        elif not line.startswith("<<<<<<<") and not skipping:
            kept.append(line)
    found = parse_recipe_document("\n".join(kept))
    assert found == Recipe("qwen", parse_sum("listen + 0.8 * brief"), (("t.json", "a"),))


def test_a_vector_that_was_edited_is_noticed():
    text = format_vector(VECTOR)
    for old, new in (
        (f'content = "{A}"', f'content = "{C}"'),
        ("0.5 * ", "0.6 * "),
        ('kind = "fine-tune"', 'kind = "adapter"'),
    ):
        assert old in text
        with pytest.raises(BadDocument, match="does not match"):
            parse_vector(text.replace(old, new), path="v")


def test_an_adapter_keeps_no_other_difference():
    text = format_vector(replace(KEPT, kind="adapter"))
    with pytest.raises(BadDocument, match="its own difference"):
        parse_vector(text, path="v")
