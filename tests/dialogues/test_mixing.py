"""Shares are kept in every window, whole files are gone through, and a seed says it all."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvc.dialogues.mixing import BadMix, mixed_order, parse_mix, rows_for

share = st.fractions(Fraction(1, 50), Fraction(9, 10), max_denominator=50)


def counts(files: list[int], file: int) -> list[int]:
    found = [0]
    for each in files:
        found.append(found[-1] + (each == file))
    return found


def worst(files: list[int], file: int, share: Fraction, *, everywhere: bool) -> Fraction:
    """The largest distance between a file's rows in a stretch and its share of the stretch."""
    off = [count - n * share for n, count in enumerate(counts(files, file))]
    if not everywhere:
        return max(map(abs, off))
    return max(off) - min(off)


@given(share, st.integers(0, 5))
def test_two_files_keep_their_shares_in_every_window(share: Fraction, seed: int) -> None:
    files = [pick.file for pick in mixed_order([7, 3], [share], seed=seed, rows=160)]
    for file, part in enumerate([1 - share, share]):
        assert worst(files, file, part, everywhere=True) < 1


@given(st.lists(share, min_size=2, max_size=4).filter(lambda found: sum(found) < 1))
def test_more_files_keep_theirs_from_the_beginning_on(shares: list[Fraction]) -> None:
    sizes = [5] * (len(shares) + 1)
    files = [pick.file for pick in mixed_order(sizes, shares, seed=0, rows=150)]
    for file, part in enumerate([1 - sum(shares), *shares]):
        # Tijdeman's bound, which no other algorithm betters.
        bound = 1 - Fraction(1, 2 * len(sizes) - 2)
        assert worst(files, file, part, everywhere=False) <= bound
        assert worst(files, file, part, everywhere=True) < 2


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.integers(0, 3),
    st.integers(0, 60),
)
def test_every_file_is_gone_through_whole_each_time(sizes, seed, rows) -> None:
    shares = [Fraction(1, 4)] * (len(sizes) - 1)
    order = mixed_order(sizes, shares, seed=seed, rows=rows)
    assert len(order) == rows
    assert order == mixed_order(sizes, shares, seed=seed, rows=rows + 5)[:rows]
    for file, size in enumerate(sizes):
        picked = [pick.row for pick in order if pick.file == file]
        turns = [picked[start : start + size] for start in range(0, len(picked), size)]
        for turn in turns:
            assert len(set(turn)) == len(turn)
        for turn in turns[:-1]:
            assert sorted(turn) == list(range(size))


def test_one_epoch_is_one_pass_over_the_main_data() -> None:
    for main, text in [(300, "0.25"), (7, "1/3"), (1, "0.9"), (10, "0.001")]:
        share = Fraction(text)
        order = mixed_order([main, 4], [share], seed=1, rows=rows_for(main, [share]))
        rows = [pick.row for pick in order if pick.file == 0]
        assert set(rows) == set(range(main))
        assert len(rows) <= main + 1
    assert rows_for(300, []) == 300
    assert rows_for(300, [], epochs=3) == 900


def test_turns_and_seeds_give_other_orders() -> None:
    order = [pick.row for pick in mixed_order([50], [], seed=1, rows=100)]
    assert order[:50] != order[50:]
    assert order[:50] != [pick.row for pick in mixed_order([50], [], seed=2, rows=50)]
    one, other = (
        [p.row for p in mixed_order([50, 50], [Fraction(1, 2)], seed=1, rows=100) if p.file == f]
        for f in (0, 1)
    )
    assert one != other


def test_the_order_of_a_seed_never_changes() -> None:
    order = mixed_order([4, 2], [Fraction(1, 4)], seed=7, rows=8)
    assert [tuple(pick) for pick in order] == GOLDEN


GOLDEN = [(0, 0), (0, 2), (1, 0), (0, 3), (0, 1), (0, 0), (1, 1), (0, 1)]


def test_counting_is_the_share() -> None:
    order = mixed_order([10, 10, 10], [Fraction("0.25"), Fraction("0.1")], seed=0, rows=2000)
    assert Counter(pick.file for pick in order) == {0: 1300, 1: 500, 2: 200}


@pytest.mark.parametrize("text", ["general.jsonl", "general.jsonl:1", "g:0", "g:-0.5", ":0.5"])
def test_what_is_no_mix_is_refused(text: str) -> None:
    with pytest.raises(BadMix):
        parse_mix(text)


def test_a_mix_is_a_file_and_an_exact_share() -> None:
    assert parse_mix("a:b.jsonl:0.25") == ("a:b.jsonl", Fraction(1, 4))


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(BadMix, match="nothing is left"):
        mixed_order([3, 3, 3], [Fraction(1, 2), Fraction(1, 2)], seed=0, rows=3)
    with pytest.raises(BadMix, match="no rows"):
        mixed_order([3, 0], [Fraction(1, 2)], seed=0, rows=3)
