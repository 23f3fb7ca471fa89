"""Closed forms that training is held against: numbers in, numbers out. Imports nothing of ours, so that it stays
independent of what it checks. Arguments are numbers or arrays that broadcast; tensors count as arrays."""

from __future__ import annotations

import numpy as np


def balanced_mode(t, s, s0):
    """σ(t) = s e^{2st} / (e^{2st} − 1 + s/σ_0): one mode of the gradient flow of ½‖W_2W_1 − D‖_F², two linear layers,
    λ = 0, from a start that shares the singular vectors of D and is balanced, W_2ᵀW_2 = W_1W_1ᵀ.

    `s` is the singular value of D (0 gives the limit σ_0/(1 + 2σ_0t)), `s0` = σ_0 that of W_2(0)W_1(0), t time. Does not
    overflow. Raises ValueError for t or s below 0 and s0 not above 0. Saxe, McClelland & Ganguli 2014, arXiv 1312.6120.
    """
    t, s, s0 = (np.asarray(value, dtype=np.float64) for value in (t, s, s0))
    for name, value, allowed, expected in (("t", t, t >= 0, ">="), ("s", s, s >= 0, ">="), ("s0", s0, s0 > 0, ">")):
        if not np.all(allowed & np.isfinite(value)):
            raise ValueError(f"{name}: expected finite numbers {expected} 0, got {value.min():g} to {value.max():g}")
    # divided by e^{2st}: σ = 1 / ((1 − e^{−2st})/s + e^{−2st}/σ_0), and the first fraction tends to 2t as s → 0
    growth = np.where(s > 0, -np.expm1(-2 * s * t) / np.where(s > 0, s, 1.0), 2 * t)
    return 1 / (growth + np.exp(-2 * s * t) / s0)


def norm_gap_decay(t, gap0, weight_decay):
    """D(0) e^{−2λt}: a gap ‖W_{k+1}‖² − ‖W_k‖² (or that of one neuron, or a cell of W_{k+1}ᵀW_{k+1} − W_kW_kᵀ for linear
    layers) under gradient flow with weight decay λ, for an activation of degree one. Du, Hu & Lee 2018 for λ = 0."""
    t, gap0, decay = (np.asarray(value, dtype=np.float64) for value in (t, gap0, weight_decay))
    return gap0 * np.exp(-2 * decay * t)


def norm_gap_departure(t, gap0, weight_decay, gradient_gap_integral):
    """κ = −λ²t e^{−2λt} D(0) + ∫_0^t e^{−2λ(t−u)} (‖∇_{W_{k+1}}L‖² − ‖∇_{W_k}L‖²) du, the integral along the flow given:
    gradient descent with step η leaves the flow's gap by ηκ + O(η²) at time t = ηT, for smooth networks of degree one."""
    t, decay = np.asarray(t, dtype=np.float64), np.asarray(weight_decay, dtype=np.float64)
    return -(decay**2) * t * norm_gap_decay(t, gap0, decay) + np.asarray(gradient_gap_integral, dtype=np.float64)
