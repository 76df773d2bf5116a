"""The difference that is trained: nothing of it is lost, and weights are the base plus it, rounded."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tvc.domain.errors import InputError
from tvc.optimizers.building import OPTIMIZERS, make_optimizer
from tvc.optimizers.differences import Differences

KINDS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def model(kind=torch.bfloat16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).to(kind)


def learn(module, differences, optimizer, step):
    generator = torch.Generator().manual_seed(step)
    batch = torch.randn(8, 6, generator=generator).to(next(module.parameters()).dtype)
    module(batch).float().square().sum().backward()
    differences.collect_gradients()
    assert all(each.grad is None for each in module.parameters())
    optimizer.step()
    optimizer.zero_grad()
    differences.write_weights()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_the_base_plus_the_difference_rounded(name, kind):
    module = model(kind)
    bases = copy.deepcopy(dict(module.named_parameters()))
    differences = Differences(module.named_parameters())
    optimizer = make_optimizer(name, differences.named_parameters(), lr=1e-3, rank=2)
    for step in range(5):
        learn(module, differences, optimizer, step)
        for key, weight in module.named_parameters():
            wide = torch.promote_types(kind, torch.float32)
            exact = bases[key].to(wide) + differences.state_dict()[key]
            assert torch.equal(weight, exact.to(kind)), key
            assert not torch.equal(weight, bases[key]), key


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=16, max_size=16),
    st.lists(st.floats(-(2**-7), 2**-7, width=32), min_size=16, max_size=16),
)
def test_rounding_is_to_nearest_once(base, delta):
    weight = nn.Parameter(torch.tensor(base).bfloat16())
    differences = Differences([("w", weight)])
    start = weight.detach().clone()
    differences.load_state_dict({"w": torch.tensor(delta)})
    differences.write_weights()
    exact = start.double() + torch.tensor(delta).double()
    error = (weight.double() - exact).abs()
    for other in (torch.inf, -torch.inf):
        near = torch.nextafter(weight.detach(), torch.full_like(weight, other)).double()
        # float32 holds the sum of a bfloat16 number and a difference to 24 bits, no more.
        assert (error <= (near - exact).abs() + exact.abs() * 2**-24).all()


def test_the_displacement_of_a_float32_run_is_kept_exactly():
    """The same gradients move delta as they move weights that start from zero in float32."""
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(16, 24).bfloat16())
    reference = nn.Parameter(torch.zeros(16, 24))
    start = weight.detach().clone()
    differences = Differences([("w", weight)])
    optimizer = make_optimizer("apollo", differences.named_parameters(), lr=1e-5, rank=4)
    plain = make_optimizer("apollo", [("w", reference)], lr=1e-5, rank=4)
    for _ in range(100):
        grad = torch.randn(16, 24).bfloat16()
        weight.grad, reference.grad = grad.clone(), grad.float()
        differences.collect_gradients()
        optimizer.step()
        optimizer.zero_grad()
        plain.step()
        differences.write_weights()
    assert torch.equal(differences.state_dict()["w"], reference.detach())
    # What the weights alone say of it is coarse: that is why it is kept.
    said = weight.detach().float() - start.float()
    assert (said - reference).norm() > 0.01 * reference.norm()


def test_decay_pulls_to_the_base_and_not_to_zero():
    module = model(torch.float32)
    base = copy.deepcopy(module.state_dict())
    differences = Differences(module.named_parameters())
    optimizer = make_optimizer("adamw", differences.named_parameters(), lr=0.1, weight_decay=1.0)
    for step in range(3):
        learn(module, differences, optimizer, step)
    before = {key: each.clone() for key, each in differences.state_dict().items()}
    for delta in dict(differences.named_parameters()).values():
        delta.grad = torch.zeros_like(delta)
    for group in optimizer.param_groups:
        group["betas"] = (0.0, 0.0)  # no momentum: nothing but the decay is left
    optimizer.step()
    differences.write_weights()
    for key, weight in module.named_parameters():
        torch.testing.assert_close(weight.detach(), base[key] + 0.9 * before[key])


def test_what_is_frozen_is_left_alone():
    module = model()
    module[0].weight.requires_grad_(False)
    differences = Differences(module.named_parameters())
    names = [name for name, _ in differences.named_parameters()]
    assert names == ["0.bias", "2.weight", "2.bias"]
    module.requires_grad_(False)
    with pytest.raises(InputError, match="no weights"):
        Differences(module.named_parameters())


def test_gradients_add_up_in_float32_until_they_are_zeroed():
    module = model()
    differences = Differences(module.named_parameters())
    deltas = dict(differences.named_parameters())
    one, small = torch.ones_like(module[0].bias), torch.full_like(module[0].bias, 2**-12)
    for grad in (one, small, small):  # in bfloat16, 1 + 2**-12 is 1
        module[0].bias.grad = grad.clone()
        differences.collect_gradients()
    assert deltas["0.bias"].grad.dtype == torch.float32
    assert torch.equal(deltas["0.bias"].grad, torch.full((10,), 1 + 2**-11))
    assert deltas["2.weight"].grad is None
    for delta in deltas.values():
        delta.grad = None
    differences.collect_gradients()
    assert deltas["0.bias"].grad is None


def test_a_saved_difference_resumes_to_identical_weights():
    module = model()
    differences = Differences(module.named_parameters())
    optimizer = make_optimizer("apollo", differences.named_parameters(), lr=1e-2, rank=2)
    for step in range(3):
        learn(module, differences, optimizer, step)
    kept, state = copy.deepcopy((differences.state_dict(), optimizer.state_dict()))
    for step in range(3, 6):
        learn(module, differences, optimizer, step)

    other = model()
    again = Differences(other.named_parameters())
    again.load_state_dict(kept)
    again.write_weights()
    resumed = make_optimizer("apollo", again.named_parameters(), lr=1e-2, rank=2)
    resumed.load_state_dict(state)
    for step in range(3, 6):
        learn(other, again, resumed, step)
    for key, delta in differences.state_dict().items():
        assert torch.equal(delta, again.state_dict()[key])
        assert torch.equal(module.state_dict()[key], other.state_dict()[key])


def test_a_difference_of_another_model_is_refused_whole():
    differences = Differences(model().named_parameters())
    kept = {key: torch.ones_like(each) for key, each in differences.state_dict().items()}
    with pytest.raises(InputError, match=r"2\.bias"):
        differences.load_state_dict({k: v for k, v in kept.items() if k != "2.bias"})
    with pytest.raises(InputError, match="extra"):
        differences.load_state_dict(kept | {"extra": torch.ones(1)})
    with pytest.raises(InputError, match=r"\(7,\), not \(3,\)"):
        differences.load_state_dict(kept | {"2.bias": torch.ones(7)})
    assert not any(each.any() for each in differences.state_dict().values())
