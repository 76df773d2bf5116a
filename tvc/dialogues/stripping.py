"""Responses that were given under instructions, for training without them.

A row without a response gets one from a model that has the instruction in its context; a verifier
says whether the response does what was asked; what is accepted stands after the context without the
instruction. Rows that have a response are stripped and nothing else. Everything is counted: no row
is left out in silence. Absent: what speaks (tvc/dialogues/speaking.py) and what verifies.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvc.dialogues.generation import Said, row_seed
from tvc.dialogues.problems import BadRows, Problem
from tvc.dialogues.rows import Message, Row, stripped
from tvc.dialogues.speaking import Speak
from tvc.dialogues.verifiers import Case, Verify
from tvc.domain.errors import InputError
from tvc_store.durable import write_durably

__all__ = ["Counts", "NothingAccepted", "row_value", "strip_rows", "with_guidance", "write_rows"]


class NothingAccepted(InputError):
    """No response that a model gave was accepted."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of rows and responses.

    Args:
        given: Rows that had their responses.
        asked: Rows that had none.
        answered: Of those, the ones that got at least one.
        generated: Responses that were generated.
        accepted: Of those, the ones that the verifier accepts.
        repeated: Of those, the ones that the row has already.
        rejected: By the verifier.
        unended: Cut off at the limit of tokens.
        empty: Without a word.
    """

    given: int
    asked: int
    answered: int
    generated: int
    accepted: int
    repeated: int
    rejected: int
    unended: int
    empty: int


def with_guidance(rows: Sequence[Row], guidance: str) -> list[Row]:
    """Return rows that are all given an instruction, after those of their own.

    Raises:
        BadRows: A row has a response, which was not given under this instruction.
    """
    answered = [row for row in rows if row.decisions]
    if answered:
        words = "it has a response, and guidance is for rows whose response is to be generated"
        raise BadRows([Problem(row.source, words) for row in answered], total=len(rows))
    return [
        replace(row, guidance="\n\n".join(filter(None, [row.guidance, guidance]))) for row in rows
    ]


def strip_rows(
    rows: Sequence[Row],
    *,
    speak: Speak | None = None,
    verify: Verify | None = None,
    seed: int = 0,
    samples: int = 1,
    tries: int = 1,
) -> tuple[list[Row], Counts]:
    """Return rows without their instructions, each with at least one response.

    Args:
        rows: Those that have no response are asked for one.
        speak: What responds; None where every row has a response.
        verify: What accepts responses; None for all that end and say something. It sees contexts
            without instructions.
        seed: What the seeds of the draws follow from.
        samples: Responses that are wanted for a row; more than one are decisions on one context.
        tries: Rounds of `samples` draws for rows that have none accepted yet.

    Raises:
        BadRows: A row holds no instruction to strip, or nothing else.
        NothingAccepted: There were responses to generate, and none was accepted.
        InputError: There are responses to generate, and nothing to speak.
    """
    _check_instructed(rows)
    bare = [stripped(row) for row in rows]
    asked = [n for n, row in enumerate(rows) if not row.decisions]
    if asked and speak is None:
        raise InputError(
            f"{len(asked)} rows have no response, the first is {rows[asked[0]].source}",
            hint="say what generates them",
        )
    draws = _Draws(rows, bare, seed, samples)
    for attempt in range(tries if asked else 0):
        assert speak is not None
        draws.round(attempt, [n for n in asked if not draws.found[n]], speak, verify)
    kept = [row if row.decisions else _answered(row, draws.found[n]) for n, row in enumerate(bare)]
    done = [row for row in kept if row.decisions]
    counts = draws.counts(asked=len(asked))
    if asked and not counts.accepted:
        raise NothingAccepted(
            f"of {counts.generated} responses none was accepted: {counts.rejected} rejected, "
            f"{counts.unended} cut off, {counts.empty} empty",
            hint="does the model do what it is asked, when it is asked?",
        )
    return done, counts


def write_rows(path: Path, rows: Sequence[Row]) -> str:
    """Write rows so that reading them gives the same again, and return the file's SHA-256.

    Raises:
        WriteFailed: The system refused.
    """
    digest = hashlib.sha256()

    def lines() -> Iterator[bytes]:
        for row in rows:
            line = json.dumps(row_value(row), ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            yield line

    write_durably(path, lines())
    return digest.hexdigest()


def _check_instructed(rows: Sequence[Row]) -> None:
    bare = [row for row in rows if not row.is_instructed]
    if bare:
        words = "it marks no instruction that could be stripped"
        raise BadRows([Problem(row.source, words) for row in bare], total=len(rows))


def _answered(row: Row, responses: list[str]) -> Row:
    if isinstance(row.context, str):
        return replace(row, decisions=tuple(responses))
    return replace(row, decisions=tuple(Message("assistant", each) for each in responses))


class _Draws:
    """Responses that were generated, and what became of them.

    Args:
        rows: With their instructions.
        bare: Without.
        seed: What the seeds of the draws follow from.
        samples: Responses for a row in every round.
    """

    def __init__(self, rows: Sequence[Row], bare: Sequence[Row], seed: int, samples: int) -> None:
        self._rows, self._bare = rows, bare
        self._seed, self._samples = seed, samples
        self.found: dict[int, list[str]] = {n: [] for n in range(len(rows))}
        self._generated = self._rejected = self._unended = self._empty = 0

    def round(self, attempt: int, rows: Sequence[int], speak: Speak, verify: Verify | None) -> None:
        """Draw for some rows, and keep what is accepted."""
        places = [(n, k) for n in rows for k in range(self._samples)]
        if not places:
            return
        seeds = [row_seed(self._seed, n, attempt * self._samples + k) for n, k in places]
        said = speak([self._rows[n] for n, _ in places], seeds)
        cases = [Case(self._bare[n], each.text) for (n, _), each in zip(places, said, strict=True)]
        accepted = self._sifted(cases, said, verify)
        for (n, _), case, good in zip(places, cases, accepted, strict=True):
            if good and case.response not in self.found[n]:
                self.found[n].append(case.response)

    def _sifted(
        self, cases: Sequence[Case], said: Sequence[Said], verify: Verify | None
    ) -> list[bool]:
        whole = [each.ended and bool(each.text) for each in said]
        self._generated += len(said)
        self._unended += sum(not each.ended for each in said)
        self._empty += sum(each.ended and not each.text for each in said)
        if verify is None:
            return whole
        verdicts = iter(verify([case for case, good in zip(cases, whole, strict=True) if good]))
        found = [good and next(verdicts) for good in whole]
        self._rejected += sum(whole) - sum(found)
        return found

    def counts(self, *, asked: int) -> Counts:
        accepted = self._generated - self._rejected - self._unended - self._empty
        return Counts(
            given=len(self._rows) - asked,
            asked=asked,
            answered=sum(bool(each) for each in self.found.values()),
            generated=self._generated,
            accepted=accepted,
            repeated=accepted - sum(map(len, self.found.values())),
            rejected=self._rejected,
            unended=self._unended,
            empty=self._empty,
        )


def row_value(row: Row) -> dict[str, Any]:
    """Return a row as the object that a line holds."""
    value: dict[str, Any] = {}
    if isinstance(row.context, str):
        value |= {"context": row.context, "decision": list(row.decisions)}
    else:
        context = [_message(each) for each in row.context]
        decided = [each for each in row.decisions if isinstance(each, Message)]
        if len(decided) == 1:
            last = {**_message(decided[0]), "train": True}
            value["messages"] = [*context, last]
        else:
            value |= {"context": context, "decision": [each.content for each in decided]}
    if row.guidance:
        value["guidance"] = row.guidance
    if row.tools:
        value["tools"] = [dict(each) for each in row.tools]
    return value


def _message(message: Message) -> dict[str, Any]:
    return {**message.for_template, **({"strip": True} if message.strip else {})}
