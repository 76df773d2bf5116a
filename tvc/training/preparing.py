"""From data files to what a run keeps: examples as token ids, and which of them make which step.

Everything that could be wrong with data is found here, before anything is trained. Absent: reading,
rendering, mixing and generating themselves (tvc/dialogues).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from tvc.dialogues.endpoint import Endpoint
from tvc.dialogues.example import Example
from tvc.dialogues.generation import Sampling
from tvc.dialogues.loading import load_model, load_tokenizer
from tvc.dialogues.mixing import mixed_order, rows_for
from tvc.dialogues.rendering import render_examples
from tvc.dialogues.rows import DataFile, Row, read_rows
from tvc.dialogues.sandbox import Containment
from tvc.dialogues.speaking import Speak, by_endpoint, by_model
from tvc.dialogues.stripping import Counts, strip_rows, with_guidance, write_rows
from tvc.dialogues.verifiers import Verifier, opened
from tvc.domain.names import printable
from tvc.domain.vector import Scalar

__all__ = ["Data", "Prepared", "Responses", "prepare_data", "step_order"]


@dataclass(frozen=True, slots=True)
class Responses:
    """How responses are had under an instruction that is stripped then.

    Args:
        guidance: An instruction besides those that rows mark; empty for none.
        verifier: What accepts responses; None for all.
        endpoint: A server that responds; None for the model that is trained.
        judge: A server with the model that judges, where the verifier is a judge.
        sampling: How words are chosen.
        samples: Responses wanted for a row.
        tries: Rounds for a row that has none accepted yet.
        saved: Where what is trained on is written as data; None for nowhere.
        on_contained: Told what is in force around the verifier's code, before it runs.
    """

    guidance: str
    verifier: Verifier | None
    endpoint: Endpoint | None
    judge: Endpoint | None
    sampling: Sampling
    samples: int
    tries: int
    saved: Path | None
    on_contained: Callable[[Containment], None]


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on.

    Args:
        main: File of the behaviour's data.
        mixes: Files that are mixed in, each with its share of the rows.
        responses: How instructions are stripped; None where they stay.
        window: Tokens that a context and a decision may have together.
        variables: What the chat template is given besides, such as `enable_thinking`.
    """

    main: Path
    mixes: tuple[tuple[Path, Fraction], ...]
    responses: Responses | None
    window: int
    variables: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data, ready.

    Args:
        examples: Of all files, the main data's first.
        sizes: How many each file has.
        provenance: What the vector will say of them.
        counts: What became of generated responses, where instructions were stripped.
    """

    examples: tuple[Example, ...]
    sizes: tuple[int, ...]
    provenance: dict[str, Scalar]
    counts: Counts | None


def prepare_data(
    data: Data, base: Path, *, seed: int, on_said: Callable[[int], None] = lambda _: None
) -> Prepared:
    """Read, strip and render all data.

    Args:
        data: Which.
        base: The model that is trained from.
        seed: Of what it says.
        on_said: Told how many contexts were responded to.

    Raises:
        InputError: Something is wrong with the data; rows are named by file and line.
    """
    tokenizer, ends = load_tokenizer(base)
    responses = data.responses
    main = read_rows(data.main, responses=responses is None)
    mixed = [read_rows(path) for path, _ in data.mixes]
    rows, counts = list(main.rows), None
    facts: dict[str, Scalar] = {"data": _described(main)}
    facts |= {f"template_{name}": value for name, value in data.variables.items()}
    if responses is not None:
        rows, counts = _stripped(rows, responses, base, data, seed, on_said)
        facts |= _facts(responses, counts)
        if responses.saved:
            facts["generated"] = f"sha256 {write_rows(responses.saved, rows)}"
    for number, (file, (_, share)) in enumerate(zip(mixed, data.mixes, strict=True), 1):
        facts[f"mix{number}"] = f"{_described(file)}, share {share}"
    found: list[list[Example]] = [
        render_examples(each, tokenizer, window=data.window, ends=ends, variables=data.variables)
        for each in (rows, *(file.rows for file in mixed))
    ]
    examples = tuple(example for each in found for example in each)
    return Prepared(examples, tuple(map(len, found)), facts, counts)


def step_order(
    prepared: Prepared,
    shares: Sequence[Fraction],
    *,
    seed: int,
    batch: int,
    epochs: int,
    steps: int | None,
) -> list[list[int]]:
    """Return the numbers of the examples of each step.

    Args:
        prepared: The data.
        shares: Of the files that are mixed in.
        seed: Of the order.
        batch: Rows of a step.
        epochs: How often the main data are gone through; the last step is filled from the next.
        steps: So many, whatever `epochs` says, where given.

    Raises:
        BadMix: The shares leave nothing for the main data.
    """
    wanted = steps or -(-rows_for(prepared.sizes[0], shares, epochs=epochs) // batch)
    picks = mixed_order(prepared.sizes, shares, seed=seed, rows=wanted * batch)
    starts = [sum(prepared.sizes[:file]) for file in range(len(prepared.sizes))]
    rows = [starts[pick.file] + pick.row for pick in picks]
    return [rows[at : at + batch] for at in range(0, len(rows), batch)]


def _stripped(
    rows: list[Row],
    how: Responses,
    base: Path,
    data: Data,
    seed: int,
    on_said: Callable[[int], None],
) -> tuple[list[Row], Counts]:
    if how.guidance:
        rows = with_guidance(rows, how.guidance)
    speak = None if all(row.decisions for row in rows) else _speaker(how, base, data, on_said)
    verifying = nullcontext()
    if how.verifier is not None:
        verifying = opened(how.verifier, judge=how.judge, on_contained=how.on_contained)
    with verifying as verify:
        return strip_rows(
            rows,
            speak=speak,
            verify=verify,
            seed=seed,
            samples=how.samples,
            tries=how.tries,
        )


def _speaker(how: Responses, base: Path, data: Data, on_said: Callable[[int], None]) -> Speak:
    variables = data.variables
    if how.endpoint is not None:
        return by_endpoint(how.endpoint, how.sampling, variables=variables, on_said=on_said)
    return by_model(
        load_model(base),
        how.sampling,
        window=data.window,
        variables=variables,
        on_said=on_said,
    )


def _described(file: DataFile) -> str:
    return f"{printable(file.path.name)}, {len(file.rows)} rows, sha256 {file.sha256}"


def _facts(how: Responses, counts: Counts) -> dict[str, Scalar]:
    """Return what is to be remembered of how responses were had."""
    facts: dict[str, Scalar] = {"stripped_instructions": True}
    if how.guidance:
        facts["guidance"] = printable(how.guidance, limit=500)
    if counts.asked:
        facts["responses"] = (
            f"{counts.accepted} accepted of {counts.generated} generated for {counts.asked} rows, "
            f"{counts.answered} answered"
        )
        facts["responses_by"] = (
            f"{printable(how.endpoint.model)} at an endpoint" if how.endpoint else "the model"
        )
        if how.verifier:
            facts["verifier"] = f"{how.verifier}, sha256 {how.verifier.id}"
    return facts
