"""`tvc merge`: joins branches, term by term or by a merge method, against git's own merge base.

A plain merge is three-way, as git's: `a + (o - a) + (t - a)`. A merge method is given the
differences themselves: `a + ties(o - a, t - a, …)`; one that is stated over whole models is given
the models.
Nothing here prints, and nothing is written but through a `Change`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tvc.domain.errors import ConflictError, InputError, StateError
from tvc.domain.files import FileConflict, plan_files
from tvc.domain.names import printable
from tvc.domain.recipe import (
    Group,
    Member,
    OptionValue,
    Recipe,
    Sum,
    Term,
    add,
    difference,
)
from tvc.domain.threeway import Conflict, Side, merge_choices, merge_terms
from tvc.merging.registry import find_method
from tvc.repository.objects import Objects
from tvc.repository.position import Position
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import adopt
from tvc.versioning.replaying import with_normal
from tvc_store.local import Store

__all__ = [
    "MergeRequest",
    "Prepared",
    "Tip",
    "UpToDate",
    "is_ancestor",
    "joined_vectors",
    "merge_base",
    "prepare_merge",
    "settle_files",
    "tip_of",
]


class UpToDate(StateError):
    """There is nothing to merge."""


@dataclass(frozen=True, slots=True)
class Tip:
    """One side of a merge.

    Args:
        name: As the user called it.
        commit: Full hash.
        state: What it says.
        normal: Its recipe in normal form.
    """

    name: str
    commit: str
    state: State
    normal: Recipe


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """What the user asked for.

    Args:
        branches: Names of what to merge into HEAD.
        method: Name of a merge method; None for a plain merge.
        options: The method's options.
        scale: λ, what the merged difference is multiplied by.
        weights: Branch → weight inside the method.
        favour: Whose side to take in conflicts.
        fast_forward: Move the branch without a commit where that is all there is to do.
    """

    branches: Sequence[str]
    method: str | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict[str, OptionValue])
    scale: Fraction = Fraction(1)
    weights: Mapping[str, Fraction] = field(default_factory=dict[str, Fraction])
    favour: Side | None = None
    fast_forward: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A merge that is worked out but not yet made.

    Args:
        state: What the merge commit will say; without the conflicting terms, if there are any.
        ours: Our side.
        theirs: The others.
        base: The merge base, in normal form.
        conflicts: Terms that two sides changed differently.
        file_conflicts: Path → (ours, theirs), by names, where two sides choose differently.
        fast_forward: The commit to move to, where that is all there is to do.
        members: Name and difference of what is merged, where that is not what the sides changed.
    """

    state: State
    ours: Tip
    theirs: tuple[Tip, ...]
    base: Recipe
    conflicts: tuple[Conflict, ...] = ()
    file_conflicts: Mapping[str, tuple[str | None, str | None]] = field(
        default_factory=dict[str, tuple[str | None, str | None]]
    )
    fast_forward: str | None = None
    members: tuple[tuple[str, Sum], ...] | None = None

    @property
    def is_clear(self) -> bool:
        """Whether nothing is left for a person to decide."""
        return not self.conflicts and not self.file_conflicts

    def differences(self) -> list[tuple[str, Sum]]:
        """Return what each side changed against the merge base, by the side's name."""
        if self.members is not None:
            return list(self.members)
        sides = [(tip.name, difference(tip.normal.terms, self.base.terms)) for tip in self._sides()]
        return [(name, terms) for name, terms in sides if terms]

    def _sides(self) -> tuple[Tip, ...]:
        return (self.ours, *self.theirs)


