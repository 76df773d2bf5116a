"""Sharpness along directions: exact products against what they are the limit of."""

import copy
import math
import random
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tvc.domain.errors import InputError
from tvc.optimizers.apollo import is_projected
from tvc.optimizers.building import OPTIMIZERS, make_optimizer
from tvc.optimizers.readings import (
    Interval,
    Reading,
    compare_sharpness,
    mean_interval,
    summarize,
)
from tvc.optimizers.sharpness import (
    NoSecondDerivative,
    directional_sharpness,
    estimate_sharpness,
    exact_attention,
    measure_sharpness,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.15,
}
KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def toy(kind="qwen3"):
    config, model = KINDS[kind]
    torch.manual_seed(0)
    return model(config(**SIZES)).eval()


def matrices(model):
    return [(n, w) for n, w in model.named_parameters() if is_projected(n, w.shape)]


def batches(count):
    generator = torch.Generator().manual_seed(7)
    starts = [torch.randint(0, 40, (4, 1), generator=generator) for _ in range(count)]
    return [(start + 3 * torch.arange(12)) % 40 for start in starts]


def made(*names):
    return {name: partial(make_optimizer, name, lr=1.0, rank=4) for name in names}


def loss_of(model):
    return lambda batch: model(input_ids=batch, labels=batch).loss


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_a_parabola_has_its_own_curvature(seed, size):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    hessian, start = matrix + matrix.T, torch.randn(size, generator=generator, dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    way = torch.randn(size, generator=generator, dtype=torch.float64)
    unit = way / way.norm()

    def loss():
        return weight @ hessian @ weight / 2

    exact = directional_sharpness(loss(), [weight], [[way], [-3 * way]])
    assert exact[0].curvature == pytest.approx((unit @ hessian @ unit).item(), abs=1e-9)
    assert exact[0].slope == pytest.approx((hessian @ start @ unit).item(), abs=1e-9)
    assert exact[1].curvature == pytest.approx(exact[0].curvature, abs=1e-9)
    assert exact[1].slope == pytest.approx(-exact[0].slope, abs=1e-9)
    if abs(exact[0].curvature) < 1e-3 or abs(loss().item()) < 1e-3:
        return  # no distance at which it could be read off
    (estimated,) = estimate_sharpness(loss, [weight], [[way]])
    assert estimated.curvature == pytest.approx(exact[0].curvature, rel=1e-6)
    assert estimated.slope == pytest.approx(exact[0].slope, rel=1e-6, abs=1e-8)
    assert torch.equal(weight, start)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_the_differences_of_gradients(kind):
    model = toy(kind)
    weights = [weight for _, weight in matrices(model)]
    (batch,) = batches(1)
    way = torch.autograd.grad(loss_of(model)(batch), weights)
    length = math.sqrt(sum(each.square().sum().item() for each in way))
    with exact_attention():
        (found,) = directional_sharpness(loss_of(model)(batch), weights, [way])
    ahead, behind = (moved_gradient(model, batch, weights, way, sign) for sign in (1e-3, -1e-3))
    products = [(a - b) / 2e-3 for a, b in zip(ahead, behind, strict=True)]
    expected = sum((p * w).sum().item() for p, w in zip(products, way, strict=True)) / length**2
    assert found.curvature == pytest.approx(expected, rel=0.01)
    assert abs(expected) > 0.1  # something was compared


def moved_gradient(model, batch, weights, way, distance):
    with torch.no_grad():
        for weight, each in zip(weights, way, strict=True):
            weight.add_(each, alpha=distance)
    gradient = torch.autograd.grad(loss_of(model)(batch), weights)
    with torch.no_grad():
        for weight, each in zip(weights, way, strict=True):
            weight.sub_(each, alpha=distance)
    return gradient


def test_the_fused_kernel_has_no_second_derivative():
    model = toy()
    weights = [weight for _, weight in matrices(model)]
    loss = loss_of(model)(batches(1)[0])
    with pytest.raises(NoSecondDerivative, match="not implemented"):
        directional_sharpness(loss, weights, [weights])


def test_forward_passes_estimate_what_products_are():
    model = toy()
    measure = partial(
        measure_sharpness,
        loss_of(model),
        optimizers=made(*OPTIMIZERS),
        warmup=10,
        lr=3e-3,
    )
    start = copy.deepcopy(model.state_dict())
    exact = measure(matrices(model), batches(17))
    model.load_state_dict(start)
    estimated = measure(matrices(model), batches(17), estimate=True)
    for name in OPTIMIZERS:
        for one, two in zip(exact[name], estimated[name], strict=True):
            assert two.curvature == pytest.approx(one.curvature, rel=0.02, abs=0.005)
            assert two.slope == pytest.approx(one.slope, rel=0.01, abs=0.001)


def test_directions_are_those_of_the_optimizers_on_the_trajectory():
    model, other = toy(), toy()
    named, data = matrices(model), batches(6)
    with exact_attention():
        found = measure_sharpness(
            loss_of(model), named, data, optimizers=made("adamw", "sgd"), warmup=3, lr=0.01
        )
    # The same by hand: real AdamW steps, and readings before each on the batch after it.
    weights = [weight for _, weight in matrices(other)]
    optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0)
    expected = {"adamw": [], "sgd": []}
    for number in range(5):
        gradient = torch.autograd.grad(loss_of(other)(data[number]), weights)
        before = [weight.detach().clone() for weight in weights]
        for weight, grad in zip(weights, gradient, strict=True):
            weight.grad = grad
        optimizer.step()
        after = [weight.detach().clone() for weight in weights]
        step = [two - one for one, two in zip(before, after, strict=True)]
        if number >= 3:
            put(weights, before)
            with exact_attention():
                loss = loss_of(other)(data[number + 1])
                ways = [step, [-grad for grad in gradient]]
                readings = directional_sharpness(loss, weights, ways)
            expected["adamw"].append(readings[0])
            expected["sgd"].append(readings[1])
            put(weights, after)
    for name, readings in expected.items():
        assert len(found[name]) == 2
        for one, two in zip(found[name], readings, strict=True):
            assert one.curvature == pytest.approx(two.curvature, rel=1e-3)
            assert one.slope == pytest.approx(two.slope, rel=1e-3)
    for weight, (_, end) in zip(weights, named, strict=True):
        torch.testing.assert_close(weight, end, rtol=1e-3, atol=1e-4)


