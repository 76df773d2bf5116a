"""The three tiers: full and checkpointed are one pass over everything, in batches as one by one."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import whole_logits
from tiny_models import (
    ARCHITECTURES,
    BACK_ENDS,
    PAD,
    VOCABULARY,
    apart,
    example,
    gradients,
    near,
    tiny,
)
from torch.nn import functional

from tvc.dialogues.example import Example
from tvc.training.tiers import Loss, Tier, choose_tier, decision_logits, decision_loss

BATCH = [
    example(9, 3, 5, seed=1),
    example(20, 1, seed=2),
    example(1, 4, seed=3),
    example(70, 6, 1, 1, seed=5),
]

each_back_end = pytest.mark.parametrize(("name", "attention"), BACK_ENDS)
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
each_tier = pytest.mark.parametrize("tier", Tier)


def loss(model: Any, examples: list[Example], tier: Tier) -> Loss:
    return decision_loss(model, examples, tier=tier, pad=PAD)


def plain_loss(model: Any, examples: list[Example]) -> torch.Tensor:
    """Return the loss by one plain pass a decision, without padding, positions or cache."""
    total = torch.zeros(())
    for each in examples:
        for decision in each.decisions:
            logits = whole_logits(model, each.context, decision)
            total = total + functional.cross_entropy(
                logits, torch.tensor(decision), reduction="sum"
            )
    return total


@each_back_end
def test_full_is_the_sum_of_plain_passes(name: str, attention: str) -> None:
    model = tiny(name, attention)
    expected = plain_loss(model, BATCH)
    expected.backward()
    plain = gradients(model)
    found = loss(model, BATCH, Tier.FULL)
    found.total.backward()
    assert found.tokens == 21
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert apart(gradients(model), plain) < near(name)


@each_architecture
def test_checkpointed_is_full_bit_for_bit(name: str) -> None:
    model = tiny(name)
    found: list[dict[str, torch.Tensor]] = []
    for tier in (Tier.FULL, Tier.CHECKPOINTED):
        loss(model, BATCH, tier).total.backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@each_architecture
def test_checkpointed_keeps_less(name: str) -> None:
    model = tiny(name)
    full, checkpointed = (kept(model, tier) for tier in (Tier.FULL, Tier.CHECKPOINTED))
    assert checkpointed < 0.5 * full


@each_architecture
def test_frozen_context_keeps_less(name: str) -> None:
    model = tiny(name)
    full, frozen = (kept(model, tier) for tier in (Tier.FULL, Tier.FROZEN_CONTEXT))
    assert frozen < 0.5 * full


def kept(model: Any, tier: Tier) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(model, [example(150, 5)], tier)
    return sum(sizes.values())


@pytest.fixture(scope="module", params=["mistral-window", "qwen3.5"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny(request.param)


@each_tier
@settings(max_examples=20)
@given(
    shape=st.lists(
        st.tuples(st.integers(1, 12), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_any_batch_is_the_sum_of_its_decisions(model: Any, tier: Tier, shape: Any) -> None:
    batch = [example(context, *decisions, seed=i) for i, (context, decisions) in enumerate(shape)]
    found = loss(model, batch, tier)
    assert found.tokens == sum(sum(decisions) for _, decisions in shape)
    assert found.total.item() == pytest.approx(plain_loss(model, batch).item(), rel=1e-5)


@each_tier
def test_logits_are_made_only_where_they_are_needed(tier: Tier) -> None:
    """Or memory would grow with the context times the vocabulary."""
    model = tiny("qwen3")
    sizes: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: sizes.append(output.numel() // VOCABULARY)
    )
    loss(model, [example(100, 7), example(50, 3)], tier)
    assert sum(sizes) <= 2 * 7 + 2  # both rows, and one column of the context pass


@each_tier
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(tier: Tier, training: bool) -> None:
    model = tiny("qwen3.5").train(training)
    model.model.norm.train(not training)  # a mode of its own
    before = [{**vars(module)} for module in model.modules()]
    loss(model, BATCH, tier)
    for module, state in zip(model.modules(), before, strict=True):
        assert vars(module).keys() == state.keys()
        assert all(vars(module)[key] is state[key] for key in state)


def test_targets_are_in_order() -> None:
    _, targets = decision_logits(tiny("llama"), BATCH, tier=Tier.FROZEN_CONTEXT, pad=PAD)
    expected = [token for each in BATCH for decision in each.decisions for token in decision]
    assert targets.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_tier
def test_the_loss_is_float32(tier: Tier, dtype: torch.dtype) -> None:
    assert loss(tiny("qwen3", dtype=dtype), BATCH[:1], tier).total.dtype == torch.float32


@pytest.mark.parametrize(
    ("lengths", "tier"),
    [
        ([(100, 20)], Tier.FULL),
        ([(492, 20)], Tier.FULL),
        ([(493, 20)], Tier.FROZEN_CONTEXT),
        ([(10, 20), (4000, 512)], Tier.FROZEN_CONTEXT),
        ([(4000, 513)], Tier.CHECKPOINTED),
        ([(4000, 20), (10, 600)], Tier.CHECKPOINTED),
    ],
)
def test_a_tier_is_chosen_by_length(lengths: list[tuple[int, int]], tier: Tier) -> None:
    examples = [
        Example((5,) * context, ((6,), (6,) * decision), "t") for context, decision in lengths
    ]
    assert choose_tier(examples) is tier