def prepare_merge(
    repository: Repository, position: Position, request: MergeRequest, store: Store
) -> Prepared:
    """Work out a merge; nothing is changed.

    Args:
        repository: The repository.
        position: Where it stands.
        request: What is asked for.
        store: Where lists of tensors and files are read from.

    Raises:
        UpToDate: HEAD has all that would be merged.
        InputError: A branch, a method or an option is wrong.
        ConflictError: Several branches at once conflict; they have to be merged one by one.
    """
    ours = tip_of(repository, position.branch or "HEAD", position.commit)
    tips = [tip_of(repository, name, repository.git.resolve(name)) for name in request.branches]
    theirs = tuple(tip for tip in tips if not is_ancestor(repository, tip.commit, ours.commit))
    if not theirs:
        raise UpToDate("already up to date")
    if request.method is None:
        theirs = _heads(repository, theirs)
    elif len({tip.commit for tip in theirs}) < len(theirs):
        raise InputError("one commit is named twice", hint="--weight BRANCH=2 counts it twice")
    base = merge_base(repository, [ours, *theirs])
    merged = joined_vectors(ours, theirs)
    prepared = Prepared(merged, ours, theirs, base.normal)
    if request.method is None:
        moved = request.fast_forward and len(theirs) == 1 and base.commit == ours.commit
        if moved:
            return replace(prepared, state=theirs[0].state, fast_forward=theirs[0].commit)
        prepared = _merge_plainly(prepared, base, request.favour)
    else:
        prepared = _merge_by_method(prepared, base, request)
    return settle_files(prepared, store, request.favour) if prepared.is_clear else prepared


def _heads(repository: Repository, tips: Sequence[Tip]) -> tuple[Tip, ...]:
    """Return the sides that no other one has already, as git does."""
    found: list[Tip] = []
    for index, tip in enumerate(tips):
        others = [*found, *tips[index + 1 :]]
        if not any(is_ancestor(repository, tip.commit, other.commit) for other in others):
            found.append(tip)
    return tuple(found)


def tip_of(repository: Repository, name: str, commit: str) -> Tip:
    """Return a commit as a side of a merge, called `name`."""
    state = repository.state_at(commit)
    return Tip(name, commit, state, state.normal)


def is_ancestor(repository: Repository, older: str, newer: str) -> bool:
    """Say whether one commit is another's ancestor, or the same."""
    return repository.git.attempt("merge-base", "--is-ancestor", older, newer)[0] == 0


def merge_base(repository: Repository, tips: Sequence[Tip]) -> Tip:
    """Return git's merge base of several sides at once.

    Raises:
        InputError: They have no common history.
    """
    commits = [tip.commit for tip in tips]
    status, output, _ = repository.git.attempt("merge-base", "--octopus", *commits)
    if status:
        names = " and ".join(printable(tip.name) for tip in tips)
        raise InputError(f"{names} have no common history")
    return tip_of(repository, "the merge base", output.decode().strip())


def joined_vectors(ours: Tip, theirs: Sequence[Tip]) -> State:
    """Return our state with the vectors and bases of the others.

    Raises:
        AmbiguousVector: Two sides have different vectors of one name.
        ConflictError: Two sides have different bases of one name.
    """
    state = ours.state
    for tip in theirs:
        state = adopt(state, dict(tip.state.vectors))
        for name, base in tip.state.bases.items():
            if state.bases.get(name, base) != base:
                raise ConflictError(f"base {name!r} is another one on {printable(tip.name)}")
        state = replace(state, bases={**tip.state.bases, **state.bases})
    return state


def _merge_plainly(prepared: Prepared, base: Tip, favour: Side | None) -> Prepared:
    terms, choices = prepared.ours.normal.terms, dict(prepared.ours.normal.files)
    conflicts: list[Conflict] = []
    files: dict[str, tuple[str | None, str | None]] = {}
    root = prepared.ours.normal.base
    for tip in prepared.theirs:
        root = _merged_base(base, prepared.ours, tip, root)
        terms, found = merge_terms(base.normal.terms, terms, tip.normal.terms, favour=favour)
        choices, chosen = merge_choices(
            dict(base.normal.files), choices, dict(tip.normal.files), favour=favour
        )
        conflicts += found
        files |= chosen
        if (conflicts or files) and len(prepared.theirs) > 1:
            raise ConflictError(
                f"{printable(tip.name)} conflicts with the others",
                hint="merge the branches one at a time, or say --ours or --theirs",
            )
    state = with_normal(prepared.state, Recipe(root, terms, tuple(sorted(choices.items()))))
    return replace(prepared, state=state, conflicts=tuple(conflicts), file_conflicts=files)


