"""What is measured, by the names that users give: commits, ranges, the base, the working tree.

Absent: weights; everything here is the algebra of recipes.
"""

from dataclasses import dataclass
from fractions import Fraction

from tvc.domain.errors import InputError, StateError
from tvc.domain.grammar import parse_sum
from tvc.domain.names import printable
from tvc.domain.recipe import Recipe, Term, VectorName, fold, recipe_id, vector_names
from tvc.repository.gateway import GitFailed
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import find_vectors

__all__ = ["Subject", "base_of", "commit_line", "recipe_subject", "subjects_of", "working_subject"]

BASE = "base"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that can be measured.

    Args:
        label: What it is called in tables.
        state: Whose recipe it is.
        commit: Full hash, where it is a commit's.
    """

    label: str
    state: State
    commit: str = ""

    @property
    def recipe(self) -> str:
        """Id of its recipe; equal ids are equal models.

        Raises:
            UnknownVector: The recipe names something that is not there.
        """
        return recipe_id(self.state.normal)


def base_of(state: State) -> Subject:
    """Return the base model of a state, without any vector."""
    return Subject(BASE, state.with_recipe(Recipe(state.recipe.base)))


def working_subject(repository: Repository) -> Subject:
    """Return what the working tree says; HEAD's commit where nothing was edited."""
    working, commit = repository.working_state(), repository.git.resolve("HEAD")
    head = Subject("HEAD", repository.state_at(commit), commit)
    edited = Subject("working tree", working)
    return head if head.recipe == edited.recipe else edited


def subjects_of(repository: Repository, revision: str) -> list[Subject]:
    """Return what a word stands for: a commit, commits `A..B` after A, or `base`.

    `base` is the base of HEAD, unless a branch or tag has that name.

    Raises:
        GitFailed: There is no such revision.
        InputError: A range is empty, or not one of first parents.
    """
    if ".." in revision:
        good, _, bad = revision.partition("..")
        return commit_line(repository, good, bad or "HEAD")
    try:
        commit = repository.git.resolve(revision)
    except GitFailed:
        if revision == BASE:
            return [base_of(repository.state_at("HEAD"))]
        raise
    return [Subject(printable(revision, limit=40), repository.state_at(commit), commit)]


def recipe_subject(repository: Repository, text: str) -> Subject:
    """Return a recipe that nobody committed, such as `base + listen - 0.5 * hedge`.

    The name of HEAD's base may stand in front, once; vectors may be of any branch.

    Raises:
        RecipeSyntaxError: It is no recipe.
        UnknownVector: No branch has a vector of that name.
        InputError: The base is scaled.
    """
    state = repository.working_state()
    terms = fold(parse_sum(text))
    base = state.recipe.base
    own = [term for term in terms if term.atom == VectorName(base)]
    if base in state.vectors:
        own = []
    if own and own[0].coefficient != Fraction(1):
        times = own[0].coefficient
        raise InputError(f"the base {base!r} stands {times} times in {printable(text)!r}")
    kept: tuple[Term, ...] = tuple(term for term in terms if term not in own)
    state = find_vectors(repository, state, vector_names(kept))
    return Subject(printable(text, limit=40), state.with_recipe(Recipe(base, kept)))


def commit_line(repository: Repository, good: str, bad: str) -> list[Subject]:
    """Return the commits after `good` up to `bad`, oldest first, by first parents.

    Raises:
        GitFailed: There is no such revision.
        InputError: `good` is not on that line, or is `bad`.
    """
    git = repository.git
    first, last = git.resolve(good), git.resolve(bad)
    line = git.text("rev-list", "--first-parent", last).split("\n")
    if first not in line or first == last:
        raise InputError(
            f"{printable(good)!r} is not before {printable(bad)!r} in its line of first parents",
            hint=f"see: tvc log {printable(bad)}",
        )
    commits = line[: line.index(first)][::-1]
    found = [Subject(commit[:10], repository.state_at(commit), commit) for commit in commits]
    if not found:
        raise StateError(f"there is no commit after {printable(good)!r}")
    return found
