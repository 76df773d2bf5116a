"""Makes plans: from a recipe in normal form and lists of tensors to an action for every tensor.

Never imports torch and reads no weight. Recipes may be hostile: how deep vectors may stand on one
another, and how many steps one tensor may take, is bounded.
"""

from typing import Final

from tvc.domain.errors import InputError
from tvc.domain.library import Library
from tvc.domain.plan import (
    FLOATING,
    Action,
    Combine,
    Copy,
    Delta,
    Difference,
    KeptDelta,
    LowRank,
    Merged,
    Plan,
    PlannedMember,
    Restore,
    Scaled,
)
from tvc.domain.recipe import (
    Atom,
    Group,
    Recipe,
    Sum,
    VectorName,
    canonical_text,
    format_sum,
    vector_names,
)
from tvc.domain.snapshot import TensorRef
from tvc_store.dtypes import TensorSpec

__all__ = ["CannotCombine", "plan", "plan_difference"]

_MAX_DEPTH: Final = 64
_MAX_STEPS: Final = 20_000


class CannotCombine(InputError):
    """A recipe asks for arithmetic on a tensor on which it is not defined."""


def plan(recipe: Recipe, library: Library) -> Plan:
    """Plan every tensor of a recipe.

    Args:
        recipe: In normal form.
        library: The commit's bases and vectors.

    Raises:
        CannotCombine: Arithmetic is asked for on integers, or on shapes that do not fit.
        UnknownVector: The library lacks a vector that is needed.
    """
    planner = _Planner(library)
    names = set(library.snapshot(recipe.base).tensors)
    for vector in set(vector_names(recipe.terms)):
        names |= library.changed(vector)
    actions = {name: planner.begin(name).tensor(recipe) for name in sorted(names)}
    if any(isinstance(action, Combine) for action in actions.values()):
        planner.collect_merges(recipe, sorted(names))
    return Plan(actions, planner.merges, _numel(recipe, library))


def plan_difference(recipe: Recipe, library: Library) -> Plan:
    """Plan what the terms of a recipe add to its base, tensor by tensor, always as arithmetic.

    Args:
        recipe: In normal form.
        library: The commit's bases and vectors.

    Returns:
        A `Combine` for every floating tensor of the base that a term changes.

    Raises:
        CannotCombine: A tensor's shapes do not fit.
    """
    planner = _Planner(library)
    base = library.snapshot(recipe.base).tensors
    actions: dict[str, Action] = {}
    for name, ref in base.items():
        active = planner.begin(name).active(recipe.terms)
        if active and ref.spec.dtype in FLOATING:
            actions[name] = planner.combine(active, ref)
    planner.collect_merges(recipe, sorted(base))
    return Plan(actions, planner.merges, _numel(recipe, library))


def _numel(recipe: Recipe, library: Library) -> int:
    tensors = library.snapshot(recipe.base).tensors.values()
    return sum(ref.spec.numel for ref in tensors if ref.spec.dtype in FLOATING)


