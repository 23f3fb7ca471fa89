"""Stationarity at kinks: one smooth piece of a network, closed by a multiplier for each pre-activation that is 0.

On a piece, σ is linear with a fixed slope off the kinks, and the kinks a are held at z_a = 0 by multipliers μ_a. The
conditions for a stationary point of L_λ on the piece are smooth and as many as the unknowns, θ and μ; and μ_a = γ_a b_a,
with b_a the signal that is propagated back to neuron and sample, says which slope γ_a of σ at 0 balances the forces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .networks import ACTIVATIONS, Weights, hidden_states
from .objective import LOSSES, Objective


@dataclass(frozen=True, eq=False)
class Piece:
    """Weights of one network, without members' axes, and for each hidden layer three matrices (m_k, n): `kinks`, which
    pre-activations are held at 0; `slopes` of σ, 0 on the kinks; `multipliers` μ, 0 off them."""

    weights: Weights
    kinks: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    multipliers: tuple[Tensor, ...]

    @property
    def mask(self) -> Tensor:
        """The kinks of all layers, flat."""
        return flat(self.kinks).bool()

    @property
    def unknowns(self) -> Tensor:
        """(θ, μ), flat."""
        return torch.cat([flat(self.weights), flat(self.multipliers)[self.mask]])

    def at(self, unknowns: Tensor) -> Piece:
        """The piece with other weights and multipliers, from the flat (θ, μ)."""
        size = sum(w.numel() for w in self.weights)
        return replace(
            self,
            weights=unflat(unknowns[:size], [w.shape for w in self.weights]),
            multipliers=self.spread(unknowns[size:]),
        )

    def spread(self, values: Tensor) -> tuple[Tensor, ...]:
        """One value a kink, as matrices (m_k, n) that are 0 elsewhere."""
        everywhere = torch.zeros(self.mask.shape, dtype=torch.float64)
        everywhere = everywhere.index_put((torch.nonzero(self.mask).flatten(),), values)
        return unflat(everywhere, [k.shape for k in self.kinks])

    def listed(self) -> Tensor:
        """Layer (from 0), neuron and sample of each kink, (a, 3)."""
        entries = [torch.nonzero(k) for k in self.kinks]
        return torch.cat([torch.nn.functional.pad(e, (1, 0), value=k) for k, e in enumerate(entries)])


def piece_at(objective: Objective, weights: Weights, near: float) -> Piece:
    """The piece of the point `weights` with kinks where |z| <= `near`; multipliers 0. For relu, leaky_relu and linear."""
    low, high = slope_range(objective)
    hidden = hidden_states(objective.network, weights, objective.task.x)[0][:-1]
    kinks = tuple(z.abs() <= near for z in hidden)
    slopes = tuple((low + (high - low) * (z > 0).to(z.dtype)).masked_fill(k, 0.0) for z, k in zip(hidden, kinks))
    return Piece(tuple(weights), kinks, slopes, tuple(torch.zeros_like(z) for z in hidden))


def slope_range(objective: Objective) -> tuple[float, float]:
    """Slopes of σ left and right of its kink; (1, 1) for linear networks, which have none."""
    return ACTIVATIONS[objective.network.activation].slopes or (1.0, 1.0)


def states(objective: Objective, piece: Piece) -> tuple[list[Tensor], list[Tensor]]:
    """Pre-activations z_1, …, z_K and h_0 = x, h_k = slope_k ⊙ z_k, samples as columns."""
    before, after = [], [objective.task.x.mT]
    for w, slope in zip(piece.weights, (*piece.slopes, None)):
        before.append(w @ after[-1])
        if slope is not None:
            after.append(slope * before[-1])
    return before, after


def signals(objective: Objective, piece: Piece, output: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """P_k = ∂/∂z_k of L + Σ_a μ_a z_a for every layer, and what arrives at the hidden ones, b_k = W_{k+1}ᵀP_{k+1}, from
    the `output` (c, n): P_k = slope_k ⊙ b_k + μ_k. Both are affine in μ."""
    leaving = [LOSSES[objective.loss].slope(output.mT, objective.targets).mT / output.shape[-1]]
    arriving = []
    for w, slope, multiplier in zip(piece.weights[:0:-1], piece.slopes[::-1], piece.multipliers[::-1]):
        arriving.append(w.mT @ leaving[-1])
        leaving.append(slope * arriving[-1] + multiplier)
    return leaving[::-1], arriving[::-1]


def conditions(objective: Objective, piece: Piece) -> Callable[[Tensor], Tensor]:
    """F(θ, μ) = (∇_θ[L + (λ/2)‖θ‖² + Σ_a μ_a z_a], z_a): zero at a stationary point that lies on the kinks a."""

    def evaluate(unknowns: Tensor) -> Tensor:
        here = piece.at(unknowns)
        before, after = states(objective, here)
        leaving, _ = signals(objective, here, before[-1])
        forces = [p @ h.mT + objective.weight_decay * w for p, h, w in zip(leaving, after, here.weights)]
        return torch.cat([flat(forces), flat(before[:-1])[piece.mask]])

    return evaluate


def gates(objective: Objective, piece: Piece, output: Tensor | None = None) -> tuple[Tensor, ...]:
    """γ = μ/b at every pre-activation, (m_k, n) a layer: meaningful on the kinks alone. Where μ = b = 0 every slope balances
    the forces, and the lower one is named. `output` (c, n) is that of the piece unless given."""
    if output is None:
        output = states(objective, piece)[0][-1]
    low, _ = slope_range(objective)
    arriving = signals(objective, piece, output)[1]
    return tuple(torch.where((m == 0) & (b == 0), torch.full_like(m, low), m / b) for m, b in zip(piece.multipliers, arriving))


def with_gates(objective: Objective, piece: Piece, slopes: tuple[Tensor, ...], output: Tensor) -> Piece:
    """The piece with multipliers μ = γb on its kinks, for slopes γ (m_k, n) a layer: from the top down, where b is known."""
    for layer in reversed(range(len(slopes))):
        arriving = signals(objective, piece, output)[1][layer]
        multipliers = list(piece.multipliers)
        multipliers[layer] = slopes[layer] * arriving * piece.kinks[layer]
        piece = replace(piece, multipliers=tuple(multipliers))
    return piece


def flat(tensors) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors]) if len(tensors) else torch.zeros(0, dtype=torch.float64)


def unflat(values: Tensor, shapes) -> tuple[Tensor, ...]:
    parts = torch.split(values, [int(np.prod(shape)) for shape in shapes])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes))
