"""Methods that no public case covers, against their papers written plainly in float64."""

import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from tvc.merging.reductions import absolute_sum, dot, row_dots
from tvc.merging.registry import find_method


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(actual: Tensor, expected: object) -> None:
    wanted = torch.as_tensor(np.asarray(expected)).to(actual.dtype)
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (9, 9)], ids=str)
def test_tsv_is_algorithm_1(shape: tuple[int, int]) -> None:
    """arXiv:2412.00081, Algorithm 1, whitening by the polar factor of an eigendecomposition."""
    deltas = normal(3, *shape)
    rank = min(shape) // 3
    triples = [np.linalg.svd(d.double().numpy(), full_matrices=False) for d in deltas]
    u = np.hstack([t[0][:, :rank] for t in triples])
    s = np.concatenate([t[1][:rank] for t in triples])
    v = np.vstack([t[2][:rank] for t in triples])

    def polar(m: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(m.T @ m)
        return m @ vectors @ np.diag(values**-0.5) @ vectors.T

    expected = polar(u) @ np.diag(s) @ polar(v.T).T
    check(find_method("tsv").function(deltas), expected)


def test_tsv_ignores_members_without_change_and_counts_equal_ones_once() -> None:
    """Neither has directions of its own, and a decomposition would make some up."""
    delta, tsv = normal(9, 12), find_method("tsv").function
    u, s, v = np.linalg.svd(delta.double().numpy(), full_matrices=False)
    expected = u[:, :4] @ np.diag(s[:4]) @ v[:4]
    check(tsv(torch.stack([delta, torch.zeros(9, 12)])), expected)
    check(tsv(torch.stack([delta, delta])), expected)
    assert not tsv(torch.zeros(2, 9, 12)).any()


def test_tsv_averages_what_is_no_matrix_or_too_small() -> None:
    for shape in [(5,), (2, 9), (3, 4, 2), ()]:
        deltas = normal(3, *shape)
        check(find_method("tsv").function(deltas), deltas.double().mean(dim=0).numpy())


def test_iso_c_makes_all_singular_values_equal() -> None:
    deltas = normal(3, 7, 11)
    merged = find_method("iso_c").function(deltas).double()
    total = np.linalg.svd(deltas.double().sum(dim=0).numpy(), compute_uv=False)
    check(torch.linalg.svdvals(merged), np.full(7, total.mean()))


def test_iso_c_invents_no_directions() -> None:
    """A sum of rank 2 keeps rank 2: the directions of its null space would be arbitrary."""
    low = normal(9, 2) @ normal(2, 9, seed=1)
    merged = find_method("iso_c").function(torch.stack([low, low]))
    spectrum = torch.linalg.svdvals(merged)
    assert int((spectrum > 1e-5 * spectrum[0]).sum()) == 2


def test_knots_merges_in_the_joint_basis() -> None:
    """arXiv:2410.19735, section 4: the joint basis undoes what was trimmed by no one."""
    deltas = normal(2, 6, 9)
    knots, weights = find_method("knots"), torch.tensor([1.0, -0.5])
    plain = knots.check_options({"density": 1, "election": "none", "normalize": "none"})
    check(
        knots.merge(deltas, options=plain, weights=weights),
        (deltas[0] - 0.5 * deltas[1]).double().numpy(),
    )
    u, s, v = np.linalg.svd(np.hstack([d.double().numpy() for d in deltas]), full_matrices=False)
    parts = [np.diag(s) @ v[:, :9], np.diag(s) @ v[:, 9:]]
    kept = [p * (np.abs(p) >= np.sort(np.abs(p), axis=None)[-27]) for p in parts]
    sign = np.where(kept[0] + kept[1] >= 0, 1, -1)
    agree = [(p * sign > 0) for p in kept]
    merged = sum(p * a for p, a in zip(kept, agree, strict=True)) / np.maximum(sum(agree), 1)
    options = knots.check_options({"density": 0.5})
    check(knots.merge(deltas, options=options, weights=torch.ones(2)), u @ merged)


def test_arcee_fusion_takes_over_outliers_of_importance() -> None:
    base, delta = normal(6, 10), normal(1, 6, 10, seed=1)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True) + 1e-8

    d, b = delta[0].double().numpy(), base.double().numpy()
    p, q = softmax(b + d), softmax(b)
    importance = np.abs(d) * (p * np.log(p / q)).sum(axis=1, keepdims=True)
    ordered = np.sort(importance, axis=None)
    first, median, third = (ordered[int(x * 59)] for x in (0.25, 0.5, 0.75))
    mask = importance >= median + 1.5 * (third - first)
    assert 0 < mask.sum() < 30
    check(find_method("arcee_fusion").function(delta, base=base), d * mask)