def put(weights, values):
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)


def test_weights_have_their_values_again_after_an_error():
    weight = nn.Parameter(torch.ones(3))

    def fails():
        if not torch.equal(weight, torch.ones(3)):
            raise MemoryError
        return weight.sum()

    with pytest.raises(MemoryError):
        estimate_sharpness(fails, [weight], [[torch.ones(3)]])
    assert torch.equal(weight, torch.ones(3))


def test_what_cannot_be_measured_is_refused():
    model = toy()
    measure = partial(measure_sharpness, loss_of(model), matrices(model), lr=1e-3)
    with pytest.raises(InputError, match="3 batches are too few for 2 steps"):
        measure(batches(3), optimizers=made("sgd"), warmup=2)
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(InputError, match="loss of batch 1 is nan"):
        measure(batches(3), optimizers=made("sgd"), warmup=1)
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(InputError, match="length 0"):
        directional_sharpness(weight.square().sum(), [weight], [[torch.zeros(3)]])


def test_a_weight_that_is_not_used_is_flat():
    used, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    ones = [torch.ones(2), torch.ones(2)]
    (found,) = directional_sharpness(used.square().sum(), [used, idle], [ones])
    assert found.curvature == pytest.approx(1)  # 2 along one half of the direction
    (flat,) = directional_sharpness(used.sum(), [used, idle], [ones])
    assert flat.curvature == 0
    assert flat.decrease == math.inf


@pytest.mark.parametrize(
    ("count", "quantile"), [(3, 4.3027), (4, 3.1824), (10, 2.2622), (30, 2.0452)]
)
def test_intervals_are_students(count, quantile):
    values = [float(number) for number in range(count)]
    mean = (count - 1) / 2
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    found = mean_interval(values)
    assert found.mean == mean
    half = quantile * deviation / math.sqrt(count)
    assert found.high - mean == pytest.approx(half, rel=0.04)
    assert mean - found.low == pytest.approx(half, rel=0.04)


def test_an_interval_of_too_few_values_is_infinite():
    for values in ([1.0], [1.0, 2.0]):
        found = mean_interval(values)
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert not found.excludes_zero


def test_summaries_cover_the_truth_as_often_as_they_say():
    drawn = random.Random(5)
    hits = {"curvature": 0, "decrease": 0}
    for _ in range(300):
        readings = [Reading(drawn.gauss(-2, 0.5), drawn.gauss(4, 1)) for _ in range(8)]
        found = summarize(readings)
        hits["curvature"] += found.curvature.low <= 4 <= found.curvature.high
        hits["decrease"] += found.decrease.low <= 0.5 <= found.decrease.high
    assert 0.9 <= hits["curvature"] / 300 <= 0.99
    assert 0.88 <= hits["decrease"] / 300 <= 0.99


def test_a_decrease_without_end_has_no_bounds():
    found = summarize([Reading(-1, -1), Reading(-1, -2), Reading(-1, -1)])
    assert found.decrease.mean == math.inf
    assert not math.isfinite(found.decrease.high)
    found = summarize([Reading(-1, 1)])
    assert found.decrease == Interval(0.5, -math.inf, math.inf)


def test_differences_are_taken_batch_by_batch():
    levels = (0, 50, -50, 20)
    steep = [Reading(0, 100 + level + 1) for level in levels]
    flat = [Reading(0, 100 + level + number / 10) for number, level in enumerate(levels)]
    found = compare_sharpness(steep, flat)
    assert found.excludes_zero
    assert found.mean == pytest.approx(0.85)
    assert not compare_sharpness(steep, list(reversed(steep))).excludes_zero
