"""Laws of the algebra: what is parsed is what was written, and normal forms do not depend on order."""

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvc.domain.errors import InputError
from tvc.domain.grammar import RecipeSyntaxError, parse_number, parse_option, parse_sum
from tvc.domain.names import BadName, check_file_name, check_name, printable
from tvc.domain.recipe import (
    COMMUTATIVE,
    Group,
    Member,
    Recipe,
    Term,
    VectorName,
    add,
    difference,
    format_number,
    format_sum,
    normalize,
    recipe_id,
    vector_names,
)

NAMES = ["a", "b", "c", "listen", "team/brief", "A-b", "x.y", "true", "_z"]
numbers = st.builds(
    Fraction,
    st.integers(-10_000, 10_000).filter(bool),
    st.sampled_from([1, 2, 3, 5, 7, 10, 100, 128, 1000]),
)
options = st.dictionaries(
    st.sampled_from(["density", "scope", "normalize", "seed", "gammas"]),
    st.one_of(
        numbers,
        st.booleans(),
        st.sampled_from(["tensor", "vector", "true", "Odd-Word"]),
        st.lists(numbers, min_size=1, max_size=3).map(tuple),
    ),
    max_size=3,
)
vectors = st.sampled_from(NAMES).map(VectorName)


def sums(atoms, *, most=4, least=0):
    return st.lists(
        st.builds(Term, numbers, atoms), min_size=least, max_size=most, unique_by=lambda t: t.atom
    ).map(tuple)


def groups(atoms):
    members = st.builds(Member, numbers, sums(atoms, most=3))
    return st.builds(
        lambda method, found, given_options: Group(
            method, tuple(found), tuple(sorted(given_options.items()))
        ),
        st.sampled_from(["ties", "slerp", "dare", "mine"]),
        st.lists(members, min_size=1, max_size=3),
        options,
    )


atoms = st.recursive(vectors, lambda inner: st.one_of(vectors, groups(inner)), max_leaves=6)
recipes = sums(atoms)


def normal(terms):
    ids = {name: f"id-{name.replace('/', '-')}" for name in vector_names(terms)}
    return normalize(Recipe("base", terms), base="base-id", vectors=ids)


@given(recipes)
def test_what_was_written_is_read_back(terms):
    assert parse_sum(format_sum(terms)) == terms


@given(numbers)
def test_numbers_are_exact(number):
    assert parse_number(format_number(number)) == number


@given(recipes, st.randoms(use_true_random=False))
def test_the_order_of_terms_means_nothing(terms, random):
    shuffled = list(terms)
    random.shuffle(shuffled)
    assert recipe_id(normal(tuple(shuffled))) == recipe_id(normal(terms))


@given(recipes, recipes)
def test_what_is_added_and_taken_away_is_gone(terms, more):
    assert normal(difference(add(terms, more), more)) == normal(terms)


@given(recipes)
def test_a_normal_form_is_its_own(terms):
    once = normal(terms)
    ids = {name: name for name in vector_names(once.terms)}
    assert normalize(once, base="base-id", vectors=ids) == once


@given(recipes, numbers)
def test_other_coefficients_are_other_recipes(terms, number):
    more = add(terms, (Term(number, VectorName("other")),))
    assert recipe_id(normal(more)) != recipe_id(normal(terms))


def test_members_of_commutative_methods_are_sorted_and_others_not():
    one, other = normal(parse_sum("ties(a, b)")), normal(parse_sum("ties(b, a)"))
    assert one == other
    assert normal(parse_sum("slerp(a, b)")) != normal(parse_sum("slerp(b, a)"))
    # Options given per member go with the order.
    assert normal(parse_sum("ties(a, b; density=[0.1, 0.2])")) != normal(
        parse_sum("ties(b, a; density=[0.1, 0.2])")
    )


