"""Laws of three-way merging: like git's lines, term by term."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tvc.domain.recipe import Term, VectorName, add, difference
from tvc.domain.threeway import merge_choices, merge_terms

coefficients = st.integers(-2, 2).map(Fraction)
sides = st.dictionaries(st.sampled_from("abcd"), coefficients, max_size=4).map(
    lambda found: tuple(
        Term(found[name], VectorName(name)) for name in sorted(found) if found[name]
    )
)


@given(sides, sides)
def test_one_sided_changes_are_taken(base, theirs):
    assert merge_terms(base, base, theirs) == (theirs, [])
    assert merge_terms(base, theirs, base) == (theirs, [])


@given(sides, sides)
def test_the_same_change_on_both_sides_is_made_once(base, both):
    assert merge_terms(base, both, both) == (both, [])


@given(sides, sides, sides)
def test_sides_can_be_exchanged(base, ours, theirs):
    one, conflicts = merge_terms(base, ours, theirs)
    other, mirrored = merge_terms(base, theirs, ours)
    assert one == other
    assert [(c.ours, c.theirs) for c in conflicts] == [(c.theirs, c.ours) for c in mirrored]


@given(sides, sides, sides)
def test_without_common_terms_it_is_the_sum(base, ours, theirs):
    merged, conflicts = merge_terms(base, ours, theirs)
    mine = {t.atom for t in difference(ours, base)}
    other = {t.atom for t in difference(theirs, base)}
    if not mine & other:
        expected = add(ours, difference(theirs, base))
        assert not conflicts
        assert {t.atom: t.coefficient for t in merged} == {t.atom: t.coefficient for t in expected}


@given(sides, sides, sides)
def test_a_favoured_side_leaves_no_conflict(base, ours, theirs):
    clear, conflicts = merge_terms(base, ours, theirs)
    for side in ("ours", "theirs"):
        merged, left = merge_terms(base, ours, theirs, favour=side)
        assert not left
        expected = {t.atom: t.coefficient for t in clear}
        expected |= {t.atom: t.coefficient for c in conflicts for t in c.terms(side)}
        assert {t.atom: t.coefficient for t in merged} == expected


@given(*[st.dictionaries(st.sampled_from("xy"), st.sampled_from("pq"))] * 3)
def test_choices_merge_alike(base, ours, theirs):
    merged, conflicts = merge_choices(base, ours, theirs)
    for path in {*base, *ours, *theirs}:
        a, o, t = base.get(path), ours.get(path), theirs.get(path)
        if path in conflicts:
            assert len({a, o, t}) == 3
        else:
            assert merged.get(path) == (t if o == a else o)
