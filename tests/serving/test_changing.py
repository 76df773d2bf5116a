"""From what a server holds to a commit: what differs, no more, and only where it can be."""

import numpy as np
import pytest
from workbench import Bench

from tvc.evaluation.numbers import cast_elements
from tvc.serving.changing import WrongModel, delta_to
from tvc.serving.delta import state_id
from tvc.serving.source import Location, served
from tvc_store.dtypes import TensorSpec
from tvc_store.ids import tensor_id

SPEC = TensorSpec("F32", (8, 8))
NAMES = ("q", "k", "v", "norm")


def numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(64).astype(np.float32)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    """Only read. Branch-less: base on HEAD~2, then few (one element of q), then all (every tensor)."""
    base = {name: numbers(n) for n, name in enumerate(NAMES)}
    made = Bench(
        tmp_path_factory.mktemp("changing"), {n: (SPEC, a.tobytes()) for n, a in base.items()}
    )
    few = {name: array.copy() for name, array in base.items()}
    few["q"][9] = 42.0
    made.commit("few", {n: (SPEC, a.tobytes()) for n, a in few.items()})
    tuned = {n: (SPEC, numbers(10 + i).tobytes()) for i, n in enumerate(NAMES)}
    made.commit("all", tuned)
    return made


def at(bench: Bench, revision: str):
    return served(Location(bench.repository.layout.root, revision))


def described(bench: Bench, revision: str, dtype: str = "F32", unheld=()) -> dict:
    """What a server of a revision would say."""
    with at(bench, revision) as source:
        tensors, missing = {}, {}
        for name, content in source.tensors(source.specs):
            spec = TensorSpec(dtype, source.specs[name].shape)
            identity = tensor_id(spec, cast_elements(content, source.specs[name].dtype, dtype))
            if name in unheld:
                missing[name] = {"why": "it is packed", "id": source.id_of(name)}
            else:
                tensors[name] = {"dtype": dtype, "shape": list(spec.shape), "id": identity}
    ids = {name: entry["id"] for name, entry in tensors.items()}
    groups = [[name for name in ("k", "q", "v") if name in tensors]]
    return {"tensors": tensors, "unheld": missing, "groups": groups, "state": state_id(ids)}


def test_only_what_differs_and_what_is_fused_with_it(bench):
    live = described(bench, "HEAD~2")
    with at(bench, "HEAD~1") as target, at(bench, "HEAD~2") as old:
        delta = delta_to(target, live, repository="/r", old=old)
        dense = delta_to(target, live, repository="/r", old=old, kind="dense")
    assert delta.kind == "sparse"
    assert set(delta.changes) == {"q", "k", "v"}
    assert delta.changes["q"].positions.tolist() == [9]
    assert delta.changes["q"].values.view(np.float32).tolist() == [42.0]
    assert delta.nbytes == 8
    assert delta.changes["k"].id == live["tensors"]["k"]["id"]
    assert (dense.kind, dense.nbytes) == ("dense", SPEC.nbytes)
    assert delta.before == live["state"]
    assert delta.commit == bench.repository.git.resolve("HEAD~1")


def test_whole_tensors_where_that_is_shorter_or_the_old_is_not_known(bench):
    live = described(bench, "HEAD~2")
    with at(bench, "HEAD") as target, at(bench, "HEAD~2") as old:
        assert delta_to(target, live, repository="", old=old).nbytes == 4 * SPEC.nbytes
    with at(bench, "HEAD~1") as target:
        assert delta_to(target, live, repository="").nbytes == SPEC.nbytes


def test_an_old_that_is_not_what_the_server_holds_is_not_believed(bench):
    live = described(bench, "HEAD~2")
    with at(bench, "HEAD~1") as target, at(bench, "HEAD") as other:
        delta = delta_to(target, live, repository="", old=other)
    assert delta.kind == "dense"


def test_nothing_differs(bench):
    with at(bench, "HEAD") as target:
        assert delta_to(target, described(bench, "HEAD"), repository="").changes == {}


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F64"])
def test_another_type_is_compared_in_that_type(bench, dtype):
    live = described(bench, "HEAD~2", dtype)
    with at(bench, "HEAD~1") as target, at(bench, "HEAD~2") as old:
        delta = delta_to(target, live, repository="", old=old)
    spec = TensorSpec(dtype, SPEC.shape)
    wanted = described(bench, "HEAD~1", dtype)["tensors"]["q"]["id"]
    assert delta.changes["q"].spec == spec
    assert delta.changes["q"].id == wanted
    assert delta.changes["q"].positions.tolist() == [9]


def test_a_tensor_that_is_not_held_may_stay_but_not_change(bench):
    with at(bench, "HEAD~1") as target:
        assert (
            "q"
            in delta_to(target, described(bench, "HEAD~2", unheld=["norm"]), repository="").changes
        )
        with pytest.raises(WrongModel, match=r"q would change.* it is packed"):
            delta_to(target, described(bench, "HEAD~2", unheld=["q"]), repository="")


def test_another_model_is_refused(bench, tmp_path):
    other = Bench(tmp_path / "o", {n: (TensorSpec("F32", (4, 4)), bytes(64)) for n in NAMES})
    live = described(bench, "HEAD~2")
    with at(other, "HEAD") as target, pytest.raises(WrongModel, match="another model"):
        delta_to(target, live, repository="")
    fewer = Bench(tmp_path / "p", {"q": (SPEC, bytes(256))})
    with at(fewer, "HEAD") as target, pytest.raises(WrongModel, match="another model"):
        delta_to(target, live, repository="")
