"""Finds what brought a behaviour in, by measuring: a commit of a line, or a term of a recipe.

A line of models is halved until two neighbours are left of which one shows the behaviour and the
other does not: as many measurements as the line's length has binary digits. That is right where the
behaviour came once and stayed; where rates say otherwise, the answer carries a doubt. Absent:
measuring, and where models come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvc.behaviours.intervals import Rate
from tvc.behaviours.subjects import Subject
from tvc.domain.errors import InputError
from tvc.domain.recipe import Recipe, Sum, format_term

__all__ = ["Found", "NotFound", "Probe", "TermFound", "bisect", "bisect_terms", "prefixes"]

RateOf = Callable[[Subject], Rate]
"""How often a subject shows the behaviour."""


class NotFound(InputError):
    """The ends of a line do not differ in a behaviour, as far as was measured."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement of a search.

    Args:
        place: Of the subject in its line; 0 is the end that is known to be without.
        label: What it is called.
        rate: How often it shows the behaviour.
    """

    place: int
    label: str
    rate: Rate


@dataclass(frozen=True, slots=True)
class Found:
    """Where a behaviour came in, or went.

    Args:
        subject: The first that is like the end of the line.
        before: The last measurement that is like its beginning.
        after: The subject's measurement.
        probes: All measurements, in the order of the line.
        doubts: Why the answer may be wrong, in words; none where nothing speaks against it.
    """

    subject: Subject
    before: Probe
    after: Probe
    probes: tuple[Probe, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TermFound:
    """Which term of a recipe brought a behaviour in.

    Args:
        term: It, as it stands in the recipe.
        found: The search over the recipe's first terms.
        alone: The rate of the base with this term alone.
        without: The rate of the recipe without it.
        words: What the two say.
    """

    term: str
    found: Found
    alone: Rate
    without: Rate
    words: str


def bisect(
    line: Sequence[Subject], rate_of: RateOf, *, threshold: float | None = None, every: bool = False
) -> Found:
    """Return the first subject of a line that is like its end.

    Args:
        line: At least two; the behaviour differs between the first and the last.
        rate_of: Measures.
        threshold: Rate from which on the behaviour counts as shown; None for the middle between
            both ends.
        every: Measure all of them, and not only those that are needed.

    Raises:
        NotFound: The ends do not differ, or their intervals overlap.
    """
    search = _Search(line, rate_of)
    first, last = search.probe(0), search.probe(len(line) - 1)
    _check_ends(first, last, threshold)
    middle = (first.rate.value + last.rate.value) / 2 if threshold is None else threshold
    rising = last.rate.value > first.rate.value

    def like_end(probe: Probe) -> bool:
        return (probe.rate.value >= middle) == rising

    low, high = 0, len(line) - 1
    while high - low > 1:
        place = (low + high) // 2
        low, high = (low, place) if like_end(search.probe(place)) else (place, high)
    if every:
        for place in range(len(line)):
            search.probe(place)
    before, after = search.probe(low), search.probe(high)
    probes = tuple(search.probes[place] for place in sorted(search.probes))
    sides = [like_end(probe) == (probe.place >= high) for probe in probes]
    doubts = _doubts(probes, before, after, middle, sides)
    return Found(line[high], before, after, probes, doubts)


def prefixes(whole: Subject) -> list[Subject]:
    """Return the base, the base with a recipe's first term, with its first two, and so on."""
    recipe = whole.state.recipe
    labels = ["base", *(f"first {count}" for count in range(1, len(recipe.terms))), "all terms"]
    return [_with_terms(whole, recipe.terms[:count], label) for count, label in enumerate(labels)]


def bisect_terms(
    whole: Subject, rate_of: RateOf, *, threshold: float | None = None, every: bool = False
) -> TermFound:
    """Return the term of a recipe that brings a behaviour in.

    Terms are added in their order until the behaviour comes; then the term that brought it is
    measured alone, and the recipe without it, since terms may need or mask each other.

    Args:
        whole: Its recipe has at least one term.
        rate_of: Measures.
        threshold: As for `bisect`.
        every: As for `bisect`.

    Raises:
        NotFound: The recipe does not differ from its base, or has no terms.
    """
    terms = whole.state.recipe.terms
    if not terms:
        raise NotFound(f"the recipe of {whole.label} has no terms")
    found = bisect(prefixes(whole), rate_of, threshold=threshold, every=every)
    place = found.after.place - 1
    term = format_term(terms[place])
    alone = rate_of(_with_terms(whole, (terms[place],), f"{term} alone"))
    rest = (*terms[:place], *terms[place + 1 :])
    without = rate_of(_with_terms(whole, rest, f"without {term}"))
    ends = found.probes[0].rate, found.probes[-1].rate
    middle = (ends[0].value + ends[1].value) / 2 if threshold is None else threshold
    rising = ends[1].value > ends[0].value
    enough = (alone.value >= middle) == rising
    needed = (without.value >= middle) != rising
    return TermFound(term, found, alone, without, _verdict(enough=enough, needed=needed))


class _Search:
    """Measurements of a line, each made once."""

    def __init__(self, line: Sequence[Subject], rate_of: RateOf) -> None:
        self._line = line
        self._rate_of = rate_of
        self.probes: dict[int, Probe] = {}

    def probe(self, place: int) -> Probe:
        if place not in self.probes:
            subject = self._line[place]
            self.probes[place] = Probe(place, subject.label, self._rate_of(subject))
        return self.probes[place]


def _check_ends(first: Probe, last: Probe, threshold: float | None) -> None:
    (a, b), (c, d) = first.rate.interval, last.rate.interval
    ends = f"{_percent(first.rate)} at {first.label} and {_percent(last.rate)} at {last.label}"
    if a <= d and c <= b:
        raise NotFound(
            f"the behaviour is shown {ends}: that is no difference",
            hint="give other ends, or more prompts",
        )
    low, high = sorted([first.rate.value, last.rate.value])
    if threshold is not None and not low < threshold <= high:
        raise NotFound(f"the threshold {threshold:g} is not between the ends: {ends}")


def _doubts(
    probes: Sequence[Probe], before: Probe, after: Probe, middle: float, sides: Sequence[bool]
) -> tuple[str, ...]:
    found: list[str] = []
    (a, b), (c, d) = before.rate.interval, after.rate.interval
    if a <= d and c <= b:
        found.append(
            f"{before.label} ({_percent(before.rate)}) and {after.label} ({_percent(after.rate)}) "
            "may differ by chance: more prompts would tell"
        )
    elif any(low <= middle <= high for low, high in ((a, b), (c, d))):
        found.append(f"a rate beside the change is too near {middle:.0%} to be sure of its side")
    found += [
        f"{probe.label} ({_percent(probe.rate)}) is on the other side: the behaviour came or went "
        "more than once"
        for probe, right in zip(probes, sides, strict=True)
        if not right
    ]
    return tuple(found)


def _verdict(*, enough: bool, needed: bool) -> str:
    if enough and needed:
        return "it is enough alone, and the recipe does not show it without it"
    if enough:
        return "it is enough alone, but other terms bring the behaviour in too"
    if needed:
        return "it is needed, but not enough alone: it works together with terms before it"
    return "it is neither enough alone nor needed: terms bring the behaviour in together"


def _with_terms(whole: Subject, terms: Sum, label: str) -> Subject:
    recipe = whole.state.recipe
    return Subject(label, whole.state.with_recipe(Recipe(recipe.base, terms, recipe.files)))


def _percent(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.value:.0%} [{low:.0%}, {high:.0%}]"
