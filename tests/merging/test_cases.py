"""Every case of tests/merging/cases: what public implementations make of small inputs.

The presets of `tvc.merging.presets` say what differs between implementations, so this file is also
their test. Selection is exact (no tolerance hides a wrong mask), arithmetic is within rounding.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tvc.merging.emr import largest_agreeing
from tvc.merging.mixing import merge_elected, tally, weighted_sum
from tvc.merging.presets import preset_options
from tvc.merging.registry import find_method
from tvc.merging.ties import lead_of, ties

FOLDER = Path(__file__).parent / "cases"
INPUTS = load_file(FOLDER / "inputs.safetensors")
OUTPUTS = load_file(FOLDER / "outputs.safetensors")
UNIFORMS = load_file(FOLDER / "uniforms.safetensors")
CASES: list[dict[str, Any]] = json.loads((FOLDER / "cases.json").read_text())["cases"]
COUNT = 109


def deltas_of(case: dict[str, Any]) -> Tensor:
    dtype = getattr(torch, case["compute_dtype"])
    base, *tuned = (INPUTS[name].to(dtype) for name in case["inputs"])
    return torch.stack([each - base for each in tuned]).float()


def weights_of(case: dict[str, Any], members: int) -> Tensor:
    given = case["params"].get("weight", case["params"].get("weights", 1.0))
    return torch.tensor(given if isinstance(given, list) else [given] * members)


def run(
    method: str, case: dict[str, Any], options: dict[str, Any], deltas: Tensor, weights: Tensor
) -> Tensor:
    found = find_method(method)
    checked = found.check_options(options)
    found.check_members(len(deltas), checked)
    supplies: dict[str, Any] = {
        "weights": weights,
        "base": INPUTS[case["inputs"][0]].float(),
        "statistics": {},
    }
    if "uniforms" in case:
        supplies["uniforms"] = torch.stack([UNIFORMS[name] for name in case["uniforms"]])
    return found.merge(deltas, options=checked, **supplies)


RENAMED = {"dare_linear": "dare", "magnitude_prune": "ties", "trim": "ties"}


def mergekit(case: dict[str, Any]) -> Tensor:
    params, deltas = dict(case["params"]), deltas_of(case)
    name = RENAMED.get(case["method"], case["method"])
    weights = weights_of(case, len(deltas))
    params.pop("weight", None)
    factor = params.pop("lambda", 1.0)
    options = dict(preset_options("mergekit", name))
    if name == "task_arithmetic":
        if params.get("normalize"):
            return factor * run("linear", case, {}, deltas, weights)
        return factor * weighted_sum(deltas, weights)
    if case["method"] == "trim":
        options |= {"election": "none", "normalize": "none"}
    if name == "linear":
        params["base_weight"], weights = weights[0].item(), weights[1:]
    elif "normalize" in params:
        params["normalize"] = "weights" if params["normalize"] else "none"
    if name == "karcher":
        params["include_base"] = True
    if "rescale" in params:
        params["rescale"] = "l1" if params["rescale"] else "none"
    return factor * run(name, case, options | params, deltas, weights)


def peft(case: dict[str, Any]) -> Tensor:
    params, deltas = case["params"], deltas_of(case)
    name = RENAMED.get(case["method"], case["method"])
    weights = weights_of(case, len(deltas))
    if name == "task_arithmetic":
        return weighted_sum(deltas, weights)
    options = dict(preset_options("peft", name)) | {"density": params["density"]}
    if case["method"] == "magnitude_prune":
        options |= {"election": "none", "normalize": "none"}
    if params.get("majority_sign_method") == "frequency":
        options["election"] = "count"
    return run(name, case, options, deltas, weights)


def paper_ties(case: dict[str, Any]) -> Tensor:
    """Three tensors, as one vector; the members are observed tensor by tensor."""
    groups = [
        torch.stack([INPUTS[f"{g}/ft{i}"] - INPUTS[f"{g}/base"] for i in range(3)])
        for g in ("G0", "G1", "G2")
    ]
    wanted = groups[int(case["id"][-1])]
    params, weights = case["params"], torch.ones(3)
    options = dict(preset_options("paper", "ties")) | {"density": params["K"] / 100}
    if params["resolve"] == "none":
        options["election"] = "none"
    if params["merge_func"] == "dis-sum":
        options["normalize"] = "none"
    checked = ties.check_options(options)
    statistics: dict[str, Tensor] = {}
    for each in ties.passes_for(checked):
        numel = sum(group[0].numel() for group in groups)
        counting = each(members=3, numel=numel, options=checked, earlier=statistics)
        for group in groups:
            counting.observe(group, weights=weights)
        statistics[each.name] = counting.result()
    if params["merge_func"] != "dis-max":
        return ties.merge(wanted, options=checked, weights=weights, statistics=statistics)
    thresholds = statistics["thresholds"].view(3, *[1] * (wanted.dim() - 1))
    members = list(wanted * (wanted.abs() >= thresholds))
    total = tally(members, weights, election="mass")
    positive = (total > 0) | ((total == 0) & (statistics["majority"] > 0))
    return largest_agreeing(members, positive)


def elect(case: dict[str, Any]) -> Tensor:
    deltas = deltas_of(case) * case["params"]["multiply_deltas_by"]
    total = tally(list(deltas), torch.ones(3), election="mass")
    assert total.sign().tolist() == case["params"]["signs"]
    return merge_elected(
        list(deltas),
        torch.ones(3),
        election="mass",
        normalize="count",
        weights_after_election=False,
        zero_positive=lead_of(total) > 0,
    )


def pruned(case: dict[str, Any]) -> Tensor:
    """The sparsifiers of single members, as sums of one."""
    params, deltas, one = case["params"], deltas_of(case), torch.ones(1)
    if case["method"].startswith("breadcrumbs"):
        amounts = {"density": params["top_k_keep"], "gamma": params["top_k_remove"]}
        options = {**preset_options("paper", "breadcrumbs"), **amounts}
        return run("breadcrumbs", case, options, deltas, one)
    if case["method"] == "dare":
        drawn = 1 - torch.stack([UNIFORMS[name] for name in case["uniforms"]])
        options = dict(preset_options("paper", "dare")) | {"density": 1 - params["mask_rate"]}
        return find_method("dare").merge(
            deltas,
            options=find_method("dare").check_options(options),
            weights=one,
            uniforms=drawn,
        )
    amounts = {"density": params["density"], "epsilon": params["epsilon"]}
    options = {**preset_options("paper", "della_linear"), **amounts}
    return run("della_linear", case, options, deltas, one)


def fusionbench(case: dict[str, Any]) -> Tensor:
    name = "iso_c" if case["method"] == "Iso-C" else "emr"
    deltas = deltas_of(case)
    return run(name, case, {}, deltas, torch.ones(len(deltas)))


def runner_of(case: dict[str, Any]) -> Callable[[dict[str, Any]], Tensor]:
    kind = case["id"].split(".")[0]
    if kind != "ref":
        return {"mk": mergekit, "peft": peft, "fb": fusionbench}[kind]
    if case["id"].startswith("ref.ties."):
        return paper_ties
    return elect if case["id"].startswith("ref.elect.") else pruned


def base_of(case: dict[str, Any]) -> Tensor | float:
    return 0.0 if "output_is" in case or case["method"] == "trim" else INPUTS[case["inputs"][0]].float()


def ordinals(tensor: Tensor) -> Tensor:
    """Return bf16 patterns as integers in the order of the numbers."""
    bits = tensor.to(torch.bfloat16).view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def tied(case: dict[str, Any]) -> bool:
    return case.get("arbitrary_ties") or any(case.get("arbitrary_tie_choice_per_model", ()))


def test_no_case_is_missing() -> None:
    assert len(CASES) == COUNT
    assert {case["id"] for case in CASES} == set(OUTPUTS)


@pytest.mark.parametrize("case", [c for c in CASES if not tied(c)], ids=lambda c: c["id"])
def test_case(case: dict[str, Any]) -> None:
    delta, expected = runner_of(case)(case), OUTPUTS[case["id"]]
    actual = base_of(case) + delta
    assert actual.shape == expected.shape
    if expected.dtype == torch.bfloat16:
        apart = (ordinals(actual) - ordinals(expected)).abs()
        print(apart.max(), (apart>0).sum())
        assert int(apart.max()) <= (1 if case["compute_dtype"] == "bfloat16" else 0)
    elif "tolerance" in case:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)
    else:
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-7)
