"""A served model is changed as a whole, or not at all."""

import threading

import numpy as np
import pytest
import torch
from serving.served_module import live_model, weights

from tvc.domain.errors import StateError
from tvc.serving.delta import BadDelta, Change, Delta, pack_delta, unpack_delta
from tvc.vllm.holding import LoadRecord, content_id
from tvc.vllm.live import LiveModel, Origin, WrongServer
from tvc_store.dtypes import TensorSpec

NONE = np.empty(0, np.uint8)


def change(tensor: torch.Tensor) -> Change:
    spec = TensorSpec("F32", tuple(tensor.shape))
    return Change(spec, content_id(tensor), tensor.contiguous().view(-1).view(torch.uint8).numpy())


def unchanged(live: LiveModel, name: str, shape) -> Change:
    return Change(TensorSpec("F32", shape), live.ids[name], NONE, NONE.view(np.uint32))


def to_second(live: LiveModel, label="second") -> Delta:
    new = weights(1)
    changes = {name: change(new[name]) for name in ("q", "k", "v", "norm")}
    return Delta(live.state, label, "c0ffee", "base + a", "/r", changes)


def everything(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_change_is_what_it_announced_and_the_way_back_is_exact():
    model, record, live = live_model(weights(0))
    first, start = everything(model), live.state
    live.apply(to_second(live))
    new = weights(1)
    assert torch.equal(record.read("q"), new["q"])
    assert live.origin.commit == "c0ffee"
    assert live.before[0].label == "first"
    assert live.digests(["q"])["q"] == content_id(new["q"])
    old = weights(0)
    back = {name: change(old[name]) for name in ("q", "k", "v", "norm")}
    live.apply(Delta(live.state, "first", changes=back), undo=True)
    assert live.state == start
    assert live.before == []
    assert same(first, everything(model))


def test_elements_alone_are_enough():
    _, record, live = live_model(weights(0))
    new = weights(0)["q"]
    new[2, 1] = 42.0
    values = np.array([42.0], np.float32).view(np.uint8)
    sparse = Change(TensorSpec("F32", (4, 4)), content_id(new), values, np.array([9], np.uint32))
    changes = {"q": sparse, "k": unchanged(live, "k", (2, 4)), "v": unchanged(live, "v", (2, 4))}
    live.apply(Delta(live.state, "x", changes=changes))
    assert torch.equal(record.read("q"), new)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda d, live: {"before": "0" * 64}, "another state"),
        (lambda d, live: {"changes": {n: c for n, c in d.changes.items() if n != "k"}}, "fused"),
        (lambda d, live: {"changes": dict(d.changes) | {"new": d.changes["q"]}}, "no such tensor"),
        (
            lambda d, live: {"changes": dict(d.changes) | {"log_scale": d.changes["q"]}},
            "cannot be changed",
        ),
        (
            lambda d, live: {
                "changes": dict(d.changes)
                | {"q": Change(d.changes["q"].spec, "0" * 64, d.changes["q"].values)}
            },
            "announces",
        ),
        (
            lambda d, live: {"changes": dict(d.changes) | {"q": d.changes["k"]}},
            "is held as",
        ),
    ],
)
def test_what_does_not_fit_changes_nothing(alter, words):
    model, _, live = live_model(weights(0))
    before, state = everything(model), live.state
    delta = to_second(live)
    fields = {"before": delta.before, "label": "x", "changes": delta.changes}
    with pytest.raises(BadDelta, match=words):
        live.apply(Delta(**(fields | alter(delta, live))))
    assert same(before, everything(model))
    assert live.state == state
    assert live.origin.label == "first"


def test_what_fails_half_way_is_put_back():
    """A parameter that two tensors overlap in cannot hold both: found by reading back."""
    model, record, live = live_model(weights(0))
    before, state = everything(model), live.state
    held = record.tensors["norm"].pieces
    held[0] = type(held[0])(
        "attention.qkv", held[0].size, (0, (1,)), held[0].given
    )  # where q is too
    live.ids["norm"] = content_id(record.read("norm"))
    state = live.state
    with pytest.raises(BadDelta, match="put back"):
        live.apply(to_second(live))
    assert same(before, everything(model))
    assert live.state == state
    assert live.digests(["q", "norm"]) == {name: live.ids[name] for name in ("q", "norm")}


