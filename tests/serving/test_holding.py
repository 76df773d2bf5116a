"""Where a model holds its checkpoint is found by watching it being loaded."""

import pytest
import torch
from serving.served_module import Fused, live_model, load, weights

from tvc.vllm.holding import LoadRecord, NotHeld, content_id


def test_what_was_copied_is_read_back_bit_for_bit():
    given = weights(0)
    given["q"].view(torch.int32)[0, 0] = 0x7FC12345  # a NaN with a payload
    given["norm"][0] = -0.0
    _, record, live = live_model(given)
    for name in ("q", "k", "v", "embed", "norm"):
        assert content_id(record.read(name)) == content_id(given[name]) == live.ids[name]


def test_what_was_changed_or_left_is_not_held():
    _, record, live = live_model(weights(0))
    assert set(live.unheld) == {"log_scale", "unused"}
    with pytest.raises(NotHeld):
        record.read("log_scale")


def test_fused_tensors_are_one_group():
    _, record, _ = live_model(weights(0))
    assert ["k", "q", "v"] in record.groups()


def test_a_cast_is_held_in_the_models_type():
    given = weights(0)
    _, record, live = live_model(given, torch.bfloat16)
    assert content_id(given["q"].bfloat16()) == live.ids["q"]
    assert record.tensors["q"].held_spec.dtype == "BF16"


def test_writing_is_in_place_and_touches_nothing_else():
    model, record, _ = live_model(weights(0))
    before, address = model.attention.qkv.clone(), model.attention.qkv.data_ptr()
    record.write("k", torch.ones(2, 4))
    assert model.attention.qkv.data_ptr() == address
    assert torch.equal(model.attention.qkv[4:6], torch.ones(2, 4))
    rest = [0, 1, 2, 3, 6, 7]
    assert torch.equal(model.attention.qkv[rest], before[rest])


def test_a_parameter_that_was_packed_is_noticed():
    model, record, _ = live_model(weights(0))
    model.attention.qkv = torch.nn.Parameter(torch.empty(0), False)
    assert {"q", "k", "v"} <= set(record.check())


def test_a_parameter_that_was_reordered_is_noticed():
    model, record, _ = live_model(weights(0))
    model.attention.qkv.data.copy_(model.attention.qkv.data.flip(0).clone())
    assert {"q", "k", "v"} <= set(record.check())


def test_a_part_that_nobody_filled_is_found():
    model = Fused()
    record = LoadRecord(model)
    given = {name: tensor for name, tensor in weights(0).items() if name != "k"}
    with record.watching():
        load(model, record.watched(given.items()))
    assert record.unfilled() == {"attention.qkv": "is filled to 75%"}
    complete = live_model(weights(0))[1]
    assert complete.unfilled() == {}


def test_what_is_known_is_not_hashed_again_but_in_another_type():
    given = weights(0)
    for dtype, wanted in ((torch.float32, "0" * 64), (torch.bfloat16, None)):
        model = Fused(dtype)
        record = LoadRecord(model)
        with record.watching():
            load(model, record.watched(given.items(), {"q": "0" * 64}.get))
        assert record.tensors["q"].id == (wanted or content_id(given["q"].bfloat16()))
        assert record.tensors["k"].id == content_id(given["k"].to(dtype))
        assert ("q" in record.check()) is (wanted is not None)
