"""Right-hand sides of the inequalities: numbers in, numbers out. Imports nothing of ours, so that it stays independent
of what it checks. Arguments are numbers or arrays that broadcast; tensors count as arrays."""

from __future__ import annotations

import numpy as np
from scipy.special import lambertw

EPS = float(np.finfo(np.float64).eps)


def alignment_sine(residual, weight_decay, norm):
    """‖g_k‖ / (λ‖W_k‖): bounds sin∠(W_k, −∇_{W_k}L) at any point, where it is below 1. (λ > 0)"""
    residual, decay, norm = map(np.asarray, (residual, weight_decay, norm))
    _refuse_zero_decay(decay)
    return residual / (decay * norm)


def window_alignment_sine(drift, step_size, weight_decay, steps, mean_norm):
    """‖θ_s − θ_e‖ / (ηλT‖θ̄‖): bounds the sine of the angle between time-mean parameters θ̄ and minus the time-mean
    gradient over T steps of plain gradient descent from θ_s to θ_e, `drift` being ‖θ_s − θ_e‖. (λ > 0)"""
    drift, decay, mean_norm = map(np.asarray, (drift, weight_decay, mean_norm))
    _refuse_zero_decay(decay)
    return drift / (np.asarray(step_size) * decay * steps * mean_norm)


def angle_limit(sine):
    """arcsin of a bound on the sine of an acute angle, in radians; π where it is 1 or more and bounds nothing."""
    sine = np.asarray(sine)
    return np.where(sine < 1, np.arcsin(np.minimum(sine, 1.0)), np.pi)


def weighted_margin_cap() -> float:
    """max_z z/(1+e^z) = W(1/e) = 0.27846…, Lambert's W: no data and no network make S larger."""
    return float(lambertw(np.exp(-1.0)).real)


def squared_norm_cap(weight_decay):
    """W(1/e)/λ: bounds ‖W_k‖_F² of every layer at a stationary point of a 1-homogeneous network. (λ > 0)"""
    decay = np.asarray(weight_decay)
    _refuse_zero_decay(decay)
    return weighted_margin_cap() / decay


def norm_gap(steps, first_gap, step_size, weight_decay, largest_change):
    """ρ^T|D(0)| + η² C (1−ρ^T)/(1−ρ), ρ = (1−ηλ)²: bounds |D_k(T)| under gradient descent, D_k = ‖W_{k+1}‖² − ‖W_k‖²,
    where |‖∇_{W_{k+1}}L‖² − ‖∇_{W_k}L‖²| ≤ C = `largest_change` on the way. (0 < ηλ < 2)"""
    steps, gap, eta, decay, change = map(np.asarray, (steps, first_gap, step_size, weight_decay, largest_change))
    _refuse_zero_decay(decay)
    rate = eta * decay
    if not np.all(rate < 2):
        raise ValueError(f"step_size: expected step_size · weight_decay < 2, got {rate.max():g}")
    with np.errstate(divide="ignore"):  # ηλ = 1 forgets all in one step: log 0 = −∞, and e^−∞ = 0
        decline = np.expm1(2 * steps * np.log1p(np.where(rate < 1, -rate, rate - 2)))  # ρ^T − 1, without cancellation where ηλ is small
    return (1 + decline) * np.abs(gap) + eta**2 * change * -decline / (rate * (2 - rate))


def sum_of_two_layer_networks(cross_talk, forgetting, output_norms, remembered):
    """|⟨u_B, σ(W_A x)⟩| + ρ(‖u_A‖ + ‖u_B‖)‖W_B(0)x‖: bounds |f_{A+B}(x) − f_A(x)| for two-layer ReLU networks whose
    weights are summed, at an x that is orthogonal to all training inputs of B; `forgetting` is ρ = (1−ηλ)^T,
    `output_norms` the sum of norms in brackets, `remembered` the last norm."""
    cross_talk, rho, norms, remembered = map(np.asarray, (cross_talk, forgetting, output_norms, remembered))
    return np.abs(cross_talk) + rho * norms * remembered


def two_layer_excess(worth, weight_decay, radius):
    """2 (G − λ)₊² / R²: bounds L_λ − min L_λ of a two-layer ReLU network from below, G = `worth` being the maximum of
    |(1/n) Σ p_i y_i relu(u·x_i)| over unit vectors u with the network's slopes p_i = 1/(1+e^{m_i}), R = max ‖x_i‖."""
    worth, decay, radius = map(np.asarray, (worth, weight_decay, radius))
    return 2 * np.maximum(worth - decay, 0.0) ** 2 / radius**2


def summed_rounding(terms, size):
    """terms · ε · size, ε = 2.2e-16: bounds the rounding error of a sum of that many terms of total absolute size
    `size`, to first order in ε (Higham 2002, §4.2). The tolerance of the identities in this book."""
    return np.asarray(terms) * EPS * np.asarray(size)


def _refuse_zero_decay(decay):
    if not np.all(decay > 0):
        raise ValueError(f"weight_decay: expected numbers > 0, since the bound divides by it, got {decay.min():g}")
