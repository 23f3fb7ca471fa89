"""What matrices look like: ranks, norms and how neighbouring layers fit. Every function takes any leading axes."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _require
from .networks import Weights


def singular_values(w: Tensor) -> Tensor:
    """σ_1 ≥ σ_2 ≥ …, (*E, min(m, n)) from (*E, m, n)."""
    return torch.linalg.svdvals(_matrix(w))


def stable_rank(w: Tensor) -> Tensor:
    """‖W‖_F² / ‖W‖₂², (*E,) from (*E, m, n), between 1 and the rank; nan for a zero matrix, which has none."""
    sigma = singular_values(w)
    return (sigma / sigma[..., :1]).square().sum(-1)  # divided first: squares overflow and underflow


def effective_rank(w: Tensor) -> Tensor:
    """exp(−Σ p_j log p_j) with p_j = σ_j / Σσ, (*E,) from (*E, m, n); nan for a zero matrix (Roy & Vetterli 2007)."""
    sigma = singular_values(w)
    p = sigma / sigma.sum(-1, keepdim=True)
    return torch.exp(torch.special.entr(p).sum(-1))


def numerical_rank(w: Tensor, *, rtol: float) -> Tensor:
    """Number of σ_j > rtol·σ_1, (*E,) int64 from (*E, m, n); 0 for a zero matrix."""
    _require.number("rtol", rtol, minimum=0.0, maximum=1.0)
    sigma = singular_values(w)
    return (sigma > rtol * sigma[..., :1]).sum(-1)


def tail_norm(w: Tensor, rank: int) -> Tensor:
    """√(Σ_{j>rank} σ_j²), the Frobenius distance to the matrices of that rank, (*E,) from (*E, m, n)."""
    _require.integer("rank", rank, minimum=0)
    return torch.linalg.vector_norm(singular_values(w)[..., rank:], dim=-1)


def nuclear_norm(w: Tensor) -> Tensor:
    """Σ_j σ_j, (*E,) from (*E, m, n)."""
    return singular_values(w).sum(-1)


def layer_norms(weights: Weights) -> Tensor:
    """‖W_k‖_F, (*E, K)."""
    return torch.stack([torch.linalg.matrix_norm(w) for w in weights], dim=-1)


def spectral_ratio(weights: Weights) -> Tensor:
    """Π_k ‖W_k‖₂/‖W_k‖_F, (*E,), at most 1: the geometric mean of the K stable ranks, to the power −K/2.

    nan where a layer is zero: it has no stable rank.
    """
    return torch.stack([stable_rank(w) for w in weights], dim=-1).rsqrt().prod(-1)


def norm_gaps(weights: Weights) -> Tensor:
    """D_k = ‖W_{k+1}‖_F² − ‖W_k‖_F², (*E, K−1)."""
    return layer_norms(weights).square().diff(dim=-1)


def imbalance(weights: Weights) -> Weights:
    """W_{k+1}ᵀW_{k+1} − W_kW_kᵀ for neighbouring layers: K−1 tensors (*E, m_k, m_k), with traces D_k."""
    return tuple(after.mT @ after - before @ before.mT for before, after in zip(weights, weights[1:]))


def neuron_gaps(weights: Weights) -> Weights:
    """‖column j of W_{k+1}‖² − ‖row j of W_k‖² for each hidden neuron j: K−1 tensors (*E, m_k)."""
    return tuple(
        after.square().sum(-2) - before.square().sum(-1) for before, after in zip(weights, weights[1:])
    )


def layer_alignment(weights: Weights) -> Tensor:
    """|⟨v_{k+1}, u_k⟩| of top right singular vector and top left one of the layer below, (*E, K−1)."""
    factors = [torch.linalg.svd(_matrix(w), full_matrices=False) for w in weights]
    overlaps = [
        (above.Vh[..., 0, :] * below.U[..., :, 0]).sum(-1).abs() for below, above in zip(factors, factors[1:])
    ]
    return torch.stack(overlaps, dim=-1)


def _matrix(w: Tensor) -> Tensor:
    w = _require.tensor("w", w)
    if w.ndim < 2 or 0 in w.shape:
        raise ValueError(f"w: expected a matrix or a stack (*E, m, n), got shape {tuple(w.shape)}")
    return w
