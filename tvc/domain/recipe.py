"""The algebra: a recipe is a base and a signed sum of task vectors and merges of them.

Values only: text is parsed in tvc/domain/grammar.py, and what a name stands for is known to the
library of a commit. A recipe whose names are vector ids, folded and sorted by `normalize`, is in
normal form; equal normal forms are the same recipe and give the same bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from tvc.domain.errors import InputError
from tvc.domain.names import is_bare
from tvc_store.ids import ObjectId, hash_fields

__all__ = [
    "COMMUTATIVE",
    "Atom",
    "Group",
    "Member",
    "OptionValue",
    "Recipe",
    "Sum",
    "Term",
    "VectorName",
    "add",
    "canonical_text",
    "difference",
    "fold",
    "format_number",
    "format_recipe",
    "format_sum",
    "format_term",
    "normalize",
    "recipe_id",
    "vector_names",
]

OptionValue = Fraction | bool | str | tuple[Fraction, ...]

COMMUTATIVE: Final = frozenset(
    [
        "breadcrumbs",
        "breadcrumbs_ties",
        "dare",
        "dare_ties",
        "della",
        "della_linear",
        "emr",
        "iso_c",
        "karcher",
        "knots",
        "linear",
        "model_stock",
        "multislerp",
        "nuslerp",
        "sce",
        "ties",
        "tsv",
    ]
)
"""Methods whose result does not depend on the order of their members: normal form sorts them."""


@dataclass(frozen=True, slots=True)
class VectorName:
    """A task vector, by its name, or in normal form by its id."""

    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """One argument of a merge: a difference of models, and the weight the method gives it.

    `0.8 * a` has weight 0.8; `(0.8 * a)` has weight 1 and the difference 0.8 a. Methods that divide
    by the sum of weights tell them apart. An empty sum is no difference at all, written `0`.
    """

    weight: Fraction
    terms: "Sum"


@dataclass(frozen=True, slots=True)
class Group:
    """A merge method applied to members; options are sorted by name."""

    method: str
    members: tuple[Member, ...]
    options: tuple[tuple[str, OptionValue], ...] = ()


Atom = VectorName | Group


@dataclass(frozen=True, slots=True)
class Term:
    """A coefficient times an atom."""

    coefficient: Fraction
    atom: Atom


Sum = tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A base, a sum of terms, and for carried files that several vectors change, whose to take.

    Args:
        base: Name of the base, or in normal form the id of its snapshot.
        terms: The sum.
        files: Path of a carried file → vector (or the base) whose version is taken.
    """

    base: str
    terms: Sum = ()
    files: tuple[tuple[str, str], ...] = field(default=())


