"""Table 10 of arXiv:2412.05270 on a small problem: its order of sharpness does not show there.

A Qwen3 of 0.1 M parameters learns to copy what a Markov chain said. The paper finds, from sharp to
flat, SGD, Adam, Apollo, Apollo-Mini. Here AdamW is the flattest, because its momentum averages over
batches and Apollo's direction is one gradient's; without momentum it is near Apollo.
"""

from functools import partial

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tvc.optimizers.apollo import is_projected
from tvc.optimizers.building import make_optimizer
from tvc.optimizers.readings import compare_sharpness, summarize
from tvc.optimizers.sharpness import measure_sharpness

WORDS, LENGTH, ROWS = 64, 16, 16


def batch(number):
    chain = torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(9))
    chances = torch.softmax(chain * 2.5, -1)
    generator = torch.Generator().manual_seed(number)
    words = [torch.randint(0, WORDS, (ROWS,), generator=generator)]
    for _ in range(LENGTH - 1):
        words.append(torch.multinomial(chances[words[-1]], 1, generator=generator)[:, 0])
    said = torch.stack(words, dim=1)
    return torch.cat([said, said], dim=1)


@pytest.mark.slow
def test_the_order_of_the_paper(record_property):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config).eval()

    def loss(words):
        return model(input_ids=words, labels=words).loss

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    for number in range(150):
        loss(batch(number)).backward()
        optimizer.step()
        optimizer.zero_grad()
    made = {
        name: partial(make_optimizer, name, lr=1.0, rank=16)
        for name in ("sgd", "adamw", "apollo", "apollo-mini")
    }
    made["adamw, no momentum"] = partial(make_optimizer, "adamw", lr=1.0, betas=(0.0, 0.999))
    found = measure_sharpness(
        loss,
        [(name, each) for name, each in model.named_parameters() if is_projected(name, each.shape)],
        [batch(1000 + number) for number in range(37)],
        optimizers=made,
        warmup=20,
        lr=3e-3,
    )
    for name, readings in found.items():
        summary = summarize(readings)
        bounds = "{0.mean:.3f} [{0.low:.3f}, {0.high:.3f}]"
        decrease = bounds.format(summary.decrease)
        record_property(f"sharpness of {name}", bounds.format(summary.curvature))
        record_property(f"best decrease of {name}", decrease)
    for sharper, flatter in (
        ("sgd", "apollo-mini"),
        ("apollo-mini", "apollo"),
        ("apollo", "adamw"),
    ):
        assert compare_sharpness(found[sharper], found[flatter]).low > 0, (sharper, flatter)
    # The flattest direction is the worst one.
    decreases = {name: summarize(readings).decrease.mean for name, readings in found.items()}
    assert min(decreases, key=decreases.__getitem__) == "adamw"
