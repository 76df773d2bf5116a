"""Generation: greedy as the plain loop, sampled as the softmax, and each row for itself."""

import math

import pytest
import torch
from toys import toy_hybrid, toy_model, word_tokenizer
from transformers import GenerationConfig

from tvc.dialogues.generation import Sampling, _Noise, end_ids, generate, row_seed
from tvc.domain.errors import InputError

TOKENIZER = word_tokenizer()
MODEL = toy_model(TOKENIZER, seed=3)
PROMPTS = [
    tuple(TOKENIZER(text)["input_ids"])
    for text in (
        "<bos> <user> lets go <end> <assistant>",
        "a",
        "the red boat the blue boat c d",
        "yes no",
    )
]


@torch.no_grad()
def plain_greedy(prompt: tuple[int, ...], limit: int, model=MODEL) -> list[int]:
    """One row, no cache, no padding."""
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == TOKENIZER.eos_token_id:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("model", [MODEL, toy_hybrid(TOKENIZER)], ids=["attention", "hybrid"])
def test_greedy_is_the_likeliest_word_after_word(model) -> None:
    """Padding must not reach the states of gated delta nets, nor shift positions."""
    told: list[int] = []
    found = generate(
        model, TOKENIZER, PROMPTS, sampling=Sampling(tokens=12), batch=3, on_said=told.append
    )
    for said, prompt in zip(found, PROMPTS, strict=True):
        ids = plain_greedy(prompt, 12, model)
        assert said.ids == tuple(ids)
        assert said.ended == (ids[-1] == TOKENIZER.eos_token_id)
        assert said.text == TOKENIZER.decode(ids, skip_special_tokens=True).strip()
    assert told == [3, 1]


def test_a_row_says_the_same_in_every_batch_and_order() -> None:
    sampling = Sampling(tokens=10, temperature=1.0, seed=5)
    seeds = [row_seed(5, n) for n in range(len(PROMPTS))]
    together = generate(MODEL, TOKENIZER, PROMPTS, sampling=sampling)
    assert generate(MODEL, TOKENIZER, PROMPTS, sampling=sampling, batch=1) == together
    backwards = generate(
        MODEL, TOKENIZER, PROMPTS[::-1], sampling=sampling, seeds=seeds[::-1], batch=2
    )
    assert backwards[::-1] == together
    alone = generate(MODEL, TOKENIZER, [PROMPTS[2]], sampling=sampling, seeds=[seeds[2]])
    assert alone == [together[2]]


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    sampling = Sampling(tokens=10, temperature=1.0, seed=5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(MODEL, TOKENIZER, PROMPTS, sampling=sampling)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert generate(MODEL, TOKENIZER, PROMPTS, sampling=sampling) == first
    other = generate(
        MODEL, TOKENIZER, PROMPTS, sampling=Sampling(tokens=10, temperature=1.0, seed=6)
    )
    assert other != first


@pytest.mark.parametrize(("temperature", "top_p"), [(6.0, 1.0), (2.0, 1.0), (4.0, 0.6)])
def test_samples_are_drawn_from_the_softmax(temperature: float, top_p: float) -> None:
    count = 8000
    with torch.no_grad():
        logits = MODEL(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1)
    order = expected.argsort(descending=True)
    kept = expected[order].cumsum(0) - expected[order] < top_p
    expected[order[~kept]] = 0
    expected *= count / expected.sum()
    sampling = Sampling(tokens=1, temperature=temperature, top_p=top_p)
    found = generate(MODEL, TOKENIZER, [PROMPTS[0]] * count, sampling=sampling, batch=2000)
    drawn = torch.zeros(len(TOKENIZER), dtype=torch.float64)
    for said in found:
        drawn[said.ids[0]] += 1
    assert not drawn[expected == 0].any()
    there = expected > 0
    square = float(((drawn - expected)[there] ** 2 / expected[there]).sum())
    freedom = int(there.sum()) - 1
    # Pearson's statistic has the mean `freedom` and the variance twice that.
    assert square < freedom + 5 * math.sqrt(2 * freedom)


def test_noise_draws_between_a_few_words_as_the_softmax() -> None:
    """Among few words the low side of the noise matters too."""
    count, scores = 20_000, torch.tensor([0.0, 1.0, -0.5])
    noise = _Noise(Sampling(temperature=2.0), [row_seed(1, n) for n in range(count)])
    drawn = noise(torch.zeros(count, 1), scores.expand(count, 3)).argmax(-1)
    for word, p in enumerate((scores / 2).softmax(-1).tolist()):
        share = float((drawn == word).double().mean())
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / count)


def test_settings_of_the_model_are_not_ours() -> None:
    expected = generate(MODEL, TOKENIZER, PROMPTS, sampling=Sampling(tokens=8))
    theirs = GenerationConfig(
        do_sample=True,
        repetition_penalty=9.0,
        num_beams=3,
        min_new_tokens=7,
        bad_words_ids=[[n] for n in range(9, 20)],
    )
    before = MODEL.generation_config
    MODEL.generation_config = theirs
    try:
        assert generate(MODEL, TOKENIZER, PROMPTS, sampling=Sampling(tokens=8)) == expected
        assert MODEL.generation_config is theirs
    finally:
        MODEL.generation_config = before


def test_every_id_that_ends_a_turn_ends_it() -> None:
    before = MODEL.generation_config
    first = plain_greedy(PROMPTS[2], 1)[0]
    MODEL.generation_config = GenerationConfig(eos_token_id=[first])
    try:
        assert end_ids(MODEL, TOKENIZER) == tuple(sorted({first, TOKENIZER.eos_token_id}))
        (said,) = generate(MODEL, TOKENIZER, [PROMPTS[2]], sampling=Sampling(tokens=8))
    finally:
        MODEL.generation_config = before
    assert said == ("", True, (first,))


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_numbers_out_of_range_are_refused(options) -> None:
    with pytest.raises(InputError):
        Sampling(**options)