def test_methods_are_commutative_as_their_files_say():
    from tvc.merging.registry import load_methods

    said = {name for name, method in load_methods().items() if method.commutative}
    several = {name for name, method in load_methods().items() if method.members[1] != 1}
    assert said & several == COMMUTATIVE & several


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear(a, b)", "0.5 * a + 0.5 * b"),
        ("linear(a, 3 * b)", "0.25 * a + 0.75 * b"),
        ("linear(0, a)", "0.5 * a"),
        ("linear(2 * a, -1 * b; normalize=false)", "2 * a - b"),
        ("0.5 * linear(a + c, b)", "0.25 * a + 0.25 * b + 0.25 * c"),
        ("0.5 * (a - b) + b", "0.5 * a + 0.5 * b"),
        ("a - a", "0"),
        ("ties(a - a, 0)", "0"),
        ("2 * ties(a, b) - 2 * ties(b, a)", "0"),
    ],
)
def test_what_is_a_sum_is_written_as_one(text, expected):
    ids = {name: name for name in "abc"}
    found = normalize(Recipe("q", parse_sum(text)), base="q", vectors=ids)
    assert format_sum(found.terms) == expected


def test_a_weight_is_not_a_coefficient():
    assert parse_sum("ties(0.8 * a, b)") != parse_sum("ties((0.8 * a), b)")
    (term,) = parse_sum("ties(0.8 * a, (0.8 * a), -0.5 * (a + b), a - b)")
    weights = [str(member.weight) for member in term.atom.members]
    assert weights == ["4/5", "1", "-1/2", "1"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected the name of a vector"),
        ("a-a", None),
        ("a b", "expected the end"),
        ("0.5 listen", "a number multiplies a vector"),
        ("0.5 * ", "expected the name of a vector"),
        ("Listen", "cannot be read"),
        ("ties(a, b", "expected ')'"),
        ("ties(a; density)", "expected '='"),
        ("ties(a; density=1, density=2)", "given twice"),
        ("ties(0 * a)", "weight of a member must not be zero"),
        ("1/0 * a", "divides by zero"),
        ("'../../etc'", "cannot name a vector"),
        ("'a\x1b[31m'", "cannot name a vector"),
        ("1e99 * a", "is not a number"),
        ("9" * 60 + " * a", "is not a number"),
        ("a" * 101, "cannot name a vector"),
        ("a\x00b", "cannot be read"),
        ("((((((((" * 6 + "a" + "))))))))" * 6, "nested deeper"),
        ("ties(" * 50 + "a" + ")" * 50, "nested deeper"),
        ("-" * 5 + "a", "expected the name"),
    ],
)
def test_what_does_not_parse_says_where(text, problem):
    if problem is None:
        assert parse_sum(text) == ()
        return
    with pytest.raises(
        InputError, match="^(?s:.*)" + problem.replace("(", r"\(").replace(")", r"\)")
    ):
        parse_sum(text)


def test_the_caret_stands_under_the_place():
    with pytest.raises(RecipeSyntaxError) as caught:
        parse_sum("0.5 * ties(0.8 listen; density=1)")
    _, text, caret = caught.value.message.split("\n")
    assert text[caret.index("^")] == "l"


@given(st.text(max_size=80))
def test_any_text_parses_or_is_refused_in_words(text):
    with suppress(InputError):
        parse_sum(text)


@given(st.text(alphabet="ab()+-*,;=[]0123456789. '/e", max_size=60))
def test_any_nearly_right_text_parses_or_is_refused(text):
    try:
        terms = parse_sum(text)
    except InputError:
        return
    assert parse_sum(format_sum(terms)) == terms


@pytest.mark.parametrize("text", ["density", "0.2 0.3", "[", "[1,", "[]", "[a]", "", "1e9999"])
def test_options_are_words_numbers_or_lists(text):
    if text == "density":
        assert parse_option(text) == "density"
        return
    with pytest.raises(InputError):
        parse_option(text)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/../b",
        "/a",
        "a/",
        "-a",
        "a b",
        "con",
        "a.lock",
        "a..b",
        "é",
        "a\n",
        "NUL/x",
        "x" * 101,
    ],
)
def test_bad_names_are_refused(name):
    with pytest.raises(BadName):
        check_name(name)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        ".git/config",
        "a/.GIT/x",
        "c:x",
        "a\\b",
        "a\x1b[2J",
        "a\x00",
        "x" * 300,
    ],
)
def test_bad_file_names_are_refused(path):
    with pytest.raises(BadName):
        check_file_name(path)


@given(st.text())
def test_what_is_printable_moves_no_cursor(text):
    shown = printable(text, limit=10_000)
    assert all(char.isprintable() for char in shown)
