"""A frozen context: the same logits, the gradient with the context detached, and nothing written."""

from typing import Any

import pytest
import torch
from reference import detached_loss, whole_logits
from tiny_models import (
    ARCHITECTURES,
    BACK_ENDS,
    DELTA_NETS,
    PAD,
    WINDOW,
    apart,
    example,
    gradients,
    near,
    tiny,
)

from tvc.dialogues.example import Example
from tvc.training.prefix import Prefix, UnsupportedModel, freeze, new_cache
from tvc.training.tiers import Tier, decision_logits, decision_loss

BATCH = [
    example(9, 3, 5, seed=1),
    example(20, 1, seed=2),
    example(1, 4, seed=3),
    example(2, 2, seed=4),
    example(70, 6, 1, 1, seed=5),
]
"""Contexts of one token, within and beyond windows and chunks; several decisions, also of one token."""


each_back_end = pytest.mark.parametrize(("name", "attention"), BACK_ENDS)
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def frozen(model: Any, examples: list[Example], *, checkpoint_decisions: bool = False) -> Any:
    return decision_loss(
        model,
        examples,
        tier=Tier.FROZEN_CONTEXT,
        pad=PAD,
        checkpoint_decisions=checkpoint_decisions,
    )


def frozen_gradients(
    model: Any, examples: list[Example], **options: Any
) -> dict[str, torch.Tensor]:
    frozen(model, examples, **options).total.backward()
    return gradients(model)


@each_back_end
@torch.no_grad()
def test_logits_are_those_of_one_full_pass(name: str, attention: str) -> None:
    model = tiny(name, attention)
    found, _ = decision_logits(model, BATCH, tier=Tier.FROZEN_CONTEXT, pad=PAD)
    expected = torch.cat(
        [whole_logits(model, each.context, d) for each in BATCH for d in each.decisions]
    )
    assert (found - expected).abs().max() < (6e-5 if name in DELTA_NETS else 5e-6)


@each_back_end
def test_gradients_are_those_with_the_context_detached(name: str, attention: str) -> None:
    model = tiny(name, attention)
    for each in BATCH:
        detached_loss(model, each).backward()
        expected = gradients(model)
        assert apart(frozen_gradients(model, [each]), expected) < near(name)


@each_architecture
def test_the_gradient_is_not_the_full_one(name: str) -> None:
    """Or the law above would say nothing."""
    model = tiny(name)
    decision_loss(model, [BATCH[4]], tier=Tier.FULL, pad=PAD).total.backward()
    full = gradients(model)
    assert apart(frozen_gradients(model, [BATCH[4]]), full) > 0.1


@each_back_end
def test_a_padded_batch_is_the_sum_of_its_examples(name: str, attention: str) -> None:
    model = tiny(name, attention)
    together = frozen_gradients(model, BATCH)
    for each in BATCH:
        frozen(model, [each]).total.backward()
    assert apart(together, gradients(model)) < near(name)


@each_architecture
def test_several_decisions_are_each_of_them_alone(name: str) -> None:
    model = tiny(name)
    each = example(30, 4, 2, 7, seed=8)
    together = frozen_gradients(model, [each])
    for decision in each.decisions:
        frozen(model, [Example(each.context, (decision,), each.source)]).total.backward()
    assert apart(together, gradients(model)) < near(name)


@each_architecture
def test_several_decisions_encode_their_context_once(name: str) -> None:
    model = tiny(name)
    shapes: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: shapes.append(tuple(output.shape[:2]))
    )
    frozen(model, [example(30, 4, 2, 7, seed=8)])
    assert shapes == [(1, 29), (3, 7)]


@each_architecture
def test_checkpointing_the_decision_changes_nothing(name: str) -> None:
    model = tiny(name)
    plain = frozen_gradients(model, BATCH)
    twice = frozen_gradients(model, BATCH, checkpoint_decisions=True)
    assert plain.keys() == twice.keys()
    assert all(torch.equal(plain[key], twice[key]) for key in plain)


@each_architecture
def test_checkpointing_the_decision_keeps_less(name: str) -> None:
    model = tiny(name)
    assert kept(model, checkpoint_decisions=True) < 0.5 * kept(model, checkpoint_decisions=False)


def kept(model: Any, *, checkpoint_decisions: bool) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        frozen(model, [example(40, 20)], checkpoint_decisions=checkpoint_decisions)
    return sum(sizes.values())


@each_architecture
@pytest.mark.parametrize("length", [1, 5])
def test_nothing_is_written(name: str, length: int) -> None:
    """Two passes and a backward through the first leave every bit of the prefix."""
    model = tiny(name)
    prefix = encoded(model, length=12)
    before = [tensor.clone() for tensor in tensors(prefix)]
    assert before

    def loss() -> torch.Tensor:
        tokens = torch.arange(3, 3 + length)[None]
        return (
            model(
                input_ids=tokens,
                attention_mask=torch.ones(1, 12 + length, dtype=torch.long),
                position_ids=torch.arange(12, 12 + length)[None],
                past_key_values=prefix,
                use_cache=True,
            )
            .logits.logsumexp(-1)
            .sum()
        )

    first = loss()
    second = loss()
    first.backward()
    assert torch.equal(first, second)
    assert not any(tensor.requires_grad for tensor in tensors(prefix))
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(prefix), strict=True))


def encoded(model: Any, *, length: int) -> Prefix:
    cache = new_cache(model.config)
    with torch.no_grad():
        model(input_ids=torch.arange(4, 4 + length)[None], past_key_values=cache, use_cache=True)
    return freeze(cache, rows=[0])


def tensors(prefix: Prefix) -> list[torch.Tensor]:
    found: list[Any] = []
    for layer in prefix.layers:
        states = (getattr(layer, name, {}) for name in ("conv_states", "recurrent_states"))
        found += [layer.keys, layer.values] if hasattr(layer, "keys") else []
        found += [state for each in states for state in each.values()]
    return [each for each in found if each is not None]


def test_a_window_keeps_only_what_it_sees() -> None:
    prefix = encoded(tiny("mistral-window"), length=40)
    for tensor in tensors(prefix):
        assert tensor.shape[-2] == WINDOW - 1
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_an_empty_cache_is_refused() -> None:
    cache = new_cache(tiny("llama").config)
    with pytest.raises(UnsupportedModel, match="leaves layers of its cache empty"):
        freeze(cache, rows=[0])


@each_architecture
def test_in_bf16_freezing_adds_no_error(name: str) -> None:
    half = tiny(name, dtype=torch.bfloat16)
    exact = tiny(name)
    exact.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    right = logits(exact, Tier.FULL)
    plain, found = (error(logits(half, tier), right) for tier in (Tier.FULL, Tier.FROZEN_CONTEXT))
    assert found < 1.5 * plain + 0.01
    assert all(each.isfinite().all() for each in frozen_gradients(half, BATCH).values())


@torch.no_grad()
def logits(model: Any, tier: Tier) -> torch.Tensor:
    return decision_logits(model, BATCH, tier=tier, pad=PAD)[0].float()


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())
