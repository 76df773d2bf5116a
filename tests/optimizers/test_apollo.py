"""Apollo against its equations, and what it must survive."""

import copy
import math
from functools import partial

import pytest
import torch
from apollo_equations import train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tvc.domain.errors import InputError
from tvc.optimizers.apollo import Apollo, draw_projection, is_projected


def gradients(shape, count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(count, generator=generator) * 3 + 0.1
    return [torch.randn(shape, generator=generator) * size for size in sizes]


def drawn(seed, name, expert=None):
    return lambda refresh, rank, size: draw_projection(
        seed=seed, name=name, refresh=refresh, rank=rank, size=size, expert=expert
    )


def steps(optimizer, weight, grads):
    for grad in grads:
        weight.grad = grad.to(weight.dtype, copy=True)
        optimizer.step()


def displacements(grads, start, **options):
    """Return how far each step moved a weight."""
    weight = nn.Parameter(start.clone())
    optimizer = Apollo([("w", weight)], **options)
    found = []
    for grad in grads:
        before = weight.detach().clone()
        weight.grad = grad.clone()
        optimizer.step()
        found.append((weight.detach() - before).norm().item())
    return found


@settings(max_examples=25)
@given(
    rows=st.integers(2, 24),
    columns=st.integers(2, 24),
    rank=st.integers(1, 8),
    decay=st.sampled_from([0.0, 0.3]),
    refresh=st.integers(1, 9),
    paper=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_steps_are_those_of_the_equations(rows, columns, rank, decay, refresh, paper, seed):
    extras = {"keep": 0.0, "floor": 0.0} if paper else {}
    start = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).double()
    grads = gradients(start.shape, 20, seed=seed)
    weight = nn.Parameter(start.clone())
    options = {"lr": 0.01, "rank": rank, "refresh": refresh, **extras}
    steps(Apollo([("a.b", weight)], weight_decay=decay, seed=seed, **options), weight, grads)
    expected = train(start, grads, drawn(seed, "a.b"), decay=decay, **options)
    moved = (expected - start).norm()
    assert (weight - expected).norm() <= 1e-5 * moved


@pytest.mark.parametrize("shape", [(3, 8, 5), (3, 5, 8)])
@pytest.mark.parametrize("rank", [1, 3])
def test_every_expert_is_a_matrix_of_its_own(shape, rank):
    start = torch.randn(shape).double()
    grads = gradients(shape, 12)
    weight = nn.Parameter(start.clone())
    steps(Apollo([("experts", weight)], lr=0.01, rank=rank, refresh=5), weight, grads)
    for expert in range(shape[0]):
        expected = train(
            start[expert],
            [grad[expert] for grad in grads],
            drawn(0, "experts", expert),
            lr=0.01,
            rank=rank,
            refresh=5,
        )
        assert (weight[expert] - expected).norm() <= 1e-5 * (expected - start[expert]).norm()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("norm.weight", (7,)),
        ("scale", ()),
        ("conv1d.weight", (6, 1, 4)),
        ("gate.weight", (1, 9)),
        ("model.embed_tokens.weight", (9, 4)),
        ("lm_head.weight", (9, 4)),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_what_is_not_projected_is_updated_by_adamw(name, shape, kind):
    start = torch.randn(shape, dtype=kind)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    grads = gradients(shape, 15)
    options = {"lr": 0.01, "weight_decay": 0.1}
    steps(Apollo([(name, ours)], **options), ours, grads)
    steps(torch.optim.AdamW([theirs], foreach=False, **options), theirs, grads)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_matrices_and_experts_are_projected():
    assert is_projected("model.layers.0.mlp.up_proj.weight", (8, 4))
    assert is_projected("model.layers.0.mlp.experts.down_proj", (3, 8, 4))
    assert not is_projected("visual.patch_embed.proj.weight", (8, 3, 2, 4, 4))


def test_the_scale_is_that_of_channel_wise_adamw():
    """Theorem 4.2, and why alpha is sqrt(m/r): equal sizes in r directions and in all m."""
    shape = (256, 1024)
    grads = gradients(shape, 4)
    free = {"lr": 1.0, "limit": math.inf, "floor": 0.0}
    whole, low, mini = (
        displacements(grads, torch.zeros(shape), rank=rank, **free)[-1] for rank in (256, 32, 1)
    )
    assert low == pytest.approx(whole, rel=0.03)
    assert mini == pytest.approx(whole, rel=0.1)


def test_projections_are_keyed_by_seed_name_refresh_and_expert():
    base = {"seed": 1, "name": "a", "refresh": 0, "rank": 4, "size": 64}
    first = draw_projection(**base)
    torch.manual_seed(5)  # nothing of the outside means anything
    assert torch.equal(first, draw_projection(**base))
    for other in ({"seed": 2}, {"name": "b"}, {"refresh": 1}, {"expert": 0}):
        assert not torch.equal(first, draw_projection(**base | other))
    assert first.square().mean().item() == pytest.approx(1 / 4, rel=0.2)


def test_the_order_of_parameters_means_nothing():
    shapes = {"a": (6, 4), "b": (4, 9), "c": (5, 5), "d": (3,)}
    results = []
    for names in (list(shapes), list(reversed(shapes))):
        weights = {name: nn.Parameter(torch.ones(shapes[name])) for name in names}
        optimizer = Apollo(weights.items(), lr=0.01, rank=2)
        for index, (name, weight) in enumerate(sorted(weights.items())):
            steps(optimizer, weight, gradients(shapes[name], 3, seed=index))
            weight.grad = None
        results.append(weights)
    assert all(torch.equal(results[0][name], results[1][name]) for name in shapes)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("when", [0, 20])
def test_a_zero_gradient_does_no_harm(rank, when):
    shape = (16, 32)
    grads = gradients(shape, 60)
    silent = [*grads[:when], *[torch.zeros(shape)] * 3, *grads[when:]]
    usual = displacements(grads, torch.zeros(shape), lr=0.1, rank=rank)
    found = displacements(silent, torch.zeros(shape), lr=0.1, rank=rank)
    assert found[when : when + 3] == [0, 0, 0]
    assert all(map(math.isfinite, found))
    # 10 steps later it moves as it would have.
    assert sum(found[when + 13 :]) > 0.5 * sum(usual[when + 10 :])


@pytest.mark.parametrize("rank", [1, 4])
def test_a_tiny_gradient_makes_a_tiny_step(rank):
    shape = (16, 32)
    noise = torch.randn(shape) * 1e-5
    grads = [*[torch.randn(shape) for _ in range(30)], noise]
    run = partial(displacements, grads, torch.zeros(shape), lr=0.1, rank=rank)
    found, paper = run(), run(floor=0.0, keep=0.0)
    assert found[-1] < 1e-4 * found[-2]
    assert paper[-1] > 0.3 * paper[-2]  # what the floor is for


def test_a_matrix_is_not_held_back_after_a_tiny_gradient():
    shape = (16, 32)
    grads = [torch.randn(shape) for _ in range(60)]
    grads[30] *= 1e-5
    run = partial(displacements, grads, torch.zeros(shape), lr=0.1, rank=4)
    assert run()[40] > 0.7 * run()[29]
    assert run(keep=0.0)[59] < 1e-3 * run()[59]  # what the reference keeps is for this


def test_an_expert_that_was_idle_moves_when_it_is_asked():
    shape = (2, 16, 8)
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = Apollo([("experts", weight)], lr=0.1, rank=2)
    grads = gradients(shape, 20)
    for grad in grads[:10]:
        grad[1] = 0
    steps(optimizer, weight, grads[:10])
    assert not weight[1].any()
    steps(optimizer, weight, grads[10:])
    assert weight.isfinite().all()
    assert weight[1].norm() > 0.2 * weight[0].norm()


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=30), st.integers(1, 3))
def test_the_norm_grows_by_one_percent_at_most(sizes, rank):
    """Of the largest before, of which 1 % is forgotten at every step."""
    grads = [grad * 10**size for grad, size in zip(gradients((8, 8), 30), sizes, strict=False)]
    found = displacements(grads, torch.zeros(8, 8), lr=1.0, rank=rank)
    most = found[0]
    for size in found[1:]:
        assert size <= 1.0101 * most
        most = max(size, 0.99 * most)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_saved_state_resumes_to_identical_steps(kind):
    shapes = {"a": (6, 4), "b": (3, 4, 9), "c": (5, 5), "d": (3,), "embed.weight": (9, 4)}
    start = {name: torch.randn(shape).to(kind) for name, shape in shapes.items()}
    grads = {name: [g.to(kind) for g in gradients(s, 20)] for name, s in shapes.items()}

    def run(optimizer, weights, between):
        for step in between:
            for name, weight in weights.items():
                weight.grad = grads[name][step].clone()
            optimizer.step()

    def begin(values):
        weights = {name: nn.Parameter(value.clone()) for name, value in values.items()}
        return Apollo(weights.items(), lr=0.01, rank=2, refresh=3), weights

    optimizer, weights = begin(start)
    run(optimizer, weights, range(8))
    kept, values = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(dict(weights))
    run(optimizer, weights, range(8, 20))
    again, resumed = begin(values)
    again.load_state_dict(kept)
    for weight, state in again.state.items():
        assert {value.dtype for value in state.values()} == {torch.float32}, weight.shape
    run(again, resumed, range(8, 20))
    assert all(torch.equal(weights[name], resumed[name]) for name in shapes)


