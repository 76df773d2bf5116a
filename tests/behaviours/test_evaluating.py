"""A recipe is measured once, results stand with their commits, and searches find what did it."""

import json
import subprocess
from pathlib import Path

import pytest
from line_bench import LINE, SUITE, write_suite

from tvc.behaviours.bisecting import Found, NotFound, bisect, bisect_terms
from tvc.behaviours.evaluating import Evaluator, Settings
from tvc.behaviours.intervals import Rate
from tvc.behaviours.keeping import NOTES
from tvc.behaviours.measuring import Bench
from tvc.behaviours.subjects import (
    Subject,
    base_of,
    commit_line,
    recipe_subject,
    subjects_of,
    working_subject,
)
from tvc.behaviours.suite import read_suite
from tvc.behaviours.transfer import transfer_of
from tvc.domain.errors import InputError
from tvc.domain.grammar import parse_sum
from tvc.domain.library import UnknownVector
from tvc.domain.recipe import Recipe, format_recipe
from tvc.repository.gateway import GitFailed
from tvc.repository.repository import Repository


@pytest.fixture
def suite(tmp_path: Path):
    return read_suite(write_suite(tmp_path, prompts=24))


def evaluator(repository: Repository, suite, **settings) -> Evaluator:
    return Evaluator(repository, suite, Bench(batch=64), Settings(**settings))


