"""Optimizers by name."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from tvc.domain.errors import InputError
from tvc.optimizers.apollo import Apollo
from tvc.optimizers.building import OPTIMIZERS, make_optimizer


def weights():
    return [("a", nn.Parameter(torch.ones(4, 6))), ("b", nn.Parameter(torch.ones(3)))]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_makes_an_optimizer_that_keeps_names(name):
    parameters = weights()
    optimizer = make_optimizer(name, parameters, lr=0.1, weight_decay=0.5, rank=3)
    assert optimizer.param_groups[0]["param_names"] == ["a", "b"]
    for _, weight in parameters:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # nothing but decay: the same, decoupled, for all
    for _, weight in parameters:
        assert torch.allclose(weight, torch.full_like(weight, 0.95))


def test_the_kinds_and_ranks():
    made = {name: make_optimizer(name, weights(), lr=0.1, rank=7) for name in OPTIMIZERS}
    assert [type(made[name]) for name in OPTIMIZERS] == [AdamW, Apollo, Apollo, SGD]
    assert made["apollo"].defaults["rank"] == 7
    assert made["apollo-mini"].defaults["rank"] == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"lr": math.nan}, {"weight_decay": -1.0}], ids=str)
def test_numbers_out_of_range_are_refused(name, wrong):
    with pytest.raises(InputError):
        make_optimizer(name, weights(), **{"lr": 0.1} | wrong)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="no optimizer 'appollo'") as caught:
        make_optimizer("appollo", weights(), lr=0.1)
    assert caught.value.hint == "did you mean 'apollo'?"
    with pytest.raises(InputError) as caught:
        make_optimizer("zzz", weights(), lr=0.1)
    assert "adamw, apollo, apollo-mini, sgd" in caught.value.hint
