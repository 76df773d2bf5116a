"""What a loaded model says: in batches, padded on the left, the same for the same seed.

Decoding is transformers' own, so that every architecture's cache is handled as its authors do; its
settings are ours alone, whatever generation_config.json says, but for the ids that end a turn. A
sample is the largest of the scores plus Gumbel noise, which draws from their softmax (Maddison,
Tarlow and Minka 2014, "A* Sampling", section 2), and each row's noise is drawn on the CPU from a
seed of its own: so it does not depend on the batch that a row stands in, nor on the device. Scores
do by their rounding, and a near tie may fall otherwise.
"""

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tvc.dialogues.loading import quiet
from tvc.domain.errors import InputError

__all__ = ["Said", "Sampling", "end_ids", "generate", "row_seed"]

_TINY: Final = 1e-30


class Said(NamedTuple):
    """What a model said.

    Args:
        text: Its words, without the marks of the template.
        ended: Whether it ended by itself, and not at the limit of tokens.
        ids: What it said, the id that ends the turn included; none where a server said it.
    """

    text: str
    ended: bool
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How words are chosen.

    Args:
        tokens: That may be said at most.
        temperature: 0 chooses the likeliest always.
        top_p: Share of the probability that is drawn from, the likeliest first; 1 for all.
        seed: What is drawn from.

    Raises:
        InputError: A number is out of its range.
    """

    tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"{self.tokens} tokens are too few to say something")
        if not 0 <= self.temperature <= 100:
            raise InputError(f"the temperature {self.temperature} is not between 0 and 100")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p} is not above 0 and at most 1")


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that end a turn: the tokenizer's, and those of generation_config.json."""
    config: Any = model.generation_config
    given: Any = None if config is None else config.eos_token_id
    several: list[Any] = [*given] if isinstance(given, list | tuple) else [given]  # pyright: ignore[reportUnknownVariableType] -- from a file
    several.append(tokenizer.eos_token_id)
    return tuple(sorted({int(each) for each in several if each is not None}))


def row_seed(seed: int, row: int, attempt: int = 0) -> int:
    """Return the seed of one row's draws: 63 bits, the same on every machine."""
    digest = hashlib.sha256(f"tvc row {seed} {row} {attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
    batch: int = 16,
    on_said: Callable[[int], None] = lambda _: None,
) -> list[Said]:
    """Return what the model says after each prompt.

    Args:
        model: In evaluation mode; where it lies is where it runs.
        tokenizer: Its own, with an id for padding.
        prompts: Ids, at least one each.
        sampling: How words are chosen.
        seeds: Of each prompt's draws; None for those of `sampling.seed` and its place.
        batch: Prompts at a time.
        on_said: Told of every batch how many prompts it was.
    """
    drawn = [row_seed(sampling.seed, n) for n in range(len(prompts))] if seeds is None else seeds
    # Alike lengths together, the longest first: little padding, and what is too large fails early.
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    said: dict[int, Said] = {}
    with quiet(), _own_settings(model, tokenizer, sampling) as ends:
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            found = _batch(
                model,
                tokenizer,
                [prompts[n] for n in places],
                _processors(sampling, [drawn[n] for n in places]),
            )
            said |= {n: _said(tokenizer, ids, ends) for n, ids in zip(places, found, strict=True)}
            on_said(len(places))
    return [said[n] for n in range(len(prompts))]


@contextmanager
def _own_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling
) -> Generator[tuple[int, ...]]:
    """Put our settings in the place of the model's: those would fill what ours leave open."""
    before, ends = model.generation_config, end_ids(model, tokenizer)
    model.generation_config = GenerationConfig(
        max_new_tokens=sampling.tokens,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=cast("int", tokenizer.pad_token_id),
    )
    try:
        yield ends
    finally:
        model.generation_config = before


def _batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    processors: LogitsProcessorList,
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = cast("int", tokenizer.pad_token_id)
    ids = torch.tensor([[pad] * (width - len(each)) + list(each) for each in prompts])
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
    speak: Any = model.generate
    with torch.no_grad():
        found: Any = speak(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            logits_processor=processors,
        )
    return cast("list[list[int]]", found[:, width:].tolist())


def _said(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: Sequence[int]) -> Said:
    place = next((n for n, each in enumerate(ids) if each in ends), None)
    kept = ids[:place]
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = ids if place is None else ids[: place + 1]
    return Said(cast("str", text).strip(), place is not None, tuple(whole))


def _processors(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    if sampling.temperature == 0:
        return LogitsProcessorList([])
    return LogitsProcessorList([_Noise(sampling, seeds)])


class _Noise(LogitsProcessor):
    """Adds Gumbel noise to scores / temperature, each row's from a generator of its own."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (rows by vocabulary, float32) whose largest is a draw."""
        del input_ids
        scaled = scores.float() / self._sampling.temperature
        if self._sampling.top_p < 1:
            scaled = _likeliest(scaled, self._sampling.top_p)
        size = scores.shape[-1]
        uniform = torch.stack([torch.rand(size, generator=each) for each in self._generators])
        noise = -torch.log(-torch.log(uniform.clamp_min(_TINY)))
        return scaled + noise.to(scores.device)


def _likeliest(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Leave the likeliest that together have the share (Holtzman et al. 2020, section 3.1)."""
    ordered, places = scores.sort(dim=-1, descending=True, stable=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    kept = torch.where(before < share, ordered, float("-inf"))
    return torch.empty_like(scores).scatter_(-1, places, kept)
