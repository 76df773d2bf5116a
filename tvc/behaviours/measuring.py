"""What one model does: answers to a suite's prompts, verified; its loss; its distance to its base.

The distance is KL(model ‖ base), in nats for each token: exact over the vocabulary at each place,
averaged over the decisions of the general data, and over the model's own answers, which says how
far it has gone where it is used. Absent: which models, and where results go.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from tvc.behaviours.intervals import Estimate, ratio
from tvc.behaviours.results import Answers, Measured, Shown
from tvc.behaviours.suite import Behaviour, Suite
from tvc.dialogues.endpoint import Endpoint
from tvc.dialogues.example import Example
from tvc.dialogues.generation import Said, end_ids, generate, row_seed
from tvc.dialogues.loading import Loaded
from tvc.dialogues.rendering import Renderer
from tvc.dialogues.rows import Row
from tvc.dialogues.sandbox import Containment
from tvc.dialogues.verifiers import Case, Verifier, Verify, opened
from tvc.training.tiers import Tier, decision_logits

__all__ = ["Bench", "count_answers", "measure"]


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure.

    Args:
        judge: The model that judges, where a verifier asks for one.
        batch: Prompts or examples at a time.
        on_answers: Told of answers given, to show progress.
        on_contained: Told what is in force around verifiers' code.
        on_case: Told of every answer: the behaviour, how it was asked for (`alone`, `guided` or
            `opposed`), the case, and the verdict.
    """

    judge: Endpoint | None = None
    batch: int = 16
    on_answers: Callable[[int], None] = field(default=lambda _: None)
    on_contained: Callable[[Containment], None] = field(default=lambda _: None)
    on_case: Callable[[str, str, Case, bool], None] | None = None


_ROWS: Final = 4
"""Examples at a time: each token of a decision has a number for every word, twice."""

_Ask = tuple[tuple[Row, ...], str]
"""Prompts, and the instruction that they are given."""

_Answer = tuple[tuple[int, ...], Said]
"""Ids of a context, and what was said after it."""


def count_answers(suite: Suite) -> int:
    """Return how many answers a model gives to a suite."""
    return sum(len(rows) for rows, _ in _asks(suite))


def measure(loaded: Loaded, suite: Suite, bench: Bench, *, base: Loaded | None = None) -> Measured:
    """Return what a model does.

    Args:
        loaded: The model.
        suite: What is measured.
        bench: How.
        base: The model that the distance is taken from; None for none.

    Raises:
        BadRows: A prompt cannot be rendered, or does not fit.
        VerifierFailed: A verifier failed, or did not decide.
    """
    prompts, examples = _rendered(loaded, suite)
    answers = _answers(loaded, suite, bench, prompts)
    behaviours = _verified(suite, answers, bench)
    loss = kl = None
    if examples:
        loss, kl = _compare(loaded, base, examples)
    own = _own_answers(answers) if base is not None else []
    drift = _compare(loaded, base, own)[1] if own else None
    return Measured(behaviours=behaviours, loss=loss, general_kl=kl, answers_kl=drift)


def _asks(suite: Suite) -> list[_Ask]:
    """Return what is asked, each question once however many behaviours it tells of."""
    found: dict[_Ask, None] = {}
    for each in suite.behaviours:
        found[each.prompts, ""] = None
        if each.guidance:
            found[each.prompts, each.guidance] = None
        if each.opposite:
            found[each.prompts, each.opposite.guidance] = None
    return list(found)


def _rendered(loaded: Loaded, suite: Suite) -> tuple[list[tuple[int, ...]], list[Example]]:
    """Return the contexts of all that is asked, and the general data."""
    rows = [_instructed(row, guidance) for prompts, guidance in _asks(suite) for row in prompts]
    ends = end_ids(loaded.model, loaded.tokenizer)
    with Renderer(loaded.tokenizer, ends=ends, variables=suite.variables) as renderer:
        prompts = renderer.prompts(rows, window=suite.window - suite.sampling.tokens)
        return prompts, renderer.examples(suite.general, window=suite.window)