def test_hogwild_counts_the_forwards_that_saw_both():
    model, _, live = live_model(weights(0))
    x = torch.randn(2, 4)
    live.apply(to_second(live), hogwild=True)
    live.wait()
    model(x)
    assert (live.forwards.done, live.forwards.torn) == (1, 0)
    assert live.hogwild
    began, proceed = threading.Event(), threading.Event()

    def slow(_module, _inputs):
        began.set()
        assert proceed.wait(10)

    handle = model.register_forward_pre_hook(slow)  # after the one that notes the beginning
    thread = threading.Thread(target=model, args=(x,))
    thread.start()
    assert began.wait(10)
    live.apply(Delta(live.state, "third", changes={"norm": change(torch.ones(4))}), hogwild=True)
    live.wait()
    proceed.set()
    thread.join()
    handle.remove()
    assert (live.forwards.done, live.forwards.torn) == (2, 1)


def test_two_changes_at_once_are_refused():
    _, _, live = live_model(weights(0))
    delta = to_second(live)
    blocked = threading.Event()
    live._write_beside = lambda *_: blocked.wait(10)
    live.apply(delta, hogwild=True)
    with pytest.raises(StateError, match="another change"):
        live.apply(delta)
    blocked.set()
    live.wait()


def test_a_failure_beside_the_serving_is_told_to_who_waits():
    _, record, live = live_model(weights(0))
    delta = to_second(live)
    held = record.tensors["norm"].pieces
    held[0] = type(held[0])("attention.qkv", held[0].size, (0, (1,)), held[0].given)
    live.ids["norm"] = content_id(record.read("norm"))
    live.apply(Delta(live.state, "x", changes=delta.changes), hogwild=True)
    with pytest.raises(BadDelta, match="put back"):
        live.wait()
    assert live.origin.label == "first"


def test_a_model_of_which_nothing_can_be_read_is_refused():
    with pytest.raises(WrongServer, match="packed"):
        live_model({"log_scale": torch.zeros(3)})


def test_what_a_client_is_told_is_plain():
    _, _, live = live_model(weights(0))
    told = live.describe()
    assert told["tensors"]["q"] == {"dtype": "F32", "shape": [4, 4], "id": live.ids["q"]}
    assert told["groups"] == [["k", "q", "v"]]
    assert set(told["unheld"]) == {"log_scale", "unused"}


def test_a_refusal_of_somebody_else_s_change_is_not_told_to_who_waits():
    _, _, live = live_model(weights(0))
    live.apply(to_second(live), hogwild=True)
    live.failed = "another change is being written"  # as the backend notes for who was refused
    live.wait()
    assert live.origin.label == "second"


def test_whatever_goes_wrong_beside_the_serving_is_told():
    _, record, live = live_model(weights(0))
    delta = to_second(live)
    staged = {name: live._staged(name, each) for name, each in delta.changes.items()}
    record.read = lambda _: 1 / 0
    live._write_beside(delta, staged)
    with pytest.raises(BadDelta, match="division by zero"):
        live.wait()


def test_what_is_served_already_is_nothing_to_go_back_to():
    _, _, live = live_model(weights(0))
    live.apply(to_second(live))
    for _ in range(2):  # the same weights under the same name, and under another
        live.apply(Delta(live.state, "second", "c0ffee"))
    assert [each.label for each in live.before] == ["first"]
    live.apply(Delta(live.state, "equal", "c0ffef"))
    assert [each.label for each in live.before] == ["first", "second"]
    assert live.origin.commit == "c0ffef"


def test_what_was_served_long_ago_is_forgotten():
    _, _, live = live_model(weights(0))
    for n in range(150):
        live.apply(Delta(live.state, f"{n}"))
    assert len(live.before) == 100
    assert live.before[-1].label == "148"


def test_scalars_and_tensors_without_elements():
    model = torch.nn.Module()
    model.scalar = torch.nn.Parameter(torch.tensor(1.0), False)
    model.none = torch.nn.Parameter(torch.empty(0, 4), False)
    record = LoadRecord(model)
    with record.watching():
        given = {"scalar": torch.tensor(2.0), "none": torch.empty(0, 4)}
        for name, tensor in record.watched(given.items()):
            getattr(model, name).data.copy_(tensor)
    live = LiveModel(model, record, Origin("first"))
    assert set(live.ids) == {"scalar"}
    assert live.describe()["unheld"]["none"]["id"] == content_id(torch.empty(0, 4))
    three = Delta(live.state, "three", changes={"scalar": change(torch.tensor(3.0))})
    live.apply(unpack_delta(np.frombuffer(b"".join(pack_delta(three)), np.uint8)))
    assert model.scalar.item() == 3.0
