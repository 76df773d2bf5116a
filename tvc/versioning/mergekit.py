"""What a mergekit configuration means as terms of a recipe.

The presets of `tvc.merging.presets` say how mergekit's methods differ; amounts that it has defaults
for (density 1, gamma 0.01, epsilon 0.15) are written out. mergekit divides by the sum of weights
where `normalize` is on, by default for ties and della only. Its random draws are not reproduced.
Which models of a repository the names stand for is not known here, see
`tvc.versioning.mergekit_models`.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Final

from tvc.domain.names import printable
from tvc.domain.recipe import (
    Group,
    Member,
    OptionValue,
    Sum,
    Term,
    add,
    difference,
    format_number,
)
from tvc.merging.presets import preset_options
from tvc.versioning.mergekit_file import MergekitFile, Unsaid
from tvc.versioning.strict_yaml import Value, read_number

__all__ = ["RANDOM", "merged_terms"]

RANDOM: Final = frozenset(["dare_linear", "dare_ties", "della", "della_linear"])
"""Methods of mergekit that draw at random."""

_ONE: Final = Fraction(1)


class _Reader:
    """The parameters of a file, and the sums that its models are."""

    def __init__(
        self, file: MergekitFile, base: Sum | None, models: Mapping[str, Sum], seed: int
    ) -> None:
        self.file = file
        self.base = base
        self.models = models
        self.seed = seed
        self.merged = [name for name in file.models if name != file.base_model]

    def fail(self, problem: str, *, hint: str | None = None) -> Unsaid:
        return Unsaid(f"{self.file.method}: {problem}", hint=hint)

    def required_base(self) -> Sum:
        if self.base is None:
            raise self.fail("there is no base_model", hint="add base_model: to the file")
        return self.base

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.file.parameters.get(name)
        if value is None:
            return default
        if isinstance(value, Fraction) and value in (0, 1):  # as mergekit's types take them
            return value == 1
        if not isinstance(value, bool):
            raise self.fail(f"{name} must be true or false")
        return value

    def number(self, name: str, *, default: Fraction | None = None) -> Fraction:
        return self._number(self.file.parameters.get(name), name, default)

    def of_model(self, model: str, name: str, *, default: Fraction | None = None) -> Fraction:
        value = self.file.models[model].get(name)
        value = self.file.parameters.get(name) if value is None else value
        return self._number(value, f"{name} of {printable(model)}", default)

    def _number(self, value: Value, name: str, default: Fraction | None) -> Fraction:
        number = read_number(value) if isinstance(value, str) else value
        number = default if number is None and value is None else number
        if number is None and value is None:
            raise self.fail(f"{name} is missing")
        if not isinstance(number, Fraction):
            raise self.fail(f"{name} is not a number: {printable(str(value))!r}")
        return number

    def weight(self, model: str) -> Fraction:
        weight = self.of_model(model, "weight")
        if weight == 0:
            raise self.fail(f"the weight of {printable(model)} is 0", hint="take the model out")
        return weight

    def differences(self, *, weighted: bool) -> tuple[Member, ...]:
        """Return what is merged, as differences from the base model."""
        base = self.required_base()
        if not self.merged:
            raise self.fail("there is no model but the base")
        return tuple(
            Member(self.weight(name) if weighted else _ONE, difference(self.models[name], base))
            for name in self.merged
        )

    def shares(self, name: str, *, default: Fraction) -> OptionValue:
        """Return an option that each model may have its own value of."""
        values = tuple(self.of_model(model, name, default=default) for model in self.merged)
        return values[0] if len(set(values)) == 1 else values

    def over_base(
        self, method: str, members: Sequence[Member], options: Mapping[str, OptionValue], /
    ) -> Sum:
        """Return the base model plus λ times a merge of differences."""
        group = Group(method, tuple(members), tuple(sorted(options.items())))
        factor = self.number("lambda", default=_ONE)
        if factor == 0:
            raise self.fail("lambda is 0, which merges nothing")
        return add(self.required_base(), (Term(factor, group),))


def _preset(method: str) -> dict[str, OptionValue]:
    values = preset_options("mergekit", method).items()
    return {name: value for name, value in values if isinstance(value, str | bool)}


def _sparse(method: str) -> Callable[[_Reader], Sum]:
    """Return the translation of a method that sparsifies differences and adds them."""

    def translate(reader: _Reader) -> Sum:
        chosen = _preset(method) | _amounts(method, reader)
        if reader.file.method in RANDOM:
            chosen["seed"] = Fraction(reader.seed)
        if "rescale" in chosen:
            chosen["rescale"] = "l1" if reader.flag("rescale", default=True) else "none"
        elif reader.flag("rescale", default=False):
            raise reader.fail("rescale is not part of this method here", hint="set it to false")
        members = reader.differences(weighted=True)
        if "election" in chosen:
            by_default = chosen["normalize"] == "weights"
            divided = reader.flag("normalize", default=by_default)
            chosen["normalize"] = "weights" if divided else "none"
            return reader.over_base(method, members, chosen)
        return _divided(reader, members, reader.over_base(method, members, chosen))

    return translate


def _divided(reader: _Reader, members: Sequence[Member], terms: Sum) -> Sum:
    """Return base + merge / Σ weights for base + merge, where `normalize` is on.

    Without an election the division is a factor in front.
    """
    if not reader.flag("normalize", default=False):
        return terms
    total = sum((member.weight for member in members), Fraction(0))
    if total == 0:
        raise reader.fail("the weights add up to zero, so that nothing can be normalized by them")
    base = reader.required_base()
    return add(base, difference(terms, base), scale=1 / total)


def _amounts(method: str, reader: _Reader) -> dict[str, OptionValue]:
    amounts = {"density": reader.shares("density", default=_ONE)}
    if method.startswith("breadcrumbs"):
        amounts["gamma"] = reader.shares("gamma", default=Fraction(1, 100))
    if method.startswith("della"):
        # Nothing is dropped at density 1, where a range of probabilities would go beyond 1.
        ranges = [
            Fraction(0)
            if reader.of_model(model, "density", default=_ONE) >= 1
            else reader.of_model(model, "epsilon", default=Fraction(15, 100))
            for model in reader.merged
        ]
        amounts["epsilon"] = ranges[0] if len(set(ranges)) == 1 else tuple(ranges)
    return amounts


def _task_arithmetic(reader: _Reader) -> Sum:
    members = reader.differences(weighted=True)
    base, factor = reader.required_base(), reader.number("lambda", default=_ONE)
    terms = base
    for member in members:
        terms = add(terms, member.terms, scale=member.weight * factor)
    return _divided(reader, members, terms)


def _linear(reader: _Reader) -> Sum:
    own, members = Fraction(0), list[Member]()
    for name, terms in reader.models.items():
        if terms:
            members.append(Member(reader.weight(name), terms))
        else:
            own += reader.weight(name)
    if not members:
        raise reader.fail("there is no model but the base")
    options: dict[str, OptionValue] = {"base_weight": own} if own else {}
    if not reader.flag("normalize", default=True):
        options["normalize"] = False
        total = sum((member.weight for member in members), own)
        if total != 1:
            raise reader.fail(
                f"the weights add up to {format_number(total)}, which would scale every weight",
                hint="make them add up to 1, or set normalize: true",
            )
    return (Term(_ONE, Group("linear", tuple(members), tuple(sorted(options.items())))),)


def _slerp(reader: _Reader) -> Sum:
    base = reader.required_base()
    if len(reader.merged) != 1:
        raise reader.fail(f"it merges two models, and was given {len(reader.models)}")
    sides = (Member(_ONE, base), Member(_ONE, reader.models[reader.merged[0]]))
    return (Term(_ONE, Group("slerp", sides, (("t", reader.number("t")),))),)


def _karcher(reader: _Reader) -> Sum:
    options: dict[str, OptionValue] = {
        "max_iter": reader.number("max_iter", default=Fraction(10)),
        "tol": reader.number("tol", default=Fraction(1, 100_000)),
        "include_base": () in reader.models.values(),
    }
    members = tuple(Member(_ONE, terms) for terms in reader.models.values() if terms)
    if not members:
        raise reader.fail("there is no model but the base")
    return (Term(_ONE, Group("karcher", members, tuple(sorted(options.items())))),)


def _nuslerp(reader: _Reader) -> Sum:
    members = reader.differences(weighted=True)
    options: dict[str, OptionValue] = {
        "flatten": reader.flag("nuslerp_flatten", default=True),
        "row_wise": reader.flag("nuslerp_row_wise", default=False),
    }
    return reader.over_base("nuslerp", members, options)


def _multislerp(reader: _Reader) -> Sum:
    if reader.number("eps", default=Fraction(1, 10**8)) != Fraction(1, 10**8):
        raise reader.fail("eps cannot be chosen here", hint="take the line out")
    normalize = reader.flag("normalize_weights", default=True)
    members = reader.differences(weighted=True)
    return reader.over_base("multislerp", members, {"normalize": normalize})


def _sce(reader: _Reader) -> Sum:
    share = reader.number("select_topk", default=_ONE)
    return reader.over_base("sce", reader.differences(weighted=False), {"select_topk": share})


def _model_stock(reader: _Reader) -> Sum:
    by_row = reader.flag("filter_wise", default=False)
    members = reader.differences(weighted=False)
    return reader.over_base("model_stock", members, {"filter_wise": by_row})


def _nearswap(reader: _Reader) -> Sum:
    members = reader.differences(weighted=False)
    return reader.over_base("nearswap", members, {"t": reader.number("t")})


def _arcee_fusion(reader: _Reader) -> Sum:
    if reader.required_base():
        raise reader.fail(
            "its base_model must be the base of the recipe, whose weights it looks at",
            hint="rebase the models, or use another method",
        )
    return reader.over_base("arcee_fusion", reader.differences(weighted=False), {})


_METHODS: Final[Mapping[str, Callable[[_Reader], Sum]]] = {
    "arcee_fusion": _arcee_fusion,
    "breadcrumbs": _sparse("breadcrumbs"),
    "breadcrumbs_ties": _sparse("breadcrumbs_ties"),
    "dare_linear": _sparse("dare"),
    "dare_ties": _sparse("dare_ties"),
    "della": _sparse("della"),
    "della_linear": _sparse("della_linear"),
    "karcher": _karcher,
    "linear": _linear,
    "model_stock": _model_stock,
    "multislerp": _multislerp,
    "nearswap": _nearswap,
    "nuslerp": _nuslerp,
    "sce": _sce,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _sparse("ties"),
}


def merged_terms(
    file: MergekitFile, *, base: Sum | None, models: Mapping[str, Sum], seed: int = 0
) -> Sum:
    """Return the sum of a recipe that says what a configuration says.

    Args:
        file: The configuration.
        base: The terms of its base model, in normal form; None where it has none.
        models: The terms of its models, in normal form, by what the file calls them, in its order.
        seed: Of random methods; the file has none.

    Raises:
        Unsaid: It says something that a recipe cannot.
    """
    return _METHODS[file.method](_Reader(file, base, models, seed))
