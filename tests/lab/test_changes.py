"""Changes between models, and random ones of the same size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.tiny_models import tiny

from tvc.domain.errors import InputError
from tvc.lab.changes import change_between, moved, random_change


def weights(model) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def test_what_was_added_is_found_and_taken_back() -> None:
    before, after = tiny("qwen3"), tiny("qwen3")
    with torch.no_grad():
        after.model.layers[0].mlp.up_proj.weight[3] += 0.25
    change = change_between(before, after)
    assert list(change) == ["model.layers.0.mlp.up_proj.weight"]
    kept = weights(before)
    with pytest.raises(ZeroDivisionError), moved(before, change):
        for name, each in after.named_parameters():
            torch.testing.assert_close(dict(before.named_parameters())[name], each)
        raise ZeroDivisionError
    assert all(torch.equal(each, kept[name]) for name, each in before.named_parameters())


def test_models_that_are_equal_or_different_are_refused() -> None:
    with pytest.raises(InputError, match="same weights"):
        change_between(tiny("qwen3"), tiny("qwen3"))
    with pytest.raises(InputError, match="different shapes"):
        change_between(tiny("qwen3"), tiny("qwen3.5"))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([(4000,), (50, 80), (1,)]), st.floats(1e-6, 1e3))
def test_random_changes_are_as_long_and_point_elsewhere(seed, shape, size) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    change = {"a": drawn, "b": drawn}
    found = random_change(change, seed=seed)
    for name, each in found.items():
        assert each.shape == shape
        assert float(each.norm()) == pytest.approx(float(drawn.norm()), rel=1e-4)
        if drawn.numel() > 1:
            for other in (drawn, random_change(change, seed=seed + 1)[name]):
                cosine = torch.cosine_similarity(each.flatten(), other.flatten(), dim=0)
                assert abs(float(cosine)) < 6 / drawn.numel() ** 0.5
    assert not torch.equal(found["a"], found["b"]) or drawn.numel() == 1
    again = random_change(change, seed=seed)
    assert all(torch.equal(again[name], found[name]) for name in found)
