"""How near a point is to what the theorems assume."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .descent import Solution, WindowMean
from .networks import Weights
from .objective import Objective, effective_radius, loss_gradients, margins, mean_slope, weighted_margin
from .spectra import layer_norms, spectral_ratio
from .tasks import radius


@dataclass(frozen=True, eq=False)
class Stationarity:
    """Per layer, (*E, K): `residual` ‖g_k‖, `relative_residual` ‖g_k‖/(λ‖W_k‖), `angle` ∠(W_k, −∇_{W_k}L) in radians,
    `inner_product` ⟨g_k, W_k⟩, `norm` ‖W_k‖_F; and `weighted_margin` S, (*E,)."""

    residual: Tensor
    relative_residual: Tensor
    angle: Tensor
    inner_product: Tensor
    norm: Tensor
    weighted_margin: Tensor


def stationarity(objective: Objective, weights: Weights) -> Stationarity:
    """g_k = ∇_{W_k}L + λW_k, measured; zero at a stationary point.

    With λ = 0 or W_k = 0 the relative residual is inf (nan where g_k = 0 as well); the angle of a zero gradient is nan.
    Note: at a ReLU kink σ′(0) is arbitrary, so a small residual is sufficient for stationarity but not necessary.
    """
    gradients = loss_gradients(objective, weights)
    decay = objective.weight_decay
    residuals = tuple(g + decay[..., None, None] * w for g, w in zip(gradients, weights))
    residual, norm = layer_norms(residuals), layer_norms(weights)
    return Stationarity(
        residual=residual,
        relative_residual=residual / (decay[..., None] * norm),
        angle=angles(weights, tuple(-g for g in gradients)),
        inner_product=torch.stack([(g * w).sum((-2, -1)) for g, w in zip(residuals, weights)], dim=-1),
        norm=norm,
        weighted_margin=weighted_margin(objective, weights),
    )


@dataclass(frozen=True, eq=False)
class LowRankBias:
    """What the low-rank bound relates, each (*E,): `spectral_ratio` Π_k ‖W_k‖₂/‖W_k‖_F, measured, and what bounds it:
    `weighted_margin` S, `mean_slope` ℓ̄′, `radius` R, `effective_radius`, `least_margin` γ, `norm_product` Π_k ‖W_k‖_F."""

    spectral_ratio: Tensor
    weighted_margin: Tensor
    mean_slope: Tensor
    radius: Tensor
    effective_radius: Tensor
    least_margin: Tensor
    norm_product: Tensor


def low_rank_bias(objective: Objective, weights: Weights) -> LowRankBias:
    """Both sides of S ≤ ℓ̄′ R Π_k ‖W_k‖₂, measured.

    A member with a layer of zeros has ratio nan. Raises ValueError for a loss other than logistic, and for an activation
    other than relu, leaky_relu and linear: tanh and gelu are not homogeneous, so that at rest S is not λ‖W_k‖²; relu2
    and relu3 are not 1-Lipschitz.
    """
    activation = objective.network.activation
    if objective.network.degree != 1:
        why = "is not homogeneous, so S = λ‖W_k‖² fails at rest" if objective.network.degree is None else "is not 1-Lipschitz"
        raise ValueError(f"network: expected activation relu, leaky_relu or linear, got {activation}, which {why}")
    norms = layer_norms(weights)
    return LowRankBias(
        spectral_ratio=spectral_ratio(weights),
        weighted_margin=weighted_margin(objective, weights),
        mean_slope=mean_slope(objective, weights),
        radius=radius(objective.task).expand(norms.shape[:-1]),
        effective_radius=effective_radius(objective, weights),
        least_margin=margins(objective, weights).amin(-1),
        norm_product=norms.prod(-1),
    )


@dataclass(frozen=True, eq=False)
class WindowStationarity:
    """Per layer, (*E, K), over the window of a solution of T steps: `angle` between time-mean parameters and minus the
    time-mean gradient; `norm` of the mean parameters; `drift` ‖start − end‖; `defect` of the window identity,
    ‖mean ∇L + λ mean W − (start − end)/(ηT)‖, and `size`, the absolute size of what it adds up."""

    angle: Tensor
    norm: Tensor
    drift: Tensor
    defect: Tensor
    size: Tensor


def window_stationarity(solution: Solution) -> WindowStationarity:
    """How well time means are balanced: mean ∇L + λ mean W = (start − end)/(ηT) for plain gradient descent (with momentum
    the defect is not zero).

    Raises ValueError where the solution has no window: train with `window=`.
    """
    mean = _window(solution)
    decay, eta = solution.objective.weight_decay[..., None], solution.stats["step_size"][..., None]
    drifts = tuple(start - end for start, end in zip(mean.start, solution.weights))
    forces = zip(mean.loss_gradients, mean.weights, drifts)
    defect = tuple(
        g + decay[..., None] * w - difference / (eta[..., None] * mean.steps) for g, w, difference in forces
    )
    moved = (mean.weight_norms + eta * mean.gradient_norms) / (eta * mean.steps)
    return WindowStationarity(
        angle=window_alignment(solution),
        norm=layer_norms(mean.weights),
        drift=layer_norms(drifts),
        defect=layer_norms(defect),
        size=mean.gradient_norms + decay * mean.weight_norms + 3 * moved,  # three roundings a step move the weights
    )


def window_alignment(solution: Solution) -> Tensor:
    """Angle between the time-mean parameters and minus the time-mean gradient of the loss, (*E, K), in radians.

    Raises ValueError where the solution has no window: train with `window=`.
    """
    mean = _window(solution)
    return angles(mean.weights, tuple(-g for g in mean.loss_gradients))


def _window(solution: Solution) -> WindowMean:
    if solution.window_mean is None:
        raise ValueError("solution: expected one trained with window=..., got one without a window mean")
    return solution.window_mean


def angles(first: Weights, second: Weights) -> Tensor:
    """∠(A_k, B_k) in [0, π] per layer, (*E, K), accurate down to rounding (Kahan's formula); nan for a zero matrix."""

    if len(first) != len(second):
        raise ValueError(f"second: expected {len(first)} layers, got {len(second)}")

    def unit(a: Tensor) -> Tensor:
        a = a / a.abs().amax((-2, -1), keepdim=True)  # squares of tiny or huge entries leave the range
        return a / torch.linalg.matrix_norm(a, keepdim=True)

    def angle(a: Tensor, b: Tensor) -> Tensor:
        a, b = unit(a), unit(b)
        return 2 * torch.atan2(torch.linalg.matrix_norm(a - b), torch.linalg.matrix_norm(a + b))

    return torch.stack([angle(a, b) for a, b in zip(first, second)], dim=-1)
