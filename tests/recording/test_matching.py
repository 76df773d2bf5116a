"""A mismatch is an error that names the tensor and both sides, and what would allow it."""

import pytest

from tvc.recording.matching import Allowances, Mismatch, match_tensors
from tvc_store.dtypes import TensorSpec

BASE = {
    "model.embed_tokens.weight": TensorSpec("BF16", (10, 4)),
    "model.norm.weight": TensorSpec("BF16", (4,)),
    "s": TensorSpec("F32", ()),
}
TIED = {"tie_word_embeddings": True}


def match(tuned, *, config=None, **allowed):
    return match_tensors(tuned, BASE, config=config or {}, allowed=Allowances(**allowed))


def test_what_fits_is_matched_by_name():
    assert match(dict(BASE)) == {name: name for name in BASE}


def test_a_missing_tensor_is_named_and_may_be_allowed():
    tuned = {name: spec for name, spec in BASE.items() if name != "s"}
    with pytest.raises(Mismatch, match=r"lacks tensors .*: s$") as caught:
        match(tuned)
    assert "--allow-missing 's'" in caught.value.hint
    assert match(tuned, missing=frozenset(["s"]))["s"] is None


def test_an_extra_tensor_is_named_and_may_be_dropped():
    tuned = {**BASE, "extra\x1b[2J": BASE["s"]}
    with pytest.raises(Mismatch, match="has tensors that") as caught:
        match(tuned)
    assert "\x1b" not in caught.value.message + caught.value.hint
    assert "--drop-extra" in caught.value.hint
    assert set(match(tuned, extra=frozenset(["extra\x1b[2J"]))) == set(BASE)


@pytest.mark.parametrize("shape", [(10, 5), (4, 10), (40,), (1, 10, 4), (9, 4)])
def test_another_shape_is_refused_with_both_shapes(shape):
    tuned = {**BASE, "model.embed_tokens.weight": TensorSpec("BF16", shape)}
    for resize in (False, True):
        with pytest.raises(Mismatch) as caught:
            match(tuned, resize_vocab=resize)
        assert str(list(shape)) in caught.value.message
        assert "[10, 4]" in caught.value.message


def test_a_grown_vocabulary_may_be_allowed():
    tuned = {**BASE, "model.embed_tokens.weight": TensorSpec("BF16", (12, 4))}
    with pytest.raises(Mismatch) as caught:
        match(tuned)
    assert "--resize-vocab" in caught.value.hint
    assert match(tuned, resize_vocab=True)


def test_another_type_is_refused_and_may_be_allowed():
    tuned = {**BASE, "s": TensorSpec("F16", ())}
    with pytest.raises(Mismatch, match="s is F16 in the fine-tune and F32") as caught:
        match(tuned)
    assert "--allow-dtype" in caught.value.hint
    assert match(tuned, dtype=True)["s"] == "s"


def test_a_tied_head_may_be_stored_or_left_out():
    stored = {**BASE, "lm_head.weight": BASE["model.embed_tokens.weight"]}
    assert set(match(stored, config=TIED)) == set(BASE)
    with pytest.raises(Mismatch):
        match(stored, config={"tie_word_embeddings": False})
    found = match_tensors(dict(BASE), stored, config=TIED, allowed=Allowances())
    assert found["lm_head.weight"] == "model.embed_tokens.weight"
    with pytest.raises(Mismatch):
        match_tensors(dict(BASE), stored, config={}, allowed=Allowances())


def test_many_are_counted_and_not_all_listed():
    with pytest.raises(Mismatch, match="and 95 more"):
        match({**BASE, **{f"x{i:03}": BASE["s"] for i in range(100)}})
