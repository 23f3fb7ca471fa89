"""What the first layer of a two-layer ReLU network is made of: its start, and training inputs weighed by discounted time
averages of the slopes and gates that they met."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _require
from .descent import Solution
from .networks import hidden_states
from .objective import LOSSES


def gate_means(solution: Solution) -> Tensor:
    """G_kj(t) = ηλ Σ_{s<t} (1−ηλ)^{t−1−s} |ℓ′_j(s)| 1[w_k(s)·x_j > 0], (t, *E, m, n), at every step t = 0, …, T.

    A mean over time that discounts the past: 0 ≤ G ≤ 1 − (1−ηλ)^t for the logistic loss and ηλ ≤ 1. With a read-out u
    that is not trained, W_1(t) = (1−ηλ)^t W_1(0) + (1/λn) Σ_j y_j (u ⊙ G_j(t)) x_jᵀ exactly. Ours.
    `solution` is of two layers, ReLU, logistic loss, λ > 0, plain descent with save_every=1; raises ValueError otherwise.
    """
    return _discounted(solution, _gated_slopes(solution))


def dual_coefficients(solution: Solution) -> Tensor:
    """α_kj(t) = ηλ Σ_{s<t} (1−ηλ)^{t−1−s} |ℓ′_j(s)| u_k(s) 1[w_k(s)·x_j > 0], (t, *E, m, n), at every step.

    Whether the read-out u is trained or not, W_1(t) = (1−ηλ)^t W_1(0) + (1/λn) Σ_j y_j α_j(t) x_jᵀ exactly; if not, then
    α = u ⊙ G with the `gate_means` G. Raises like it. Ours.
    """
    return _discounted(solution, _gated_slopes(solution) * solution.saved[1].mT)


def _gated_slopes(solution: Solution) -> Tensor:
    """|ℓ′_j| 1[w_k·x_j > 0] at every saved step, (t, *E, m, n)."""
    objective = _two_layers(solution).objective
    (z, f), _ = hidden_states(objective.network, solution.saved, objective.task.x)
    return LOSSES[objective.loss].slope(f.mT, objective.targets).mT.abs() * (z > 0)


def _discounted(solution: Solution, values: Tensor) -> Tensor:
    """ηλ Σ_{s<t} (1−ηλ)^{t−1−s} values(s) for every t, shaped like `values`."""
    rate = (solution.stats["step_size"] * solution.objective.weight_decay)[..., None, None]
    means = [torch.zeros_like(values[0])]
    for value in values[:-1]:
        means.append((1 - rate) * means[-1] + rate * value)
    return torch.stack(means)


def _two_layers(solution: Solution) -> Solution:
    """`solution`, if the formulas of this module are about it."""
    objective, stats = _require.instance("solution", solution, Solution).objective, solution.stats
    network = objective.network
    if network.depth != 2 or network.activation != "relu" or objective.loss != "logistic":
        raise ValueError(f"solution: expected two layers, relu and the logistic loss, got {network} and {objective.loss}")
    if "steps" not in stats or stats["momentum"] or stats["batch_size"] is not None:
        raise ValueError("solution: expected plain gradient descent, got a flow, momentum or batches")
    if len(solution.times) != stats["steps"] + 1:
        raise ValueError(
            f"solution: expected weights at all {stats['steps']} steps, got {len(solution.times)} times; train with save_every=1"
        )
    if not bool((objective.weight_decay > 0).all()):
        raise ValueError("solution: expected weight_decay > 0, since the formula divides by it, got 0")
    return solution
