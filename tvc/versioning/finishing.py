"""Makes a worked-out state the next commit: checked, measured, refused where it changes nothing.

A recipe that cannot be evaluated (arithmetic on integers, an unknown method, two tokenizers) is
refused before it is committed, not when somebody checks it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvc.domain.errors import StateError
from tvc.domain.files import plan_files
from tvc.domain.planning import plan
from tvc.domain.recipe import format_recipe
from tvc.evaluation.engine import Evaluator
from tvc.repository.objects import Objects, open_objects
from tvc.repository.repository import Change
from tvc.repository.state import State
from tvc.versioning.measuring import ModelChange, measure_change

__all__ = ["Made", "NothingToCommit", "check_evaluable", "commit_state", "union"]


class NothingToCommit(StateError):
    """A commit would record what HEAD is already."""


@dataclass(frozen=True, slots=True)
class Made:
    """A commit, and how far it is from the one before.

    Args:
        commit: Full hash.
        change: Share of weights that changed.
    """

    commit: str
    change: ModelChange


def check_evaluable(objects: Objects, state: State) -> None:
    """Check that a state's recipe can be checked out, without reading a weight.

    Raises:
        CannotCombine: Arithmetic is asked for that is not defined.
        FileConflict: Two vectors change one carried file differently.
        InputError: A vector, method or option is wrong.
    """
    planned = plan(state.normal, objects.library)
    plan_files(state.normal, objects.library)
    Evaluator(objects, planned)


def commit_state(
    change: Change,
    state: State,
    message: str,
    *,
    other_parents: Sequence[str] = (),
    idle_hint: str | None = None,
    on_plan: Callable[[int], Callable[[int], None]],
) -> Made:
    """Check a state, measure it against HEAD, and commit it.

    Args:
        change: The repository, locked.
        state: What the commit will say.
        message: Its message.
        other_parents: Further parents.
        idle_hint: Refuse a commit that leaves every weight and file as it is, with this hint.
        on_plan: Called with the bytes to be compared; returns the function told of progress.

    Raises:
        NothingToCommit: It changes nothing.
        TvcError: As `check_evaluable`.
    """
    head = change.repository.state_at(change.before.commit)
    if state.documents() == head.documents() and not other_parents:
        raise NothingToCommit("nothing to commit: the recipe is as HEAD has it")
    with open_objects(change.repository.layout) as store:
        objects = Objects(store, union(state, head))
        check_evaluable(objects, state)
        seen = measure_change(objects, head.normal, state.normal, on_plan=on_plan)
        before, after = (plan_files(each.normal, objects.library) for each in (head, state))
        if idle_hint is not None and not seen.elements and before == after:
            raise NothingToCommit(
                f"this would change no weight and no file: {format_recipe(state.recipe)}",
                hint=idle_hint,
            )
        return Made(change.commit(state, message, other_parents=other_parents), seen)


def union(state: State, other: State) -> State:
    """Return a state that knows the vectors and bases of both, for reading their weights."""
    return State(state.recipe, {**other.bases, **state.bases}, {**other.vectors, **state.vectors})
