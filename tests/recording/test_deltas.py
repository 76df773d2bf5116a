"""A difference that was kept as it was trained: what is stored, what it is worth, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from workbench import NOTHING_ALLOWED, Bench, write_model

from tvc.domain.recipe import recipe_id
from tvc.models.directory import ModelDirectory
from tvc.recording.committing import OtherOrigin, commit_finetune
from tvc.recording.matching import Mismatch
from tvc.recording.trained import read_training, write_training
from tvc.repository.objects import open_objects
from tvc.upkeep.inspection import inspect
from tvc_store.dtypes import TensorSpec
from tvc_store.errors import IntegrityError

ROWS, COLUMNS = 40, 30
SPEC = TensorSpec("BF16", (ROWS, COLUMNS))
WIDE = TensorSpec("F32", (ROWS, COLUMNS))


def bf16(values):
    """Round to nearest, ties to even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def wide(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def numbers(seed, scale=1.0):
    drawn = np.random.default_rng(seed).normal(0, scale, (ROWS, COLUMNS))
    return drawn.astype(np.float32)


BASE = bf16(numbers(0, 0.02))
DELTA = numbers(1, 3e-5)
TUNED = bf16(wide(BASE) + DELTA)


def tensors(bits):
    return {"still": (SPEC, BASE.tobytes()), "w": (SPEC, bits.tobytes())}


def trained(bench, *, delta=DELTA, spec=WIDE, name="w", recipe=None):
    """A folder as training leaves it."""
    folder = write_model(bench.folder / "trained", tensors(TUNED))
    zero = (TensorSpec("F32", SPEC.shape), bytes(WIDE.nbytes))
    write_model(folder / "delta", {name: (spec, delta.tobytes()), "still": zero})
    head = recipe_id(bench.repository.state_at("HEAD").normal)
    write_training(
        folder,
        recipe=recipe or head,
        provenance={"tier": "frozen-context"},
        measured={"rate": 0.5},
    )
    return ModelDirectory.open(folder)


def commit(bench, model, **options):
    with bench.repository.change("commit") as change:
        return commit_finetune(
            change, model, name="t", message="t", allowed=NOTHING_ALLOWED, **options
        )


def weights(bench):
    return np.frombuffer(bench.tensors()["w"][1], np.uint16).reshape(ROWS, COLUMNS)


def test_the_tuned_weights_come_back_and_multiples_are_of_the_true_difference(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    commit(bench, trained(bench))
    assert bench.tensors() == tensors(TUNED)
    for text, factor in (("3 * t", 3), ("-1 * t", -1), ("0.5 * t", 0.5)):
        bench.recipe(text)
        expected = bf16(wide(BASE) + DELTA * np.float32(factor))
        assert np.array_equal(weights(bench), expected)
        rounded = bf16(wide(BASE) + (wide(TUNED) - wide(BASE)) * np.float32(factor))
        assert not np.array_equal(weights(bench), rounded)


def test_what_rounding_hid_counts_when_it_is_scaled(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    # Far below half a step of any weight: only the other tensor's change makes this a fine-tune.
    tiny = np.full(SPEC.shape, 1e-9, np.float32)
    folder = write_model(
        tmp_path / "trained", {"still": (SPEC, BASE.tobytes()), "w": (SPEC, TUNED.tobytes())}
    )
    write_model(folder / "delta", {"still": (WIDE, tiny.tobytes()), "w": (WIDE, DELTA.tobytes())})
    write_training(
        folder,
        recipe=recipe_id(bench.repository.state_at("HEAD").normal),
        provenance={},
        measured={},
    )
    commit(bench, ModelDirectory.open(folder))
    assert bench.tensors() == tensors(TUNED)
    bench.recipe("10000000 * t")
    found = np.frombuffer(bench.tensors()["still"][1], np.uint16).reshape(SPEC.shape)
    assert np.array_equal(found, bf16(wide(BASE) + tiny * np.float32(1e7)))


def test_provenance_and_cost_are_in_the_record(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    done = commit(bench, trained(bench))
    record = bench.repository.state_at("HEAD").vectors["t"]
    assert record.delta
    assert record.provenance["tier"] == "frozen-context"
    assert record.measured["rate"] == 0.5
    assert record.measured["delta_bytes"] == done.recorded.delta_bytes > 0
    assert replace(record, delta=None).id != record.id


def test_of_what_is_known_here_a_training_has_no_say(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    model = trained(bench)
    write_training(
        model.root,
        recipe=recipe_id(bench.repository.state_at("HEAD").normal),
        provenance={"trained_from": "a lie", "tier": "full"},
        measured={"changed_tensors": "a lie", "delta_bytes": "a lie", "rate": 0.5},
    )
    commit(bench, ModelDirectory.open(model.root))
    record = bench.repository.state_at("HEAD").vectors["t"]
    assert record.provenance["trained_from"] == "base"
    assert record.measured["changed_tensors"] == 1
    assert isinstance(record.measured["delta_bytes"], int)
    assert (record.provenance["tier"], record.measured["rate"]) == ("full", 0.5)


def test_a_kept_difference_is_checked_and_not_collected(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    commit(bench, trained(bench))
    with open_objects(bench.repository.layout) as store:
        found = inspect(bench.repository, store)
    assert not found.problems
    listed = bench.repository.state_at("HEAD").vectors["t"].delta
    assert listed in found.needs.objects()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nothing"}, "no such tuned tensor"),
        ({"spec": TensorSpec("F32", (COLUMNS, ROWS))}, r"F32 \[30, 40\], the tuned tensor"),
        ({"spec": TensorSpec("I32", SPEC.shape)}, "I32"),
        ({"delta": np.where(DELTA[9, 9] == DELTA, np.float32("nan"), DELTA)}, "of w is not finite"),
        ({"delta": np.where(DELTA[0, 0] == DELTA, np.float32("inf"), DELTA)}, "of w is not finite"),
    ],
)
def test_differences_that_do_not_fit_are_refused(tmp_path, options, message):
    bench = Bench(tmp_path, tensors(BASE))
    before = bench.repository.position()
    with pytest.raises(Mismatch, match=message):
        commit(bench, trained(bench, **options))
    assert bench.repository.position() == before


def test_what_was_trained_from_something_else_needs_its_origin_said(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    model = trained(bench)
    bench.commit("other", tensors(bf16(numbers(7, 0.02))))
    with pytest.raises(OtherOrigin, match="not trained from what HEAD gives"):
        commit(bench, model)
    with pytest.raises(OtherOrigin, match="not trained from what HEAD gives"):
        commit(bench, model, origin="HEAD")
    commit(bench, model, origin="HEAD~1")
    state = bench.repository.state_at("HEAD")
    assert not state.vectors["t"].parent.terms
    assert len(state.recipe.terms) == 2


def test_an_origin_may_need_vectors_that_head_lacks(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    first = bench.repository.git.resolve("HEAD")
    bench.commit("other", tensors(bf16(numbers(7, 0.02))))
    side = bench.repository.git.resolve("HEAD")
    with bench.repository.change("back") as change:
        state = bench.repository.state_at(first)
        change.commit(state, "back")
    folder = write_model(tmp_path / "plain", tensors(TUNED))
    commit(bench, ModelDirectory.open(folder), origin=side)
    state = bench.repository.state_at("HEAD")
    assert set(state.vectors) == {"other", "t"}
    assert [term.atom.name for term in state.recipe.terms] == ["t"]
    assert len(state.vectors["t"].parent.terms) == 1
    bench.checkout()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"format":"tvc.training/2","recipe":"' + b"a" * 64 + b'","provenance":{},"measured":{}}',
        b'{"format":"tvc.training/1","recipe":"x","provenance":{},"measured":{}}',
        b'{"format":"tvc.training/1","recipe":"'
        + b"a" * 64
        + b'","provenance":{"a":[]},"measured":{}}',
        b'{"format":"tvc.training/1","recipe":"' + b"a" * 64 + b'","provenance":3,"measured":{}}',
        b'{"format":"tvc.training/1","recipe":"'
        + b"a" * 64
        + b'","provenance":{"a":"\\ud800"},"measured":{}}',
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path, body):
    folder = write_model(tmp_path / "m", tensors(TUNED))
    (folder / "training.json").write_bytes(body)
    with pytest.raises(IntegrityError):
        read_training(ModelDirectory.open(folder))


def test_a_folder_that_was_not_trained_here_has_no_record(tmp_path):
    folder = write_model(tmp_path / "m", tensors(TUNED))
    assert read_training(ModelDirectory.open(folder)) is None
    write_training(folder, recipe="a" * 64, provenance={"x": 1}, measured={})
    model = ModelDirectory.open(folder)
    assert "training.json" not in model.files
    assert json.loads((folder / "training.json").read_text())["provenance"] == {"x": 1}


@pytest.mark.parametrize("lie", ["other", "scaled", "one"])
def test_a_difference_that_did_not_make_the_weights_is_refused(tmp_path, lie):
    bench = Bench(tmp_path, tensors(BASE))
    delta = {"other": numbers(9, 3e-4), "scaled": 40 * DELTA, "one": DELTA.copy()}[lie]
    if lie == "one":
        delta[ROWS - 1, COLUMNS - 1] += 0.1
    before = bench.repository.position()
    with pytest.raises(Mismatch, match="the tuned w is not the model that was trained from plus"):
        commit(bench, trained(bench, delta=delta))
    assert bench.repository.position() == before


def test_a_difference_kept_in_bfloat16_agrees_with_the_weights(tmp_path):
    bench = Bench(tmp_path, tensors(BASE))
    commit(bench, trained(bench, delta=bf16(DELTA), spec=SPEC))
    assert bench.tensors() == tensors(TUNED)