class _Planner:
    """Plans one tensor after the other, and then the merges of all."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._name = ""
        self._depth = 0
        self._steps = 0
        self._seen: set[str] = set()
        self.merges: dict[str, dict[str, Merged]] = {}

    def begin(self, name: str) -> "_Planner":
        """Turn to a tensor."""
        self._name, self._depth, self._steps = name, 0, 0
        return self

    def tensor(self, recipe: Recipe) -> Action:
        """Plan the tensor in a recipe in normal form."""
        base = self._library.snapshot(recipe.base).tensors.get(self._name)
        active = self.active(recipe.terms)
        restored = self._restored(recipe, active)
        if restored is not None:
            return Restore(restored)
        if base is None:
            raise CannotCombine(
                f"tensor {self._name!r} is not in the base, so that nothing can be added to it",
                hint="check out the fine-tune that has it alone, at coefficient 1",
            )
        return self.combine(active, base) if active else Copy(base)

    def active(self, terms: Sum) -> Sum:
        """Return the terms that change the tensor."""
        return tuple(term for term in terms if self._touches(term.atom))

    def combine(self, active: Sum, base: TensorRef) -> Combine:
        """Plan the tensor as the base's plus terms."""
        terms = self._planned(active, base)
        return Combine(base, terms, self._result_spec(base, terms))

    def collect_merges(self, recipe: Recipe, names: list[str]) -> None:
        """Plan the merges of a recipe, and of what its vectors stand on, at all tensors."""
        base = self._library.snapshot(recipe.base).tensors
        for term in recipe.terms:
            key = canonical_text(term.atom)
            if key in self._seen:
                continue
            self._seen.add(key)
            if isinstance(term.atom, VectorName):
                self.collect_merges(self._library.record(term.atom.name).parent, names)
                continue
            for member in term.atom.members:
                self.collect_merges(Recipe(recipe.base, member.terms), names)
            self.merges[key] = {
                name: self._merged(term.atom, base[name])
                for name in names
                if name in base and self.begin(name)._touches(term.atom)
            }

    def _touches(self, atom: Atom) -> bool:
        if isinstance(atom, VectorName):
            return self._name in self._library.changed(atom.name)
        return any(self._touches(term.atom) for member in atom.members for term in member.terms)

    def _restored(self, recipe: Recipe, active: Sum) -> TensorRef | None:
        """Return a vector's tensor where the recipe is what it was trained from plus the vector."""
        for index, term in enumerate(active):
            if term.coefficient != 1 or not isinstance(term.atom, VectorName):
                continue
            record = self._library.record(term.atom.name)
            rest = active[:index] + active[index + 1 :]
            same = record.kind == "fine-tune" and record.parent.base == recipe.base
            if same and rest == self.active(record.parent.terms):
                return self._library.snapshot(record.content).tensors[self._name]
        return None

    def _planned(self, terms: Sum, base: TensorRef) -> tuple[Scaled, ...]:
        return tuple(Scaled(term.coefficient, self._delta(term.atom, base)) for term in terms)

    def _delta(self, atom: Atom, base: TensorRef) -> Delta:
        self._steps += 1
        if isinstance(atom, Group):
            return self._merged(atom, base)
        record = self._library.record(atom.name)
        if record.kind == "adapter":
            return LowRank(self._library.adapter(record.content).factors[self._name])
        kept = self._library.deltas(record).get(self._name)
        if kept is not None:
            return KeptDelta(kept)
        if self._depth >= _MAX_DEPTH or self._steps > _MAX_STEPS:
            raise CannotCombine(
                f"the vectors of this recipe stand on one another too deeply to be added up "
                f"(at most {_MAX_DEPTH} levels)",
                hint="check out the newest one alone, and commit it on the base",
            )
        self._depth += 1
        parent = self.tensor(record.parent)
        self._depth -= 1
        return Difference(self._library.snapshot(record.content).tensors[self._name], parent)

    def _merged(self, group: Group, base: TensorRef) -> Merged:
        members = tuple(
            PlannedMember(
                member.weight,
                self._planned(self.active(member.terms), base),
                format_sum(member.terms),
            )
            for member in group.members
        )
        terms = tuple(term for member in members for term in member.terms)
        spec = self._result_spec(base, terms)
        return Merged(group.method, base, spec, members, group.options, canonical_text(group))

    def _result_spec(self, base: TensorRef, terms: tuple[Scaled, ...]) -> TensorSpec:
        """Return the base's type, and its shape with the rows of the largest vocabulary."""
        specs = [base.spec, *self._difference_specs(terms)]
        for spec in specs:
            if spec.dtype not in FLOATING:
                raise CannotCombine(
                    f"tensor {self._name!r} is {spec.dtype}: it can be copied or restored, but "
                    "not added up",
                    hint="keep only one vector that changes it, at coefficient 1",
                )
            if spec.shape[1:] != base.spec.shape[1:] or len(spec.shape) != len(base.spec.shape):
                raise CannotCombine(
                    f"tensor {self._name!r} has shape {list(spec.shape)} in one vector and "
                    f"{list(base.spec.shape)} in the base"
                )
        rows = max(spec.shape[:1] for spec in specs)
        return TensorSpec(base.spec.dtype, (*rows, *base.spec.shape[1:]))

    def _difference_specs(self, terms: tuple[Scaled, ...]) -> list[TensorSpec]:
        """Return type and shape of every difference in a sum."""
        found: list[TensorSpec] = []
        for term in terms:
            match term.delta:
                case Difference(tuned):
                    found.append(tuned.spec)
                case KeptDelta(tensor):
                    found.append(tensor.spec)
                case LowRank(factors):
                    out, inner = factors.up.spec.shape[0], factors.down.spec.shape[1]
                    shape = (inner, out) if factors.transposed else (out, inner)
                    found.append(TensorSpec(factors.up.spec.dtype, shape))
                case Merged(spec=spec):
                    found.append(spec)
        return found