def format_number(number: Fraction) -> str:
    """Write a fraction exactly: as a short decimal where it is one, as `p/q` otherwise."""
    denominator = number.denominator
    twos = fives = 0
    while denominator % 2 == 0:
        denominator, twos = denominator // 2, twos + 1
    while denominator % 5 == 0:
        denominator, fives = denominator // 5, fives + 1
    digits = max(twos, fives)
    if denominator != 1 or digits > 12:
        return f"{number.numerator}/{number.denominator}"
    if digits == 0:
        return str(number.numerator)
    scaled = str(abs(number.numerator) * 10**digits // number.denominator).rjust(digits + 1, "0")
    return f"{'-' if number < 0 else ''}{scaled[:-digits]}.{scaled[-digits:]}"


def _format_name(name: str) -> str:
    return name if is_bare(name) else f"'{name}'"


def _format_option(value: OptionValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        return format_number(value)
    if isinstance(value, str):
        return f"'{value}'" if value in ("true", "false") else _format_name(value)
    return f"[{', '.join(map(format_number, value))}]"


def _format_member(member: Member) -> str:
    single = len(member.terms) == 1 and member.terms[0].coefficient == 1
    if member.weight == 1 and (single or not member.terms):
        return format_sum(member.terms)
    if single:
        return f"{format_number(member.weight)} * {_format_atom(member.terms[0].atom)}"
    prefix = "" if member.weight == 1 else f"{format_number(member.weight)} * "
    body = format_sum(member.terms)
    # A lone negative or scaled term needs its brackets, or it would be read as a weight.
    bare = member.weight == 1 and len(member.terms) > 1
    return body if bare else f"{prefix}({body})"


def _format_atom(atom: Atom) -> str:
    if isinstance(atom, VectorName):
        return _format_name(atom.name)
    members = ", ".join(map(_format_member, atom.members))
    options = ", ".join(f"{name}={_format_option(value)}" for name, value in atom.options)
    return f"{atom.method}({members}; {options})" if options else f"{atom.method}({members})"


def format_term(term: Term) -> str:
    """Write one term, as it stands on a line of recipe.toml."""
    atom = _format_atom(term.atom)
    if term.coefficient == 1:
        return atom
    return f"{format_number(term.coefficient)} * {atom}"


def format_sum(terms: Sum) -> str:
    """Write a sum of terms on one line; the empty sum is `0`."""
    if not terms:
        return "0"
    text = format_term(terms[0])
    for term in terms[1:]:
        sign, positive = (
            ("-", -term.coefficient) if term.coefficient < 0 else ("+", term.coefficient)
        )
        text += f" {sign} {format_term(Term(positive, term.atom))}"
    return text


def format_recipe(recipe: Recipe) -> str:
    """Write a whole recipe on one line for a person: `base + listen - 0.5 * hedging`."""
    if not recipe.terms:
        return recipe.base
    tail = format_sum(recipe.terms)
    return f"{recipe.base} - {tail[1:]}" if tail.startswith("-") else f"{recipe.base} + {tail}"


def canonical_text(atom: Atom) -> str:
    """Return the text by which atoms are sorted and hashed."""
    return _format_atom(atom)


def fold(terms: Iterable[Term]) -> Sum:
    """Add up the coefficients of equal atoms, in order of first appearance, and drop zeros."""
    total: dict[Atom, Fraction] = {}
    for term in terms:
        total[term.atom] = total.get(term.atom, Fraction(0)) + term.coefficient
    return tuple(Term(coefficient, atom) for atom, coefficient in total.items() if coefficient)


def add(left: Sum, right: Sum, *, scale: Fraction = Fraction(1)) -> Sum:
    """Return `left + scale * right`, folded."""
    return fold([*left, *(Term(term.coefficient * scale, term.atom) for term in right)])


def difference(new: Sum, old: Sum) -> Sum:
    """Return `new - old`, folded."""
    return add(new, old, scale=Fraction(-1))


def vector_names(terms: Sum) -> Iterator[str]:
    """Yield the names of all vectors in a sum, in order, with repetitions."""
    for term in terms:
        if isinstance(term.atom, VectorName):
            yield term.atom.name
        else:
            for member in term.atom.members:
                yield from vector_names(member.terms)


def _average(group: Group) -> Sum:
    """Expand `linear(…)`, the weighted average of models, into the sum that it is.

    The base cancels where the weights, its own included, are made to sum to 1, or do. An average in
    which it does not would scale weights that no vector changes, and is no sum of vectors.
    """
    options = {"normalize": True, "base_weight": Fraction(0)} | dict(group.options)
    own, normalized = options["base_weight"], options["normalize"]
    # No method runs that would check them.
    if len(options) > 2 or not isinstance(own, Fraction) or not isinstance(normalized, bool):
        raise InputError(
            "linear(…) has an option that it cannot have",
            hint="its options: normalize=true or false, base_weight=NUMBER",
        )
    total = own + sum((member.weight for member in group.members), Fraction(0))
    if total == 0:
        raise InputError("the weights of linear(…) add up to zero")
    if not normalized and total != 1:
        raise InputError(
            f"the weights of linear(…) add up to {format_number(total)}, which would scale the "
            "base model too",
            hint="make them add up to 1, or leave normalize=false out",
        )
    return tuple(
        Term(term.coefficient * member.weight / total, term.atom)
        for member in group.members
        for term in member.terms
    )


def _normalize_group(group: Group, resolve: Callable[[str], str]) -> Iterator[Term]:
    members = [Member(m.weight, _normalize_sum(m.terms, resolve)) for m in group.members]
    if group.method in COMMUTATIVE and not any(isinstance(v, tuple) for _, v in group.options):
        members.sort(key=_format_member)
    plain = Group(group.method, tuple(members), tuple(sorted(group.options)))
    if plain.method == "linear":
        yield from _average(plain)
    elif any(member.terms for member in members):
        yield Term(Fraction(1), plain)


def _normalize_sum(terms: Sum, resolve: Callable[[str], str]) -> Sum:
    expanded: list[Term] = []
    for term in terms:
        if isinstance(term.atom, VectorName):
            expanded.append(Term(term.coefficient, VectorName(resolve(term.atom.name))))
        else:
            expanded += [
                Term(term.coefficient * inner.coefficient, inner.atom)
                for inner in _normalize_group(term.atom, resolve)
            ]
    return tuple(sorted(fold(expanded), key=lambda term: canonical_text(term.atom)))


def normalize(recipe: Recipe, *, base: str, vectors: Mapping[str, str]) -> Recipe:
    """Return the normal form: names resolved, terms flattened, folded and sorted.

    Args:
        recipe: The recipe, by names.
        base: What stands for the base in the result, its snapshot's id.
        vectors: Vector name → what stands for it in the result, its id.

    Raises:
        InputError: Weights of a `linear` add up to zero, or would scale the base.
        KeyError: A vector is not in `vectors`; callers check names first, where they know the file.
    """
    terms = _normalize_sum(recipe.terms, vectors.__getitem__)
    files = tuple(sorted((path, vectors.get(owner, owner)) for path, owner in recipe.files))
    return Recipe(base, terms, files)


def recipe_id(normal: Recipe) -> ObjectId:
    """Return the id of a recipe in normal form: the hash of its base, terms and file choices."""
    fields = [normal.base, str(len(normal.terms)), *map(format_term, normal.terms)]
    fields += [part for choice in normal.files for part in choice]
    return hash_fields("tvc.recipe", *(text.encode() for text in fields))