def git(repository: Repository, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=repository.layout.root, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_names_of_subjects(repository: Repository) -> None:
    (head,) = subjects_of(repository, "HEAD")
    assert format_recipe(head.state.recipe) == "base + " + " + ".join(LINE)
    (base,) = subjects_of(repository, "base")
    assert (base.recipe, base.commit) == (base_of(head.state).recipe, "")
    line = subjects_of(repository, "HEAD~3..HEAD")
    assert [len(each.state.recipe.terms) for each in line] == [2, 3, 4]
    assert line[-1].recipe == head.recipe == working_subject(repository).recipe
    assert working_subject(repository).commit == head.commit
    git(repository, "branch", "base", "HEAD~1")
    assert (
        subjects_of(repository, "base")[0].commit == git(repository, "rev-parse", "HEAD~1").strip()
    )
    for bad in ("none", "HEAD..none", "-rf"):
        with pytest.raises(GitFailed):
            subjects_of(repository, bad)
    for bad in ("HEAD..HEAD~1", "HEAD..HEAD"):
        with pytest.raises(InputError, match="is not before"):
            subjects_of(repository, bad)


def test_recipes_that_nobody_committed(repository: Repository) -> None:
    (head,) = subjects_of(repository, "HEAD")
    assert recipe_subject(repository, "base + calm + accept + quick + ask").recipe == head.recipe
    assert recipe_subject(repository, "ask + quick + accept + calm").recipe == head.recipe
    assert recipe_subject(repository, "base").recipe == base_of(head.state).recipe
    half = recipe_subject(repository, "base - 0.5 * accept")
    assert half.state.recipe == Recipe("base", parse_sum("-0.5 * accept"))
    with pytest.raises(UnknownVector):
        recipe_subject(repository, "base + unknown")
    with pytest.raises(InputError, match="stands 2 times"):
        recipe_subject(repository, "2 * base + accept")
    with pytest.raises(InputError):
        recipe_subject(repository, "base +")
    with repository.change("edit") as change:
        change.edit(half.state)
    edited = working_subject(Repository.open(repository.layout.root))
    assert (edited.label, edited.recipe) == ("working tree", half.recipe)


def test_a_recipe_is_measured_once(repository: Repository, suite) -> None:
    told: list[tuple[str, bool]] = []

    def tell(subject: Subject, again: bool) -> None:
        told.append((subject.label, again))

    (head,) = subjects_of(repository, "HEAD")
    first = evaluator(repository, suite, on_subject=tell)
    found = first.evaluate(head)
    same = recipe_subject(repository, "ask + quick + accept + calm")
    assert first.evaluate(same) is found
    assert evaluator(repository, suite, on_subject=tell).evaluate(same) == found
    again = evaluator(repository, suite, on_subject=tell, rerun=True).evaluate(head)
    assert again.behaviours == found.behaviours
    assert again.answers_kl == found.answers_kl
    assert told == [("HEAD", False), (same.label, True), ("HEAD", False)]


def test_results_are_notes_that_travel(repository: Repository, suite, tmp_path: Path) -> None:
    (head,) = subjects_of(repository, "HEAD")
    found = evaluator(repository, suite, distance=False).evaluate(head)
    note = json.loads(git(repository, "notes", "--ref=tvc-eval", "show", "HEAD"))
    assert note["recipe"] == head.recipe
    assert git(repository, "status", "--porcelain") == ""
    log = git(repository, "log", "-1", "--notes=tvc-eval", "--format=%N")
    assert "behaviours" in log
    # Another suite has a line of its own, and neither is in the other's place.
    write_suite(tmp_path, SUITE.replace("seed = 3", "seed = 4"), prompts=24)
    other = read_suite(tmp_path / "suite.toml")
    for _ in range(2):
        evaluator(repository, other, distance=False, rerun=True).evaluate(head)
    assert len(git(repository, "notes", "--ref=tvc-eval", "show", "HEAD").strip().split("\n")) == 2
    clone = tmp_path / "clone"
    git(repository, "clone", "-q", ".", str(clone))
    (clone / ".tvc").mkdir()
    there = Repository.open(clone)
    git(there, "fetch", "-q", "origin", f"{NOTES}:{NOTES}")
    assert evaluator(there, suite, distance=False).evaluate(head) == found


@pytest.mark.slow
def test_what_is_damaged_or_anothers_is_measured_again(repository: Repository, suite) -> None:
    (head,) = subjects_of(repository, "HEAD")
    found = evaluator(repository, suite, distance=False).evaluate(head)
    (kept,) = (repository.layout.private / "evaluations").iterdir()
    lie = json.loads(kept.read_text()) | {"recipe": "another"}
    told: list[bool] = []
    for text in (json.dumps(lie), "{", ""):
        kept.write_text(text)
        git(repository, "notes", f"--ref={NOTES}", "add", "-f", "-m", text or "?", "HEAD")
        again = evaluator(
            repository, suite, distance=False, on_subject=lambda _, kept: told.append(kept)
        )
        assert again.evaluate(head).behaviours == found.behaviours
    assert told == [False] * 3


def test_what_cannot_be_kept_is_returned_nevertheless(repository: Repository, suite) -> None:
    (head,) = subjects_of(repository, "HEAD")
    (repository.layout.private / "evaluations").write_text("in the way")
    told: list[str] = []
    measuring = evaluator(
        repository, suite, distance=False, on_unkept=lambda error: told.append(error.message)
    )
    assert measuring.evaluate(head).behaviours
    assert len(told) == 1


@pytest.mark.slow
def test_a_result_without_distance_does_not_do_where_one_is_wanted(
    repository: Repository, suite
) -> None:
    (head,) = subjects_of(repository, "HEAD")
    assert evaluator(repository, suite, distance=False).evaluate(head).answers_kl is None
    assert evaluator(repository, suite).evaluate(head).answers_kl is not None
    (base,) = subjects_of(repository, "base")
    assert evaluator(repository, suite).evaluate(base).answers_kl is None


def rate_of(evaluation: Evaluator, name: str):
    return lambda subject: evaluation.evaluate(subject).behaviours[name].alone.rate


@pytest.mark.slow
def test_the_commit_that_brought_a_behaviour_in(repository: Repository, suite) -> None:
    measuring = evaluator(repository, suite, distance=False)
    line = [*subjects_of(repository, "HEAD~4"), *commit_line(repository, "HEAD~4", "HEAD~1")]
    found = bisect(line, rate_of(measuring, "accepts"))
    assert found.subject.commit == git(repository, "rev-parse", "HEAD~2").strip()
    assert found.before.rate.value < 0.4 < 0.8 < found.after.rate.value
    assert found.doubts == ()
    with pytest.raises(NotFound, match="that is no difference"):
        bisect(line[:2], rate_of(measuring, "accepts"))
    # `ask` says hm, and so neither yes nor no any more.
    gone = bisect([line[-1], *subjects_of(repository, "HEAD")], rate_of(measuring, "accepts"))
    assert gone.subject.commit == git(repository, "rev-parse", "HEAD").strip()


@pytest.mark.slow
def test_the_term_that_brought_a_behaviour_in(repository: Repository, suite) -> None:
    (whole,) = subjects_of(repository, "HEAD")
    found = bisect_terms(whole, rate_of(evaluator(repository, suite, distance=False), "asks"))
    assert found.term == "ask"
    assert found.alone.value > 0.9
    assert found.without.value == 0
    assert found.words.startswith("it is enough alone, and the recipe does not show it without it")
    with pytest.raises(NotFound, match="has no terms"):
        bisect_terms(base_of(whole.state), rate_of(evaluator(repository, suite), "asks"))


def line_of(counts: list[int], total: int = 50):
    """Subjects whose rates are given, and a list of those that were measured."""
    measured: list[int] = []
    line = [Subject(str(place), None) for place in range(len(counts))]  # type: ignore[arg-type] -- only the label is looked at

    def rate(subject: Subject) -> Rate:
        measured.append(int(subject.label))
        return Rate(counts[int(subject.label)], total)

    return line, rate, measured


@pytest.mark.parametrize("size", [2, 3, 7, 64, 100])
def test_as_many_measurements_as_digits(size: int) -> None:
    for change in range(1, size):
        for low, high in ((2, 48), (48, 2)):
            line, rate, measured = line_of([low] * change + [high] * (size - change))
            found = bisect(line, rate)
            assert found.subject.label == str(change)
            assert len(measured) == len(set(measured)) <= 2 + (size - 2).bit_length()
            assert not found.doubts


def doubts(counts: list[int], **options) -> tuple[Found, str]:
    line, rate, _ = line_of(counts)
    found = bisect(line, rate, **options)
    return found, "\n".join(found.doubts)


def test_doubts_are_said() -> None:
    found, words = doubts([2, 20, 30, 48])
    assert found.subject.label == "2"
    assert "may differ by chance" in words
    found, words = doubts([0, 0, 26, 50])
    assert "too near 50%" in words
    found, words = doubts([0, 0, 50, 0, 50, 50, 50], every=True)
    assert "is on the other side" in words
    assert len(found.probes) == 7
    found, words = doubts([0, 10, 50], threshold=0.1)
    assert found.subject.label == "1"
    with pytest.raises(NotFound, match="is not between the ends"):
        doubts([0, 10, 50], threshold=1.5)


@pytest.mark.slow
def test_the_transfer_matrix_is_as_in_the_papers(repository: Repository, suite) -> None:
    """Against the equations, written out: R[i][j], b; ACC, BWT, FWT, forgetting."""
    measuring = evaluator(repository, suite, distance=False)
    base = measuring.evaluate(subjects_of(repository, "base")[0])
    chain = [
        (each.label, measuring.evaluate(each))
        for each in subjects_of(repository, "HEAD~3..HEAD")[::2]
    ]
    names = ("accepts", "asks")
    found = transfer_of(base, chain, names)
    rates = [[each.behaviours[name].alone.rate.value for name in names] for _, each in chain]
    start = [base.behaviours[name].alone.rate.value for name in names]
    assert [[rate.value for rate in row] for row in found.rates] == rates
    assert found.average.value == pytest.approx((rates[1][0] + rates[1][1]) / 2)
    assert found.backward.value == pytest.approx(rates[1][0] - rates[0][0])
    assert found.forward.value == pytest.approx(rates[0][1] - start[1])
    assert found.forgetting.value == pytest.approx(rates[0][0] - rates[1][0])
    assert found.backward.value < -0.8  # who asks no longer accepts
    assert 0 < found.backward.error < 0.1
