"""`tsv`, `iso_c`, `knots`: merging in the space of singular vectors, without data.

All three speak of matrices. Other tensors (biases, norms, convolutions) are averaged by `tsv` and
`iso_c`, as in the authors' code, and merged by plain TIES by `knots`; so are matrices with an
infinity or NaN, which have no decomposition. Decompositions are taken in float64; directions that
are but rounding of the differences, and so arbitrary, are left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import Election, Normalize, mean, merge_elected, weighted_sum
from tvc.merging.sparsifying import Density
from tvc.merging.ties import trimmed

__all__ = ["iso_c", "knots", "tsv"]


@merge_method(
    "tsv",
    summary="Each vector's leading singular directions, made orthogonal to the others'.",
    paper="arXiv:2412.00081",
)
def tsv(deltas: Float[Tensor, "k *shape"]) -> Float[Tensor, "*shape"]:
    """Merge task singular vectors, Gargiulo et al., Algorithm 1 (TSV-Merge).

    1. Decompose each member; 2. keep its leading r / k directions; 3. stack them; 4. replace the
    stacked U and V by the nearest orthogonal matrices (Procrustes); 5. multiply. A matrix with
    fewer than k rows or columns has no direction for everyone, and is averaged like a vector.

    Args:
        deltas: (k, *shape), float32 or float64.
    """
    k = len(deltas)
    rank = min(deltas.shape[1:], default=0) // k
    if deltas.dim() != 3 or rank == 0 or not deltas.isfinite().all():
        return mean(deltas)
    eps = torch.finfo(deltas.dtype).eps
    parts = [_decompose(delta, eps, rank) for delta in deltas]
    left = _orthogonal(torch.cat([u for u, _, _ in parts], dim=1), eps)
    sizes = torch.cat([s for _, s, _ in parts])
    right = _orthogonal(torch.cat([v for _, _, v in parts]), eps)
    return ((left * sizes) @ right).to(deltas.dtype)


@merge_method(
    "iso_c",
    summary="The sum of vectors with all its singular values made equal.",
    paper="arXiv:2502.04959",
)
def iso_c(deltas: Float[Tensor, "k *shape"]) -> Float[Tensor, "*shape"]:
    """Make the spectrum of the sum flat, Marczak et al., section 4.1 (Iso-C).

    Args:
        deltas: (k, *shape), float32 or float64.
    """
    total = weighted_sum(deltas, torch.ones(len(deltas)))
    if total.dim() != 2 or total.numel() == 0 or not total.isfinite().all():
        return total / len(deltas)
    u, s, v = _decompose(total, torch.finfo(deltas.dtype).eps)
    size = s.mean() if len(s) else 0.0
    return (u @ v * size).to(deltas.dtype)


@merge_method(
    "knots",
    summary="TIES in the singular basis that all vectors share.",
    paper="arXiv:2410.19735",
)
def knots(
    deltas: Float[Tensor, "k *shape"],
    *,
    weights: Float[Tensor, " k"],
    density: Density = 0.2,
    election: Election = "mass",
    normalize: Normalize = "count",
) -> Float[Tensor, "*shape"]:
    """Align by a joint decomposition and merge there, Stoica et al., section 4 (KnOTS-TIES).

    1. Decompose [d₁ … d_k] = U S [V₁ … V_k]; 2. merge the S Vᵢ by TIES; 3. multiply by U. The
    share trimmed is of the elements of one tensor's S Vᵢ.

    Args:
        deltas: (k, *shape), float32 or float64.
        weights: (k,).
        density: Share of elements of each S Vᵢ that is kept.
        election: What elects signs.
        normalize: The divisor.
    """
    matrices = deltas.dim() == 3 and deltas.numel() > 0 and bool(deltas.isfinite().all())
    aligned, basis = deltas, None
    if matrices:
        k, rows, columns = deltas.shape
        together = deltas.transpose(0, 1).reshape(rows, k * columns)
        basis, s, v = _decompose(together, torch.finfo(deltas.dtype).eps)
        aligned = (s.unsqueeze(1) * v).reshape(-1, k, columns).transpose(0, 1)
    merged = merge_elected(
        trimmed(aligned, density=density, kept="at_least_one"),
        weights,
        election=election,
        normalize=normalize,
        weights_after_election=False,
    )
    return merged if basis is None else (basis @ merged).to(deltas.dtype)


def _decompose(
    matrix: Tensor, eps: float, most: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular triples, float64: U (m, r), S (r,), V (r, n).

    Directions that are noise are left out: the rounding of the entries is itself a matrix, with
    singular values of about √n times the relative rounding.

    Args:
        matrix: (m, n).
        eps: Relative rounding of the numbers that the matrix comes from.
        most: Triples wanted, or None for all.
    """
    u, s, v = _svd(matrix)
    noise = s[:1] * eps * max(matrix.shape) ** 0.5
    rank = int(torch.count_nonzero(s > noise))
    if most is not None:
        rank = min(rank, most)
    return u[:, :rank], s[:rank], v[:rank]


def _orthogonal(matrix: Tensor, eps: float) -> Tensor:
    """Return the orthogonal matrix nearest to this one (Procrustes), on what it spans."""
    u, _, v = _decompose(matrix, eps)
    return u @ v


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(matrix.double(), full_matrices=False)  # pyright: ignore[reportUnknownVariableType]  # torch does not say
