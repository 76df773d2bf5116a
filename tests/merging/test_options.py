"""Options are refused where they are given, in words that say what is allowed."""

from fractions import Fraction
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from tvc.domain.errors import InputError
from tvc.merging.method import MemberError, Method, merge_method
from tvc.merging.options import Flag, Number, Option, OptionError, UnknownOption
from tvc.merging.presets import PRESETS, UnknownPreset, preset_options
from tvc.merging.registry import find_method, load_methods


def refusal(call: Any, *arguments: Any) -> tuple[str, str | None]:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return caught.value.message, caught.value.hint


def test_defaults_are_filled_in() -> None:
    assert find_method("ties").check_options({}) == {
        "density": 0.2,
        "scope": "tensor",
        "kept": "at_least_one",
        "election": "mass",
        "zero_sum": "positive",
        "normalize": "count",
        "weights_after_election": False,
    }


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (1, 1.0),
        (Fraction(1, 5), 0.2),
        ([0.3, Fraction(1, 2)], (0.3, 0.5)),
        ((0, 1), (0.0, 1.0)),
    ],
)
def test_numbers_become_floats(given: object, taken: object) -> None:
    found = find_method("ties").check_options({"density": given})["density"]
    assert found == taken
    assert isinstance(found, float) or all(isinstance(each, float) for each in found)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("ties", "density", -0.1),
        ("ties", "density", 1.5),
        ("ties", "density", float("nan")),
        ("ties", "density", "0.2"),
        ("ties", "density", True),
        ("ties", "density", None),
        ("ties", "density", [0.2, 2]),
        pytest.param("karcher", "tol", 10**400, id="huge"),
        ("ties", "scope", "layer"),
        ("ties", "scope", ["tensor"]),
        ("ties", "weights_after_election", 1),
        ("ties", "weights_after_election", "yes"),
        ("dare", "seed", -1),
        ("dare", "seed", 0.5),
        ("dare", "seed", 2**63),
        ("dare", "seed", float("inf")),
        ("sce", "select_topk", [0.1]),
        ("karcher", "max_iter", 10**9),
    ],
)
def test_a_bad_value_is_refused(method: str, name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name) as caught:
        find_method(method).check_options({name: value})
    assert caught.value.hint is not None
    assert caught.value.exit_code == 1


def test_refusals_read_well() -> None:
    ties = find_method("ties")
    assert refusal(ties.check_options, {"density": 2}) == (
        "ties: density cannot be 2",
        "it is a number from 0 up to 1, or one for each member",
    )
    assert refusal(ties.check_options, {"scope": "layer"}) == (
        "ties: scope cannot be 'layer'",
        "it is one of tensor, vector",
    )
    assert refusal(ties.check_options, {"densty": 1}) == (
        "ties has no option 'densty'",
        "did you mean 'density'?",
    )
    assert refusal(find_method, "tise") == ("no merge method 'tise'", "did you mean 'ties'?")
    assert refusal(find_method("slerp").check_members, 3, {}) == (
        "slerp merges 1 to 2 vectors, and was given 3",
        "other methods: linear, ties",
    )
    assert refusal(find_method("emr").check_options, {"zzz": 1}) == (
        "emr has no option 'zzz'",
        "its options: none",
    )
    assert issubclass(UnknownOption, InputError)


def test_the_seed_is_exact_where_a_float_is_not() -> None:
    big = 2**63 - 1
    assert find_method("dare").check_options({"seed": big})["seed"] == big


def test_a_value_for_each_member_must_be_for_each() -> None:
    ties = find_method("ties")
    options = ties.check_options({"density": [0.1, 0.2]})
    ties.check_members(2, options)
    with pytest.raises(OptionError, match="2 values for 3 vectors"):
        ties.check_members(3, options)
    with pytest.raises(MemberError, match="model_stock merges 2 or more"):
        find_method("model_stock").check_members(1, {})


def test_probabilities_outside_of_0_to_1_are_refused() -> None:
    della = find_method("della")
    ones = torch.ones(1, 4)
    with pytest.raises(OptionError, match="epsilon"):
        della.merge(
            ones,
            options=della.check_options({"density": 0.1, "epsilon": 0.2}),
            weights=torch.ones(1),
            uniforms=torch.zeros(1, 4),
        )


def test_presets_are_options_of_their_methods() -> None:
    methods = load_methods()
    for preset in PRESETS.values():
        for name, options in preset.items():
            assert methods[name].check_options(options).items() >= options.items()
    assert preset_options("peft", "karcher") == {}
    with pytest.raises(UnknownPreset, match="mergkit") as caught:
        preset_options("mergkit", "ties")
    assert caught.value.hint == "did you mean 'mergekit'?"


def test_every_method_is_described() -> None:
    for name, method in load_methods().items():
        assert method.name == name
        assert method.summary.endswith(".")
        assert method.paper
        assert all(option.help and option.allowed for option in method.options.values())


def test_a_method_is_declared_by_its_signature() -> None:
    @merge_method("mine", summary="Mine.", paper="none", commutative=False)
    def mine(
        deltas: Tensor,
        *,
        weights: Tensor,
        uniforms: Tensor,
        often: Annotated[bool, Flag("whether")] = True,
    ) -> Tensor:
        return deltas[0] * often + uniforms[0] * weights[0]

    assert isinstance(mine, Method)
    assert mine.wants == {"weights", "uniforms"}
    assert mine.options["often"] == Option("often", bool, True, "whether")
    assert mine.options["seed"].default == 0
    zeros = torch.zeros(1, 2)
    merged = mine.merge(
        zeros,
        options=mine.check_options({"seed": 3}),
        weights=torch.ones(1),
        uniforms=zeros + 0.5,
        base=zeros[0],
        statistics={},
    )
    assert merged.tolist() == [0.5, 0.5]


def undescribed(deltas: Tensor, *, much: float = 1.0) -> Tensor:
    return deltas[0] * much


def without_default(deltas: Tensor, *, much: Annotated[float, Number("how much")]) -> Tensor:
    return deltas[0] * much


def bad_default(
    deltas: Tensor, *, much: Annotated[float, Number("how much", 0, 1)] = 2.0
) -> Tensor:
    return deltas[0] * much


@pytest.mark.parametrize("function", [undescribed, without_default, bad_default])
def test_a_mistake_in_a_method_is_found_at_import(function: Any) -> None:
    with pytest.raises(TypeError, match="much"):
        merge_method("mine", summary="Mine.", paper="none")(function)
