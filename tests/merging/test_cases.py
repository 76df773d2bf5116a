"""Every case of tests/merging/cases: what public implementations make of small inputs.

The presets of `tvc.merging.presets` say what differs between implementations, so this file is also
their test. Selection is exact (no tolerance hides a wrong mask), arithmetic is within rounding.
"""

import itertools
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
from tvc.merging.ties import ties

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
    for each in ties.passes_for(checked, "vector"):
        numel = sum(group[0].numel() for group in groups)
        counting = each(
            members=3, numel=numel, options=checked, weights=weights, earlier=statistics
        )
        again = counting.begin(None)
        while again:
            for group in groups:
                part = counting.part()
                part.observe(group)
                counting.add(part)
            again = counting.more()
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
        zero_positive=int((total > 0).sum()) > int((total < 0).sum()),
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
    return (
        0.0
        if "output_is" in case or case["method"] == "trim"
        else INPUTS[case["inputs"][0]].float()
    )


def ordinals(tensor: Tensor) -> Tensor:
    """Return bf16 patterns as integers in the order of the numbers."""
    bits = tensor.to(torch.bfloat16).view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def tied(case: dict[str, Any]) -> bool:
    return case.get("arbitrary_ties") or any(case.get("arbitrary_tie_choice_per_model", ()))


def test_no_case_is_missing() -> None:
    assert len(CASES) == COUNT
    assert {case["id"] for case in CASES} == set(OUTPUTS)


def off_by(case: dict[str, Any], actual: Tensor, expected: Tensor) -> Tensor:
    """Return the distance in units in the last place of the largest number that was rounded."""
    inputs = [INPUTS[name].float().abs() for name in case["inputs"]]
    largest = torch.stack([*inputs, expected.float().abs()]).amax(dim=0)
    unit = torch.exp2(torch.floor(torch.log2(largest.clamp(min=1e-30))) - 7)
    return (actual.float() - expected.float()).abs() / unit


# Implementations that compute in bf16 round to it (half a unit) after every operation; ours round
# once. One case has four roundings in a row.
ROUNDINGS = 2.0


def assert_case(case: dict[str, Any], actual: Tensor) -> None:
    expected = OUTPUTS[case["id"]]
    assert actual.shape == expected.shape
    if case["compute_dtype"] == "bfloat16":
        off = off_by(case, actual, expected)
        assert off.max() <= ROUNDINGS
        # Model stock's factor t is itself a quotient of numbers of 8 bits there.
        assert (off > 1).float().mean() < (0.1 if case["method"] == "model_stock" else 0.01)
    elif expected.dtype == torch.bfloat16:
        assert int((ordinals(actual) - ordinals(expected)).abs().max()) <= 1
    elif "tolerance" in case:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)
    else:
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("case", [c for c in CASES if not tied(c)], ids=lambda c: c["id"])
def test_case(case: dict[str, Any]) -> None:
    assert_case(case, base_of(case) + runner_of(case)(case))


def test_every_case_is_checked() -> None:
    by_trim = [c["id"] for c in CASES if tied(c) and c["method"] != "sce"]
    by_selection = [c["id"] for c in CASES if tied(c) and c["method"] == "sce"]
    assert len(by_trim) + len(by_selection) + sum(not tied(c) for c in CASES) == COUNT


def bounds(case: dict[str, Any], magnitudes: Tensor) -> tuple[float, float, int]:
    """Return the least and greatest magnitude kept, and how many are kept, by sorting."""
    descending = magnitudes.flatten().sort(descending=True).values
    n = len(descending)
    dropped, kept = int(case["params"].get("gamma", 0) * n), int(case["params"]["density"] * n)
    return descending[dropped + kept - 1].item(), descending[dropped].item(), kept


@pytest.mark.parametrize(
    "case", [c for c in CASES if tied(c) and c["method"] != "sce"], ids=lambda c: c["id"]
)
def test_trim_with_arbitrary_ties(case: dict[str, Any]) -> None:
    """Theirs keeps some of the elements that equal a bound, ours all; nothing else differs."""
    deltas = deltas_of(case)
    sure: list[Tensor] = []
    maybe: list[Tensor] = []
    for delta in deltas:
        low, high, kept = bounds(case, delta.abs())
        lowest, highest = delta.abs() == low, (delta.abs() == high) & ("gamma" in case["params"])
        sure.append((delta.abs() > low) & (delta.abs() <= high) & ~highest)
        maybe.append(lowest | highest)
        assert int(sure[-1].sum()) <= kept <= int((sure[-1] | maybe[-1]).sum())
    weights = weights_of(case, len(deltas))
    summed = "ties" not in case["method"]
    candidates: list[Tensor] = []
    for choice in itertools.product((False, True), repeat=len(deltas)):
        masks = [s | m if chosen else s for s, m, chosen in zip(sure, maybe, choice, strict=True)]
        members = [delta * mask for delta, mask in zip(deltas, masks, strict=True)]
        candidates.append(
            weighted_sum(members, weights)
            if summed
            else merge_elected(
                members,
                weights,
                election="mass",
                normalize="weights" if case["method"] == "ties" else "none",
                weights_after_election=False,
            )
        )
    assert torch.equal(mergekit(case), candidates[-1])
    expected = OUTPUTS[case["id"]]
    off = torch.stack([off_by(case, base_of(case) + each, expected) for each in candidates])
    allowed = ROUNDINGS if case["compute_dtype"] == "bfloat16" else 0.5
    assert off.amin(dim=0).max() <= allowed


@pytest.mark.parametrize(
    "case", [c for c in CASES if tied(c) and c["method"] == "sce"], ids=lambda c: c["id"]
)
def test_selection_with_arbitrary_ties(case: dict[str, Any]) -> None:
    """Theirs selects some of the elements of equal variance, which its output shows."""
    deltas = deltas_of(case)
    variance = deltas.var(dim=0, correction=0)
    k = int(case["params"]["select_topk"] * int(variance.count_nonzero()))
    threshold = variance.flatten().sort(descending=True).values[k - 1]
    ours = mergekit(case)
    near = (variance - threshold).abs() <= threshold * NEAR[case["compute_dtype"]]
    surely = (variance > threshold) & ~near
    assert not ours[~surely & ~near].any()
    theirs = (OUTPUTS[case["id"]] != INPUTS[case["inputs"][0]]) & near
    assert int(surely.sum()) <= k <= int((surely | near).sum())
    actual = base_of(case) + find_method("sce").merge(
        deltas * (surely | theirs), options={"select_topk": 1.0}
    )
    assert_case(case, actual)


# How far, relatively, a variance computed in this type may be off.
NEAR = {"float32": 1e-5, "bfloat16": 0.02}