def test_a_state_of_other_parameters_is_refused():
    one, two = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    optimizer = Apollo([("a", one), ("b", two)], lr=0.1)
    other = Apollo([("b", two), ("a", one)], lr=0.1)
    with pytest.raises(InputError, match="other parameters"):
        optimizer.load_state_dict(other.state_dict())


def test_weights_in_bfloat16_are_rounded_once():
    start = torch.randn(12, 20).bfloat16()
    grad = torch.randn(12, 20).bfloat16()
    rounded, exact = nn.Parameter(start.clone()), nn.Parameter(start.float())
    for weight in (rounded, exact):
        steps(Apollo([("w", weight)], lr=0.1, rank=4, weight_decay=0.1), weight, [grad.to(weight)])
    assert torch.equal(rounded.detach(), exact.detach().bfloat16())


def test_state_is_small():
    weight = nn.Parameter(torch.zeros(64, 512))
    optimizer = Apollo([("w", weight)], lr=0.1, rank=4)
    steps(optimizer, weight, [torch.ones(64, 512)])
    assert sum(value.numel() for value in optimizer.state[weight].values()) == 2 * 4 * 512 + 2


def test_parameters_without_names_are_refused():
    with pytest.raises(TypeError, match="named_parameters"):
        Apollo([nn.Parameter(torch.ones(2, 2))], lr=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1},
        {"lr": math.nan},
        {"rank": 0},
        {"rank": 1.5},
        {"multiplier": 0},
        {"betas": (0.9, 1.0)},
        {"eps": 0},
        {"weight_decay": -0.1},
        {"refresh": 0},
        {"limit": 0.5},
        {"keep": 2},
        {"floor": -1},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(InputError, match=f"^{name} cannot be"):
        Apollo([("w", nn.Parameter(torch.ones(2, 2)))], **{"lr": 0.1} | wrong)


def test_options_of_a_group_are_checked_too():
    optimizer = Apollo([("w", nn.Parameter(torch.ones(2, 2)))], lr=0.1)
    with pytest.raises(InputError, match="rank"):
        optimizer.add_param_group({"params": [("v", nn.Parameter(torch.ones(2, 2)))], "rank": 0})


def test_a_closure_is_run_with_gradients():
    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = Apollo([("w", weight)], lr=0.1, rank=1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9
    assert weight.norm() < 3