def _answers(
    loaded: Loaded, suite: Suite, bench: Bench, prompts: Sequence[tuple[int, ...]]
) -> dict[_Ask, list[_Answer]]:
    asks = _asks(suite)
    seeds = [row_seed(suite.sampling.seed, n) for rows, _ in asks for n in range(len(rows))]
    said = zip(
        prompts,
        generate(
            loaded.model,
            loaded.tokenizer,
            prompts,
            sampling=suite.sampling,
            seeds=seeds,
            batch=bench.batch,
            on_said=bench.on_answers,
        ),
        strict=True,
    )
    return {ask: [next(said) for _ in ask[0]] for ask in asks}


def _instructed(row: Row, guidance: str) -> Row:
    return replace(row, guidance="\n\n".join(filter(None, [row.guidance, guidance])))


def _verified(suite: Suite, answers: dict[_Ask, list[_Answer]], bench: Bench) -> dict[str, Shown]:
    with ExitStack() as stack:
        processes: dict[Verifier, Verify] = {}

        def verdicts(each: Behaviour, how: str, guidance: str, verifier: Verifier) -> Answers:
            if verifier not in processes:
                process = opened(verifier, judge=bench.judge, on_contained=bench.on_contained)
                processes[verifier] = stack.enter_context(process)
            said = [said for _, said in answers[each.prompts, guidance]]
            cases = [Case(row, one.text) for row, one in zip(each.prompts, said, strict=True)]
            found = processes[verifier](cases)
            for case, verdict in zip(cases, found, strict=True):
                if bench.on_case:
                    bench.on_case(each.name, how, case, verdict)
            return Answers(tuple(found), sum(not one.ended for one in said))

        return {each.name: _shown(each, verdicts) for each in suite.behaviours}


def _shown(each: Behaviour, verdicts: Callable[[Behaviour, str, str, Verifier], Answers]) -> Shown:
    guided = opposed = None
    if each.guidance:
        guided = verdicts(each, "guided", each.guidance, each.verifier)
    if each.opposite:
        opposed = verdicts(each, "opposed", each.opposite.guidance, each.opposite.verifier)
    return Shown(verdicts(each, "alone", "", each.verifier), guided, opposed)


def _own_answers(answers: dict[_Ask, list[_Answer]]) -> list[Example]:
    """Return what the model said without instructions, as examples."""
    return [
        Example(context, (said.ids,), row.source)
        for (rows, guidance), found in answers.items()
        for row, (context, said) in zip(rows, found, strict=True)
        if not guidance and said.ids
    ]


def _compare(
    loaded: Loaded, base: Loaded | None, examples: Sequence[Example]
) -> tuple[Estimate, Estimate | None]:
    """Return the loss of decisions, and KL(model ‖ base) on them, for each token."""
    order = sorted(range(len(examples)), key=lambda n: -examples[n].length)
    losses, distances, tokens = list[float](), list[float](), list[int]()
    for start in range(0, len(order), _ROWS):
        chosen = [examples[n] for n in order[start : start + _ROWS]]
        sizes = [sum(map(len, each.decisions)) for each in chosen]
        logits, targets = _logits(loaded, chosen)
        loss = functional.nll_loss(logits, targets, reduction="none")
        losses += _sums(loss, sizes)
        tokens += sizes
        if base is not None:
            other, _ = _logits(base, chosen)
            distances += _sums((logits.exp() * (logits - other)).sum(-1), sizes)
    return ratio(losses, tokens), ratio(distances, tokens) if base is not None else None


def _logits(loaded: Loaded, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Return log probabilities of all words, (tokens, vocabulary), float32, and the words' ids."""
    pad = loaded.tokenizer.pad_token_id
    assert isinstance(pad, int)
    with torch.no_grad():
        logits, targets = decision_logits(loaded.model, examples, tier=Tier.FULL, pad=pad)
        return logits.float().log_softmax(-1), targets


def _sums(values: Tensor, sizes: Sequence[int]) -> list[float]:
    parts: tuple[Tensor, ...] = torch.split(values.double(), list(sizes))
    return [float(each.sum()) for each in parts]
