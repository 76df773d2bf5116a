"""Interference against its definitions, and however a vector is cut into tensors."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tvc.merging.interference import by_group, combined, measure


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_is_what_it_says() -> None:
    deltas = normal(3, 20, 10)
    deltas[0, :5] = 0
    found = measure(deltas, density=0.1)
    flat = deltas.double().reshape(3, -1).numpy()
    assert found.numel == 200
    assert found.changed == (150, 200, 200)
    assert found.large == (20, 20, 20)
    for i, j in [(0, 1), (1, 0), (1, 2)]:
        a, b = flat[i], flat[j]
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert found.cosine(i, j) == pytest.approx(cosine)
        both = (a != 0) & (b != 0)
        assert found.conflict_share(i, j) == ((a * b < 0).sum() / both.sum())
        tops = [set(np.argsort(-np.abs(x))[:20]) for x in (a, b)]
        assert found.overlap(i, j) == len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    assert found.norm(2) == pytest.approx(np.linalg.norm(flat[2]))


def test_a_vector_with_itself_and_its_negation() -> None:
    delta = normal(30)
    found = measure(torch.stack([delta, delta, -delta]))
    assert (found.cosine(0, 1), found.conflict_share(0, 1), found.overlap(0, 1)) == (1.0, 0.0, 1.0)
    assert (found.cosine(0, 2), found.conflict_share(0, 2), found.overlap(0, 2)) == (-1.0, 1.0, 1.0)


def test_tiny_numbers_conflict_too() -> None:
    """Their product is zero in float32, their signs are not."""
    found = measure(torch.tensor([[1e-30, 1e-30], [-1e-30, 1e-30]]))
    assert found.conflict_share(0, 1) == 0.5


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_order_of_tensors_means_nothing(seed: int) -> None:
    parts = [measure(10.0 ** (i % 5) * normal(2, 9, seed=seed + i)) for i in range(12)]
    turned = random.Random(seed).sample(parts, len(parts))
    assert combined(parts) == combined(turned)


def test_groups_and_the_whole() -> None:
    whole = normal(2, 12, 5)
    parts = [(f"layer {i // 2}", measure(part)) for i, part in enumerate(whole.split(3, dim=1))]
    groups = by_group(parts)
    assert list(groups) == ["layer 0", "layer 1"]
    assert groups["layer 1"].numel == 30
    total, at_once = combined(part for _, part in parts), measure(whole)
    assert total.numel == at_once.numel
    assert total.changed == at_once.changed
    assert total.cosine(0, 1) == pytest.approx(at_once.cosine(0, 1))
    assert total.conflict_share(0, 1) == at_once.conflict_share(0, 1)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (4,)], ids=str)
def test_nothing_to_measure(shape: tuple[int, ...]) -> None:
    found = measure(torch.zeros(2, *shape))
    assert (found.cosine(0, 1), found.conflict_share(0, 1), found.overlap(0, 1)) == (0, 0, 0)
    assert combined([found, found]).numel == 2 * math.prod(shape)


def test_what_is_not_finite_is_not_hidden() -> None:
    found = measure(torch.tensor([[float("nan"), 1.0], [1.0, 1.0]]))
    infinite = measure(torch.tensor([[float("inf"), 1.0], [-1.0, 1.0]]))
    assert math.isnan(combined([found, infinite]).cosine(0, 1))
    assert infinite.conflict_share(0, 1) == 0.5
