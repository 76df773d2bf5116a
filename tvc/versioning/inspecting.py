"""What a task vector is made of: norms, sparsity and sizes, per layer and per kind of weight.

Tensor by tensor, several at a time; sums are in float64 and joined by `math.fsum`, so that neither
the number of threads nor the order of tensors changes a digit. Nothing here prints.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from tvc.domain.errors import InputError
from tvc.domain.names import nearest, printable
from tvc.domain.parts import kind_of, layer_of, natural_key
from tvc.domain.planning import plan_difference
from tvc.domain.recipe import Recipe, Sum, Term, VectorName, difference
from tvc.domain.snapshot import TensorRef
from tvc.domain.vector import VectorRecord
from tvc.evaluation.engine import Evaluator, run_each
from tvc.merging.kernels import dot
from tvc.repository.gateway import GitFailed
from tvc.repository.objects import Objects
from tvc.repository.repository import Repository
from tvc.repository.state import State
from tvc.versioning.editing import find_vectors, readable_state
from tvc.versioning.finishing import union
from tvc.versioning.merging import Tip, merge_base, tip_of
from tvc_store.ids import ObjectId

__all__ = ["Compared", "Part", "VectorFacts", "find_compared", "inspect_vector"]


@dataclass(frozen=True, slots=True)
class Part:
    """What a vector changes in some tensors; all fields but `largest` add.

    Args:
        elements: Number of elements.
        changed: Number of those whose difference is not zero.
        square: Sum of squared differences.
        largest: Greatest magnitude of a difference.
    """

    elements: int = 0
    changed: int = 0
    square: float = 0.0
    largest: float = 0.0

    @property
    def norm(self) -> float:
        """Euclidean norm of the difference."""
        return math.sqrt(self.square)

    @property
    def sparsity(self) -> float:
        """Share of elements that are not changed, 0 to 1."""
        return 1 - self.changed / max(self.elements, 1)


@dataclass(frozen=True, slots=True)
class VectorFacts:
    """What was measured of a vector.

    Args:
        total: Over all tensors of a floating type.
        layers: By layer, in the order of the model's numbers.
        kinds: By kind of weight, in the order of names.
        tensors: Number of tensors that it changes.
        unmeasured: Tensors that it changes and that have no difference: integers, and such as the
            base lacks.
        raw_bytes: Bytes of the tensors that it changes.
        stored_bytes: Bytes that it takes in the store.
        files: Carried files that it changes.
    """

    total: Part
    layers: dict[str, Part]
    kinds: dict[str, Part]
    tensors: int
    unmeasured: tuple[str, ...]
    raw_bytes: int
    stored_bytes: int
    files: tuple[str, ...]


def inspect_vector(
    objects: Objects,
    record: VectorRecord,
    *,
    workers: int = 2,
    on_plan: Callable[[int], Callable[[int], None]],
) -> VectorFacts:
    """Measure a vector.

    Args:
        objects: Where weights come from; its library knows the vector.
        record: The vector.
        workers: Tensors at a time.
        on_plan: Called with the bytes to be looked at; returns the function told of progress.
    """
    library = objects.library
    alone = Recipe(record.parent.base, (Term(Fraction(1), VectorName(record.id)),))
    planned = plan_difference(alone, library)
    evaluator = Evaluator(objects, planned, workers=workers, cache=objects.cache)
    evaluator.prepare()
    specs = planned.specs()
    base = library.snapshot(record.parent.base).tensors
    found = {name: Part(base[name].spec.numel) for name in base if name not in specs}
    on_bytes = on_plan(sum(spec.nbytes for spec in specs.values()))

    def measure(name: str) -> None:
        delta = evaluator.difference(name).reshape(-1)
        largest = float(np.abs(delta).max()) if delta.size else 0.0
        found[name] = Part(delta.size, int(np.count_nonzero(delta)), dot(delta, delta), largest)
        on_bytes(specs[name].nbytes)

    run_each(measure, specs, workers=workers)
    changed = library.changed(record.id)
    unmeasured = tuple(sorted(changed - set(specs)))
    measured = {name: part for name, part in found.items() if name not in unmeasured}
    raw, stored = _sizes(objects, record, changed)
    return VectorFacts(
        _joined(measured.values()),
        _grouped(measured, layer_of),
        _grouped(measured, kind_of),
        len(changed),
        unmeasured,
        raw,
        stored,
        _changed_files(objects, record),
    )


def _grouped(parts: dict[str, Part], label: Callable[[str], str]) -> dict[str, Part]:
    groups: dict[str, list[Part]] = {}
    for name in sorted(parts, key=natural_key):
        groups.setdefault(label(name), []).append(parts[name])
    return {group: _joined(groups[group]) for group in sorted(groups, key=natural_key)}


def _joined(parts: Iterable[Part]) -> Part:
    found = list(parts)
    squares = [part.square for part in found]
    finite = all(map(math.isfinite, squares))
    return Part(
        sum(part.elements for part in found),
        sum(part.changed for part in found),
        math.fsum(squares) if finite else math.nan,
        max((part.largest for part in found), default=0.0),
    )


def _sizes(objects: Objects, record: VectorRecord, changed: Iterable[str]) -> tuple[int, int]:
    """Return bytes of the tensors that a vector changes, and what they take in the store."""
    library = objects.library
    refs: dict[str, TensorRef]
    if record.kind == "adapter":
        base = library.snapshot(record.parent.base).tensors
        refs = {name: base[name] for name in changed if name in base}
        stored = set(library.adapter(record.content).tensors.values())
    else:
        tuned = library.snapshot(record.content).tensors
        refs = {name: tuned[name] for name in changed}
        stored: set[ObjectId] = {ref.id for ref in refs.values()}
    raw = sum(ref.spec.nbytes for ref in refs.values())
    return raw, sum(objects.store.stored_size(identity) for identity in stored)


def _changed_files(objects: Objects, record: VectorRecord) -> tuple[str, ...]:
    if record.kind == "adapter":
        return ()
    before = objects.library.snapshot(record.parent_snapshot).files
    after = objects.library.snapshot(record.content).files
    return tuple(sorted(path for path, blob in after.items() if before.get(path) != blob))


class Compared(NamedTuple):
    """Differences that are to be compared.

    Args:
        state: Knows the vectors that they are made of.
        base: Id of the base that they are laid over.
        differences: Name and terms, in normal form.
    """

    state: State
    base: str
    differences: list[tuple[str, Sum]]


def find_compared(repository: Repository, names: list[str]) -> Compared:
    """Find what names stand for: vectors, of any branch, or else revisions.

    A revision stands for what it changed since the merge base of all that are named.

    Args:
        repository: The repository.
        names: At least two.

    Raises:
        InputError: A name is neither; there are fewer than two, or one twice.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError("name two or more different vectors or branches to compare")
    position = repository.position()
    state = readable_state(repository)
    states = [repository.state_at(sha) for sha in sorted(set(position.refs.values()))]
    vectors = [n for n in names if any(n in each.vectors for each in (state, *states))]
    state = find_vectors(repository, state, vectors)
    known = {*vectors, *state.vectors, *(ref.split("/", 2)[2] for ref in position.refs)}
    tips = {n: _find_tip(repository, n, known) for n in names if n not in vectors}
    base = state.vectors[vectors[0]].parent.base if vectors else ""
    below: Sum = ()
    if tips:
        sides = list(tips.values())
        if len(sides) == 1:
            sides.append(tip_of(repository, "HEAD", position.commit))
        origin = merge_base(repository, sides)
        base, below = origin.normal.base, origin.normal.terms
        for tip in sides:
            state = union(state, tip.state)
    differences: list[tuple[str, Sum]] = []
    for name in names:
        if name in tips:
            differences.append((name, difference(tips[name].normal.terms, below)))
        else:
            identity = state.vectors[name].id
            differences.append((name, (Term(Fraction(1), VectorName(identity)),)))
    for name, terms in differences:
        if not terms:
            raise InputError(f"{printable(name)} changed nothing since the merge base")
    return Compared(state, base, differences)


def _find_tip(repository: Repository, name: str, known: Iterable[str]) -> Tip:
    try:
        commit = repository.git.resolve(name)
    except GitFailed:
        raise InputError(
            f"there is no vector, branch or commit {printable(name)!r}",
            hint=nearest(name, known) or "`tvc vectors` and `tvc branch` list what there is",
        ) from None
    return tip_of(repository, name, commit)