def _merged_base(base: Tip, ours: Tip, theirs: Tip, root: str) -> str:
    if theirs.normal.base in (root, base.normal.base):
        return root
    if root == base.normal.base:
        return theirs.normal.base
    raise ConflictError(
        f"{printable(ours.name)} and {printable(theirs.name)} stand on different base models",
        hint="put one on the other's base first: tvc rebase --onto BASE",
    )


def _merge_by_method(prepared: Prepared, base: Tip, request: MergeRequest) -> Prepared:
    assert request.method is not None, "the caller has looked"
    if not request.scale:
        raise InputError("a lambda of 0 merges nothing")
    method = find_method(request.method)
    sides = (prepared.ours, *prepared.theirs)
    for tip in sides:
        if tip.normal.base != base.normal.base:
            raise ConflictError(
                f"{printable(tip.name)} stands on another base model",
                hint="put it on this one first: tvc rebase --onto BASE",
            )
    _check_weights(request.weights, sides)
    whole = method.space == "model"
    below: Sum = () if whole else base.normal.terms
    members = [
        Member(request.weights.get(tip.name, Fraction(1)), difference(tip.normal.terms, below))
        for tip in sides
    ]
    # Ours, where nothing was committed since the merge base, is no difference and not a member.
    members = [member for member in members if member.terms or whole]
    options = dict(request.options)
    method.check_members(len(members), method.check_options(options))
    group = Group(request.method, tuple(members), tuple(sorted(options.items())))
    terms = add(below, (Term(request.scale, group),))
    files: dict[str, str] = {}
    for tip in sides:
        files |= dict(tip.normal.files)
    recipe = Recipe(base.normal.base, terms, tuple(sorted(files.items())))
    return replace(prepared, state=with_normal(prepared.state, recipe))


def _check_weights(weights: Mapping[str, Fraction], sides: Sequence[Tip]) -> None:
    names = [tip.name for tip in sides]
    for name, weight in weights.items():
        if not weight:
            raise InputError(
                f"--weight {printable(name)}=0 merges nothing of it", hint="leave the branch out"
            )
        if name not in names:
            raise InputError(
                f"--weight {printable(name)}: it is not among what is merged",
                hint=f"merged are: {', '.join(map(printable, names))}",
            )


def settle_files(prepared: Prepared, store: Store, favour: Side | None) -> Prepared:
    """Find carried files that sides change differently, and choose where the user said whose."""
    library = Objects(store, prepared.state).library
    choices = dict(prepared.state.recipe.files)
    conflicts: dict[str, tuple[str | None, str | None]] = {}
    while True:
        recipe = replace(prepared.state.recipe, files=tuple(sorted(choices.items())))
        try:
            plan_files(library.normal_form(recipe), library)
        except FileConflict as error:
            mine, other = _owners(prepared, error)
            choices[error.path] = mine if favour != "theirs" else other
            if favour is None:
                conflicts[error.path] = (mine, other)
        else:
            break
    for path in conflicts:
        del choices[path]
    recipe = replace(prepared.state.recipe, files=tuple(sorted(choices.items())))
    state = prepared.state.with_recipe(recipe)
    return replace(prepared, state=state, file_conflicts=conflicts)


def _owners(prepared: Prepared, error: FileConflict) -> tuple[str, str]:
    """Return whose version of a file is ours and whose theirs, as names of vectors."""
    mine = set(prepared.ours.state.vectors)
    ours = next((name for name in error.owners if name in mine), error.owners[0])
    theirs = next((name for name in error.owners if name != ours), error.owners[-1])
    return ours, theirs
