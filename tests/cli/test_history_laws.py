"""Laws over random small histories: exact undo, and one recipe, one result."""

import itertools
import json
import os
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from cli_bench import copied, same, tensors
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tvc.cli.main import _run

pytestmark = pytest.mark.slow

# Each example runs many commands: a failure is shown as it is found, not shrunk for minutes.
few = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

ATOMS = [
    "listen",
    "brief",
    "hedging",
    "ties(listen, 0.7 * brief; density=0.3)",
    "0.5 * dare(brief, hedging; density=0.5, seed=3)",
    "ties(listen, hedging; density=0.4, scope=vector)",
    "slerp(listen, brief; t=0.25)",
    "linear(listen, 3 * hedging)",
]
coefficients = st.fractions(min_value=-2, max_value=2, max_denominator=12).filter(bool)
terms = st.tuples(coefficients, st.sampled_from(ATOMS)).map(lambda pair: f"{pair[0]} * ({pair[1]})")
sums = st.lists(terms, min_size=1, max_size=4)


class History:
    """A repository of its own for one example."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outputs = itertools.count()

    def __call__(self, *words: object, code: int = 0) -> str:
        said, wrong = StringIO(), StringIO()
        with chdir(self.root), redirect_stdout(said), redirect_stderr(wrong):
            status = _run(list(map(str, words)))
        assert status == code, f"{words}: {said.getvalue()}{wrong.getvalue()}"
        return said.getvalue()

    def facts(self, revision: str = "HEAD") -> dict:
        return json.loads(self("show", revision, "--json"))

    def identity(self, revision: str = "HEAD") -> str:
        return self.facts(revision)["recipe_id"]

    def model(self, revision: str = "HEAD"):
        target = self.root.parent / f"out-{next(self.outputs)}"
        self("checkout", revision, "-o", target)
        return tensors(target)

    def commit_terms(self, terms: list[str]) -> None:
        """Write recipe.toml as a person would, and commit it."""
        lines = "".join(f"  {json.dumps(term)},\n" for term in terms)
        text = f'format = 1\nbase = "base"\nterms = [\n{lines}]\n'
        recipe = self.root / "recipe.toml"
        before = recipe.read_text()
        recipe.write_text(text)
        if json.loads(self("status", "--json"))["changes"]:
            self("-q", "commit", "-m", "terms")
        else:
            recipe.write_text(before)  # the same sum, written otherwise


@pytest.fixture(scope="module")
def stocked(template, tmp_path_factory) -> Path:
    """All three vectors are at hand; the recipe is the base."""
    root = copied(template, tmp_path_factory.mktemp("laws") / "repo")
    history = History(root)
    history("-q", "merge", "listen", "brief", "hedging")
    history.commit_terms([])
    return root


@pytest.fixture
def fresh(stocked, tmp_path_factory):
    return lambda: History(copied(stocked, tmp_path_factory.mktemp("example") / "repo"))


@few
@given(sums, sums)
def test_revert_is_exact(fresh, below, change):
    """Whatever is added, once or on top of much else, a revert gives the same recipe and bytes."""
    history = fresh()
    history.commit_terms(below)
    start, bytes_before = history.identity(), history.model()
    for term in change:
        history("-q", "add", "--", term)
    if json.loads(history("status", "--json"))["changes"]:
        history("-q", "commit", "-m", "change")
        history("-q", "revert", "HEAD")
    assert history.identity() == start
    assert same(history.model(), bytes_before)


@few
@given(sums, sums, sums)
def test_reverts_in_any_order(fresh, below, one, other):
    """Two changes are taken back in either order, and a revert of a revert brings one back."""
    history = fresh()
    history.commit_terms(below)
    start = history.identity()
    for change in (one, other):
        for term in change:
            history("-q", "add", "--", term)
        if not json.loads(history("status", "--json"))["changes"]:
            return
        history("-q", "commit", "-m", "change")
    both = history.identity()
    history("-q", "revert", "HEAD~1")
    history("-q", "revert", "HEAD~1")
    assert history.identity() == start
    history("-q", "revert", "HEAD")
    history("-q", "revert", "HEAD~2")
    assert history.identity() == both


@few
@given(sums, st.randoms(use_true_random=False))
def test_one_recipe_one_result(fresh, below, random):
    """Order, splitting and brackets do not matter: the same normal form gives the same bytes."""
    history = fresh()
    history.commit_terms(below)
    start, bytes_before = history.identity(), history.model()
    parts = [f"1/3 * ({term})" for term in below] + [f"2/3 * ({term})" for term in below]
    random.shuffle(parts)
    noise = ["0.1 * hedging", "-0.1 * hedging"]
    history.commit_terms([*noise[:1], *parts, *noise[1:]])
    assert history.identity() == start
    assert same(history.model(), bytes_before)


@few
@given(sums, sums)
def test_merges_do_not_depend_on_the_side(fresh, one, other):
    """Ours into theirs is theirs into ours, where it is clear; a conflict is one from both sides."""
    history = fresh()
    for name, change in (("one", one), ("other", other)):
        history("-q", "switch", "-c", name, "main")
        for term in change:
            history("-q", "add", "--", term)
        if not json.loads(history("status", "--json"))["changes"]:
            return
        history("-q", "commit", "-m", name)
    found = []
    for ours, theirs in (("one", "other"), ("other", "one")):
        history("-q", "switch", ours)
        said = history("merge", "--dry-run", theirs)
        found.append(
            [line for line in said.splitlines() if line.startswith(("recipe: ", "agreed on: "))]
        )
    assert found[0] == found[1]


@few
@given(
    st.lists(
        st.sampled_from(["edit", "commit", "tag", "branch", "switch", "revert", "merge"]),
        max_size=7,
    )
)
def test_undo_takes_everything_back(fresh, steps):
    """Whatever was done, in whatever order, as many undos as operations lead back."""
    history = fresh()

    def position():
        return [history(*words, "--json") for words in (["status"], ["branch"], ["tag"])]

    def operations() -> int:
        return len(json.loads(history("op", "log", "-n", "1000", "--json")))

    start, before = position(), operations()
    commands = {
        "edit": lambda n: ["add", "listen", "--scale", f"1/{n + 2}"],
        "commit": lambda n: ["commit", "-m", str(n)],
        "tag": lambda n: ["tag", f"t{n}"],
        "branch": lambda n: ["branch", f"b{n}", "listen"],
        "switch": lambda n: ["switch", "-c", f"s{n}"],
        "revert": lambda n: ["revert", "HEAD"],
        "merge": lambda n: ["merge", "brief", "--no-ff"],
    }
    for number, step in enumerate(steps):
        words = commands[step](number)
        with chdir(history.root), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            assert _run(["-q", *words]) in (0, 1)  # some are refused where they are
    for _ in range(operations() - before):
        history("-q", "undo")
    assert position() == start
    assert os.listdir(history.root / ".tvc")
