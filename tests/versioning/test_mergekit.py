"""What a mergekit file means: its parameters as terms, checked against mergekit's own outputs."""

import importlib.util
import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tvc.domain.grammar import parse_sum
from tvc.domain.recipe import Recipe, Sum, Term, VectorName, format_sum, normalize
from tvc.merging.mixing import weighted_sum
from tvc.merging.registry import find_method
from tvc.versioning.mergekit import _METHODS, RANDOM, merged_terms
from tvc.versioning.mergekit_file import PARAMETERS, Unsaid, parse_mergekit

CASES = Path(__file__).parents[1] / "merging" / "cases"
INPUTS = load_file(CASES / "inputs.safetensors")
OUTPUTS = load_file(CASES / "outputs.safetensors")
UNIFORMS = load_file(CASES / "uniforms.safetensors")
MERGEKIT = [
    case
    for case in json.loads((CASES / "cases.json").read_text())["cases"]
    if case["id"].startswith("mk.")
    and case["method"] in PARAMETERS
    and not case.get("arbitrary_ties")
    and not any(case.get("arbitrary_tie_choice_per_model", ()))
]


def load_checks():
    """Return the module of the cases' own test, which knows how exact each case is."""
    path = CASES.parent / "test_cases.py"
    spec = importlib.util.spec_from_file_location("merge_cases", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CHECKS = load_checks()
OWN = {"weight", "density", "gamma", "epsilon"}


def yaml_of(case) -> str:
    """Write the configuration that a case was made with."""
    params, base, *others = dict(case["params"]), *case["inputs"]
    listed = [base, *others] if case["method"] == "linear" else others
    lines = [f"merge_method: {case['method']}", f"base_model: {base}", "models:"]
    shared = {name: value for name, value in params.items() if not isinstance(value, list)}
    for index, model in enumerate(listed):
        own = {name: value[index] for name, value in params.items() if isinstance(value, list)}
        assert set(own) <= OWN
        lines.append(f"- model: {model}")
        lines += [f"  parameters: {json.dumps(own)}"] if own else []
    return "\n".join([*lines, f"parameters: {json.dumps(shared)}"])


def translated(text: str, *, base="", **models: str) -> str:
    """Return the sum of a file whose models are given by their terms."""
    file = parse_mergekit(text, what="file")
    terms = {name: parse_sum(models.get(name, name)) for name in file.models}
    below = None
    if file.base_model is not None:
        below = terms[file.base_model] = parse_sum(base or "0")
    return format_sum(merged_terms(file, base=below, models=terms, seed=3))


def evaluate(terms, case) -> torch.Tensor:
    """Compute a sum of one tensor, as the engine does: in the normal form's order."""
    dtype = getattr(torch, case["compute_dtype"])
    base = INPUTS[case["inputs"][0]].to(dtype)

    def delta(atom):
        if isinstance(atom, VectorName):
            return (INPUTS[atom.name].to(dtype) - base).float()
        method = find_method(atom.method)
        options = method.check_options(dict(atom.options))
        weights = torch.tensor([float(member.weight) for member in atom.members])
        deltas = torch.stack([total(member.terms) for member in atom.members])
        if "weights" not in method.wants:
            deltas = torch.stack([d * w for d, w in zip(deltas, weights, strict=True)])
        supplies = {"weights": weights, "base": base.float(), "statistics": {}}
        if "uniforms" in method.wants:
            supplies["uniforms"] = torch.stack([UNIFORMS[name] for name in case["uniforms"]])
        return method.merge(deltas, options=options, **supplies)

    def total(terms):
        result = torch.zeros(base.shape)
        for term in terms:
            result += float(term.coefficient) * delta(term.atom)
        return result

    return base.float() + total(terms)


def sum_of(name: str) -> Sum:
    return (Term(Fraction(1), VectorName(name)),)


@pytest.mark.parametrize("case", MERGEKIT, ids=lambda case: case["id"])
def test_outputs_are_mergekit_s(case):
    file = parse_mergekit(yaml_of(case), what="case")
    models = {name: sum_of(name) for name in file.models} | {file.base_model: ()}
    merged = merged_terms(file, base=(), models=models)
    if case["method"] not in RANDOM:
        # What is evaluated is the normal form; the given draws are by place, which sorting changes.
        names = {name: name for name in file.models}
        merged = normalize(Recipe("b", merged), base="b", vectors=names).terms
    CHECKS.assert_case(case, evaluate(merged, case))


def test_enough_cases():
    assert len(MERGEKIT) >= 50
    assert {case["method"] for case in MERGEKIT} >= set(PARAMETERS) - {
        "arcee_fusion",
        "breadcrumbs",
        "breadcrumbs_ties",
    }


def test_every_method_is_translated():
    assert set(_METHODS) == set(PARAMETERS)
    assert set(RANDOM) < set(PARAMETERS)


def file(
    method: str,
    *,
    own: str = "{weight: 1}",
    shared: str = "{}",
    more: str = "",
    base: str = "base_model: base\n",
) -> str:
    return f"merge_method: {method}\n{base}models:\n- model: a\n  parameters: {own}\n- model: b\n  parameters: {own}\nparameters: {shared}\n{more}"


TIES = "election=mass, kept=at_least_one, normalize=weights, scope=tensor, weights_after_election=false, zero_sum=positive"
MEANS = {
    "ties, density 1 by default": (file("ties"), f"ties(a, b; density=1, {TIES})"),
    "ties, int8_mask changes nothing": (file("ties", shared="{int8_mask: true}"), f"ties(a, b; density=1, {TIES})"),
    "ties, weights": (file("ties", own="{weight: 0.5, density: 0.3}"), f"ties(0.5 * a, 0.5 * b; density=0.3, {TIES})"),
    "ties, not normalized": (file("ties", shared="{normalize: false}"), f"ties(a, b; density=1, {TIES.replace('=weights', '=none', 1)})"),
    "lambda is a factor in front": (file("ties", shared="{lambda: 0.5}"), f"0.5 * ties(a, b; density=1, {TIES})"),
    "task arithmetic is a sum": (file("task_arithmetic", own="{weight: 0.5}"), "0.5 * a + 0.5 * b"),
    "task arithmetic, normalized": (file("task_arithmetic", own="{weight: 2}", shared="{normalize: true, lambda: 3}"), "1.5 * a + 1.5 * b"),
    "weights of the whole merge": (file("task_arithmetic", own="{}", shared="{weight: 0.25}"), "0.25 * a + 0.25 * b"),
    "dare_linear is dare": (file("dare_linear", own="{weight: 1, density: 0.5}"), "dare(a, b; density=0.5, rescale=l1, seed=3)"),
    "dare_linear, normalized": (file("dare_linear", own="{weight: 2}", shared="{normalize: true}"), "0.25 * dare(2 * a, 2 * b; density=1, rescale=l1, seed=3)"),
    "dare_ties is not normalized": (file("dare_ties", own="{weight: 1, density: 0.5}", shared="{rescale: false}"), "dare_ties(a, b; density=0.5, election=mass, normalize=none, rescale=none, seed=3, weights_after_election=false)"),
    "della is normalized": (file("della", own="{weight: 1, density: 0.5}"), "della(a, b; density=0.5, election=mass, epsilon=0.15, normalize=weights, rescale=l1, seed=3, weights_after_election=false)"),
    "della_linear at density 1 drops nothing": (file("della_linear"), "della_linear(a, b; density=1, epsilon=0, rescale=l1, seed=3)"),
    "breadcrumbs": (file("breadcrumbs", own="{weight: 1, density: 0.9, gamma: 0.05}"), "breadcrumbs(a, b; axis=tensor, density=0.9, gamma=0.05)"),
    "breadcrumbs_ties": (file("breadcrumbs_ties", own="{weight: 1, density: 0.9}"), "breadcrumbs_ties(a, b; axis=tensor, density=0.9, election=mass, gamma=0.01, normalize=none, weights_after_election=false)"),
    "sce": (file("sce", own="{}", shared="{select_topk: 0.1}"), "sce(a, b; select_topk=0.1)"),
    "model_stock": (file("model_stock", own="{}"), "model_stock(a, b; filter_wise=false)"),
    "linear": (file("linear", base=""), "linear(a, b)"),
    "linear with the base": ("merge_method: linear\nbase_model: base\nmodels:\n- {model: base, parameters: {weight: 0.5}}\n- {model: a, parameters: {weight: 1.5}}", "linear(1.5 * a; base_weight=0.5)"),
    "linear, not normalized": (file("linear", base="", own="{weight: 0.5}", shared="{normalize: false}"), "linear(0.5 * a, 0.5 * b; normalize=false)"),
    "slerp from the base": ("merge_method: slerp\nbase_model: base\nmodels: [{model: base}, {model: a}]\nparameters: {t: 0.3}", "slerp(0, a; t=0.3)"),
    "slerp from the base, unlisted": ("merge_method: slerp\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: 0.3}", "slerp(0, a; t=0.3)"),
    "nuslerp": (file("nuslerp", shared="{nuslerp_flatten: false, nuslerp_row_wise: true}"), "nuslerp(a, b; flatten=false, row_wise=true)"),
    "multislerp": (file("multislerp"), "multislerp(a, b; normalize=true)"),
    "karcher": (file("karcher", own="{}", base=""), "karcher(a, b; include_base=false, max_iter=10, tol=0.00001)"),
    "karcher with the base": (file("karcher", own="{}", shared="{max_iter: 20, tol: 1e-6}"), "karcher(a, b; include_base=true, max_iter=20, tol=0.000001)"),
    "nearswap": ("merge_method: nearswap\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: 0.001}", "nearswap(a; t=0.001)"),
    "arcee_fusion": ("merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: a}]", "arcee_fusion(a)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MEANS)
def test_meaning(case):
    text, expected = MEANS[case]
    assert translated(text) == expected
    # What it means can be written and read again.
    assert format_sum(parse_sum(expected)) == expected


def test_each_model_its_own_density():
    text = "merge_method: ties\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: 1, density: 0.5}}\n- {model: b, parameters: {weight: 0.3}}\nparameters: {density: .25}"
    assert translated(text).startswith("ties(a, 0.3 * b; density=[0.5, 0.25], ")


def test_a_base_model_that_is_a_sum():
    """Differences are from it, and it comes in front."""
    assert (
        translated(file("sce", own="{}"), base="x", a="x + a", b="x + b")
        == "x + sce(a, b; select_topk=1)"
    )
    assert (
        translated(file("task_arithmetic", own="{weight: 0.5}"), base="x", a="x + a")
        == "0.5 * x + 0.5 * a + 0.5 * b"
    )
    slerp = "merge_method: slerp\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: 0.3}"
    assert translated(slerp, base="x") == "slerp(x, a; t=0.3)"
    assert translated(file("linear", shared="{weight: 1}"), base="x") == "linear(a, b, x)"


REFUSED = {
    "slices": (file("ties", more="slices: []"), "slices cannot be said here", "write models: in place of slices:"),
    "modules": (file("ties", more="modules: {}"), "modules cannot be said here", ""),
    "tokenizer_source": (file("ties", more="tokenizer_source: union"), "tokenizer_source cannot be said here", "take the line out"),
    "tokenizer": (file("ties", more="tokenizer: {source: union}"), "tokenizer cannot be said here", ""),
    "chat_template": (file("ties", more="chat_template: auto"), "chat_template cannot be said here", ""),
    "an unknown key": (file("ties", more="parametres: {}"), "unknown key 'parametres'", "did you mean 'parameters'?"),
    "an unknown method": (file("tie"), "merge_method 'tie' is not one that tvc has", "did you mean 'ties'?"),
    "passthrough": (file("passthrough"), "merge_method 'passthrough'", "known: "),
    "no method": ("models: [{model: a}]", "merge_method 'None'", ""),
    "no models": ("merge_method: ties\nbase_model: base", "models must be a list", ""),
    "models of another form": ("merge_method: ties\nmodels: [a]", "each of models has a model", ""),
    "a model with a layer range": ("merge_method: ties\nmodels: [{model: a, layer_range: [0, 4]}]", "each of models has a model", ""),
    "a model by parts": ("merge_method: ties\nmodels: [{model: {model: a, lora: b}}]", "a model must be named by a text", ""),
    "a model with an adapter": ("merge_method: ties\nmodels: [{model: a+b}]", "model 'a+b' adds an adapter on the way", "tvc import b --name NAME"),
    "a model twice": ("merge_method: ties\nmodels: [{model: a}, {model: a}]", "model 'a' is there twice", ""),
    "a gradient": (file("ties", own="{weight: [0, 0.5, 1]}"), "weight differs from layer to layer", "give one number for the whole model"),
    "a filter": (file("slerp", own="{}", shared="{t: [{filter: mlp, value: 0.5}, {value: 0.3}]}"), "t differs from layer to layer", ""),
    "an unknown parameter": (file("ties", shared="{denisty: 0.2}"), "'denisty' means nothing to ties", "did you mean 'density'?"),
    "another method's parameter": (file("task_arithmetic", own="{weight: 1, density: 0.2}"), "'density' means nothing to task_arithmetic", ""),
    "a parameter in the wrong place": (file("ties", own="{weight: 1, normalize: true}"), "model a: 'normalize' means nothing to ties", "it belongs under parameters of the whole merge"),
    "rescale": (file("ties", shared="{rescale: true}"), "ties: rescale is not part of this method here", ""),
    "eps": (file("multislerp", shared="{eps: 0.1}"), "multislerp: eps cannot be chosen here", ""),
    "no weight": (file("ties", own="{}"), "ties: weight of a is missing", ""),
    "a weight of zero": (file("ties", own="{weight: 0}"), "ties: the weight of a is 0", "take the model out"),
    "a weight in words": (file("ties", own="{weight: much}"), "weight of a is not a number: 'much'", ""),
    "a weight that is true": (file("ties", own="{weight: true}"), "weight of a is not a number", ""),
    "no base": (file("ties", base=""), "ties: there is no base_model", "add base_model: to the file"),
    "nuslerp of whole models": (file("nuslerp", base=""), "nuslerp: there is no base_model", ""),
    "no t": (file("slerp", own="{}"), "it merges two models, and was given 3", ""),
    "no t for two": ("merge_method: slerp\nbase_model: base\nmodels: [{model: a}]", "slerp: t is missing", ""),
    "a flag that is none": (file("ties", shared="{normalize: maybe}"), "ties: normalize must be true or false", ""),
    "a lambda of zero": (file("ties", shared="{lambda: 0}"), "ties: lambda is 0", ""),
    "weights that cancel": ("merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: -1}}\nparameters: {normalize: true}", "the weights add up to zero", ""),
    "a linear that scales": (file("linear", base="", shared="{normalize: false}"), "linear: the weights add up to 2, which would scale every weight", ""),
    "a linear with an unweighted base": (file("linear"), "linear: weight of base is missing", ""),
    "only the base": ("merge_method: ties\nbase_model: base\nmodels: [{model: base}]", "ties: there is no model but the base", ""),
    "a type that is none": (file("ties", more="dtype: int4"), "dtype 'int4' is not a type", ""),
    "parameters that are a list": ("merge_method: ties\nmodels: [{model: a, parameters: [1]}]", "parameters must be a mapping", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    text, message, hint = REFUSED[case]
    with pytest.raises(Unsaid) as caught:
        translated(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_arcee_fusion_looks_at_the_base_itself():
    with pytest.raises(Unsaid, match="must be the base of the recipe"):
        translated("merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: a}]", base="x")


def test_linear_is_a_weighted_average():
    one, two = INPUTS["A/ft0"], INPUTS["A/ft1"]
    text = "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 3}}\n- {model: b, parameters: {weight: 1}}"
    terms = parse_sum(translated(text))
    folded = normalize(Recipe("b", terms), base="b", vectors={"a": "a", "b": "b"}).terms
    assert format_sum(folded) == "0.75 * a + 0.25 * b"
    base = INPUTS["A/base"]
    expected = (3 * one + two) / 4
    deltas = torch.stack([one - base, two - base])
    found = base + weighted_sum(deltas, torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
