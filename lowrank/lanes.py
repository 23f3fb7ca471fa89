"""ReLU networks at rest on two classes: two nonnegative lanes through all layers, one a class, and what a sum of such
networks does. A lane is what a deep linear network has as its only path; the ReLU keeps the two apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _require
from .networks import Weights

SIGNS = (1.0, -1.0)  # of the lanes p, n at the output


@dataclass(frozen=True, eq=False)
class Lanes:
    """W_k ≈ s₊p_kp_{k−1}ᵀ + s₋n_kn_{k−1}ᵀ, k = 1, …, K, with p_0 = u₊, n_0 = u₋ and p_K = 1, n_K = −1.

    `directions` are K tensors (*E, m_k, 2), k = 0, …, K−1: unit columns p_k, n_k (0 for a lane that is not there), nonnegative
    for k ≥ 1. `strengths` are s₊, s₋ of each layer, (*E, K, 2). `residual` is ‖W_k − lanes‖_F/‖W_k‖_F, (*E, K): 0 where the
    layer has that form. `shared` is ⟨p_k, n_k⟩, (*E, K−1) for k = 1, …, K−1: 0 where no neuron serves both classes.
    """

    directions: tuple[Tensor, ...]
    strengths: Tensor
    residual: Tensor
    shared: Tensor

    @property
    def depth(self) -> int:
        """K, the number of layers."""
        return len(self.directions)


def lanes(weights: Weights) -> Lanes:
    """The lanes of a ReLU network with one output, from its weights alone, read off from the top.

    p_{K−1} and n_{K−1} are the positive and the negative part of the read-out, normalised; below, p_{k−1} is the positive
    part of W_kᵀp_k, normalised (for k = 1 all of it), and s₊ = p_kᵀW_kp_{k−1}; the same for n. Exact where the network has
    lanes on disjoint neurons; elsewhere `residual` says by how much it has not. Raises ValueError for fewer than two
    layers, more than one output or numbers that are not finite.
    """
    weights = tuple(_require.tensor(f"W_{k}", w) for k, w in enumerate(weights, start=1))
    if len(weights) < 2:
        raise ValueError(f"weights: expected at least two layers, got {len(weights)}")
    if weights[-1].ndim < 2 or weights[-1].shape[-2] != 1:
        raise ValueError(f"W_{len(weights)}: expected one output (*E, 1, m), got {tuple(weights[-1].shape)}")
    above = weights[-1].new_tensor(SIGNS).expand(*weights[-1].shape[:-1], 2)  # (*E, 1, 2)
    directions, strengths, residuals = [], [], []
    for k in range(len(weights), 0, -1):
        w = weights[k - 1]
        pulled = w.mT @ above
        below = _unit_columns(pulled.clamp_min(0.0) if k > 1 else pulled)
        strength = (above * (w @ below)).sum(-2)
        lane_form = (above * strength[..., None, :]) @ below.mT
        residuals.append(torch.linalg.matrix_norm(w - lane_form) / torch.linalg.matrix_norm(w))
        directions.append(below)
        strengths.append(strength)
        above = below
    directions.reverse()
    shared = [(d[..., 0] * d[..., 1]).sum(-1) for d in directions[1:]]
    return Lanes(
        tuple(directions), torch.stack(strengths[::-1], -2), torch.stack(residuals[::-1], -1), torch.stack(shared, -1)
    )


def overlaps(first: Lanes, second: Lanes) -> Tensor:
    """⟨lane i of the first, lane j of the second⟩ in the hidden layers k = 1, …, K−1, (*E, K−1, 2, 2), lanes in the order p, n.

    Raises ValueError for networks of different widths or depths.
    """
    _same_shape((first, second))
    return torch.stack([a.mT @ b for a, b in zip(first.directions[1:], second.directions[1:])], dim=-3)


def transfer_matrices(parts: Sequence[Lanes]) -> tuple[Tensor, ...]:
    """T_k = diag(s_k) V_{k−1}ᵀV_{k−1} for k = 2, …, K, each (*E, 2N, 2N), of the sum of N networks: V_k has the columns
    p_k^1, n_k^1, p_k^2, n_k^2, …, and s_k are their strengths in layer k.

    If the activations of layer k−1 are V_{k−1}c with c ≥ 0, those of layer k are V_kT_kc: no entry is negative, so that the
    ReLU does nothing. Exact for networks with lanes; our derivation. Raises ValueError for no network or unequal shapes.
    """
    parts = _same_shape(parts)
    columns = [torch.cat(layer, dim=-1) for layer in zip(*(part.directions[1:] for part in parts))]
    strengths = torch.cat([part.strengths for part in parts], dim=-1)  # (*E, K, 2N)
    return tuple(strengths[..., k, :, None] * (v.mT @ v) for k, v in enumerate(columns, start=1))


def merged_relu(parts: Sequence[Lanes], x: Tensor) -> Tensor:
    """Outputs of the sum of N ReLU networks with lanes, by transfer of 2N numbers a layer, (*E, n, 1) from x (n, d):
    c_1 = relu(s_1⟨u, x⟩) for each lane, c_k = T_kc_{k−1}, f = Σ ±c_K with the signs (+, −, +, −, …).

    Exact where layers have lane form and x is seen by one network only, ⟨u, x⟩ = 0 for the lanes of the others; each
    network's own lanes must not share neurons in the first layer. Raises ValueError for inputs that do not fit and like
    `transfer_matrices`.
    """
    parts, x = _same_shape(parts), _require.tensor("x", x)
    inputs = torch.cat([part.directions[0] for part in parts], dim=-1)
    if x.ndim < 2 or x.shape[-1] != inputs.shape[-2]:
        raise ValueError(f"x: expected (n, {inputs.shape[-2]}), got {tuple(x.shape)}")
    first = torch.cat([part.strengths[..., 0, :] for part in parts], dim=-1)
    carried = (first[..., None] * (inputs.mT @ x.mT)).clamp_min(0.0)
    for transfer in transfer_matrices(parts):
        carried = transfer @ carried
    return (carried.new_tensor(SIGNS * len(parts))[:, None] * carried).sum(-2)[..., None]


def cancellation(parts: Sequence[Lanes]) -> Tensor:
    """Σ_k Σ_l |δ_k|_l (T_{k−1}/s_{k−1} ⋯ T_2/s_2 e_o)_l over k = 2, …, K, with the defects δ_k = rT_k/s_k − r, r = (1, −1, 1, −1,
    …): bounds |f_sum(x)/f_own(x) − 1| for x that only lane o of the first network sees, s_k its strengths; (*E, 2), o = p, n.

    A defect is made of what does not cancel: it is 0 where all overlaps with other networks agree and all strengths are
    equal, whatever the overlaps are. An equality for K = 2. Premises and errors are those of `merged_relu`; nan or infinity
    where the first network lacks the lane.
    """
    parts = _same_shape(parts)
    matrices = transfer_matrices(parts)
    signs = matrices[0].new_tensor(SIGNS * len(parts))
    bounds = []
    for lane in range(2):
        carried = torch.zeros_like(matrices[0][..., 0])
        carried[..., lane] = 1.0
        total = torch.zeros_like(carried[..., 0])
        for k, transfer in enumerate(matrices, start=1):
            scaled = transfer / parts[0].strengths[..., k, lane, None, None]
            total = total + ((signs @ scaled - signs).abs() * carried).sum(-1)
            carried = (scaled @ carried[..., None])[..., 0]
        bounds.append(total)
    return torch.stack(bounds, -1)


def _unit_columns(columns: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(columns, dim=-2, keepdim=True)
    return torch.where(norms > 0, columns / norms, 0.0)


def _same_shape(parts: Sequence[Lanes]) -> tuple[Lanes, ...]:
    parts = tuple(_require.instance(f"parts[{i}]", part, Lanes) for i, part in enumerate(parts))
    shapes = {tuple(d.shape for d in part.directions) for part in parts}
    if len(shapes) != 1:
        raise ValueError(f"parts: expected one or more networks of one shape, got {len(shapes)} shapes")
    return parts