def test_emr_elects_minus_for_a_sum_of_zero() -> None:
    emr = find_method("emr").function
    assert emr(torch.tensor([[1.0, 2.0], [-1.0, -1.0]])).tolist() == [-1.0, 2.0]


def test_slerp_of_two_models_keeps_to_the_circle() -> None:
    base, deltas = normal(4, 5), normal(2, 4, 5, seed=1)
    a, b = base + deltas[0], base + deltas[1]
    method = find_method("slerp")

    def slerp(deltas: Tensor, *, base: Tensor, t: float) -> Tensor:
        return method.merge(deltas, options=method.check_options({"t": t}), base=base)

    check(slerp(deltas, base=base, t=0.0), deltas[0].numpy())
    check(slerp(deltas, base=base, t=1.0), deltas[1].numpy())
    angle = torch.acos((a * b).sum() / a.norm() / b.norm())
    expected = torch.sin(0.7 * angle) * a + torch.sin(0.3 * angle) * b
    check(slerp(deltas, base=base, t=0.3), (expected / torch.sin(angle) - base).numpy())
    opposite = torch.stack([torch.zeros(4, 5), -2 * base])
    check(slerp(opposite, base=base, t=0.25), (-0.5 * base).numpy())


@pytest.mark.parametrize(("row_wise", "axis"), [(False, 1), (True, 0)])
def test_nuslerp_goes_row_by_row(row_wise: bool, axis: int) -> None:
    deltas = normal(2, 4, 5)
    deltas[:, 0] = 0  # a zero row is interpolated linearly
    nuslerp = find_method("nuslerp")
    options = nuslerp.check_options({"flatten": False, "row_wise": row_wise})
    merged = nuslerp.merge(deltas, options=options, weights=torch.tensor([3.0, 1.0]))
    a, b = deltas.double()
    lengths = a.norm(dim=axis, keepdim=True) * b.norm(dim=axis, keepdim=True)
    angle = torch.acos((a * b).sum(dim=axis, keepdim=True) / lengths)
    expected = (torch.sin(0.75 * angle) * a + torch.sin(0.25 * angle) * b) / torch.sin(angle)
    check(merged, torch.where(lengths == 0, 0.75 * a + 0.25 * b, expected).numpy())


def test_karcher_is_least_distant_from_all() -> None:
    base, deltas = normal(30), 0.5 * normal(3, 30, seed=1)
    karcher = find_method("karcher")
    options = karcher.check_options({"max_iter": 100, "tol": Fraction(1, 10**9)})
    merged = base + karcher.merge(deltas, options=options, base=base)
    unit = merged.double() / merged.double().norm()
    pull = torch.zeros(30, dtype=torch.float64)
    for model in (base + deltas).double():
        direction = model / model.norm()
        cosine = unit @ direction
        pull += (direction - cosine * unit) * torch.acos(cosine) / (1 - cosine**2).sqrt()
    assert pull.norm() < 1e-5


def test_dare_keeps_the_expectation() -> None:
    deltas = torch.ones(1, 20_000)
    draws = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    dare = find_method("dare")
    options = dare.check_options({"density": 0.1})
    merged = dare.merge(deltas, options=options, weights=torch.ones(1), uniforms=draws)
    assert set(merged.unique().tolist()) == {0.0, 10.0}
    assert abs(merged.mean().item() - 1) < 0.05


def test_della_keeps_large_elements_more_often() -> None:
    delta = torch.arange(1.0, 12.0).repeat(4000, 1).unsqueeze(0)
    draws = torch.rand(delta.shape, generator=torch.Generator().manual_seed(0))
    della = find_method("della_linear")
    options = della.check_options({"density": 0.5, "epsilon": 0.2, "rescale": "none"})
    merged = della.merge(delta, options=options, weights=torch.ones(1), uniforms=draws)
    often = (merged != 0).double().mean(dim=0)
    torch.testing.assert_close(
        often, torch.linspace(0.3, 0.7, 11, dtype=torch.float64), rtol=0, atol=0.03
    )


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    left, right = normal(3, 70_000), normal(3, 70_000, seed=1)
    found: list[object] = []

    def work(threads: int) -> None:
        torch.set_num_threads(threads)
        found.append((dot(left, right), absolute_sum(left), row_dots(left, right).tolist()))

    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            worker = threading.Thread(target=work, args=(threads,))
            worker.start()
            worker.join()
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    assert dot(left, right) == pytest.approx(float((left.double() * right.double()).sum()))
