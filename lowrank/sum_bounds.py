"""Right-hand sides of the inequalities on sums of networks: numbers in, numbers out; a part of `bounds`. Arguments are
numbers or arrays that broadcast; tensors count as arrays."""

from __future__ import annotations

import numpy as np

from ._numbers import EPS, not_negative, positive, refuse_zero_decay


def sum_of_two_layer_networks(cross_talk, forgetting, output_norms, remembered):
    """|U_B σ(W_A x)| + ρ‖U_A + U_B‖₂‖W_B(0)x‖: bounds |f_{A+B}(x) − f_A(x)| for two-layer networks, σ 1-Lipschitz, whose
    weights are summed, at an x that is orthogonal to all training inputs of B; `forgetting` is ρ = (1−ηλ)^T,
    `output_norms` the spectral norm or more, ‖u_A‖ + ‖u_B‖ say, `remembered` the last norm. For more networks B is the sum
    of all others, for several outputs `cross_talk` a norm."""
    cross_talk, rho, norms, remembered = map(np.asarray, (cross_talk, forgetting, output_norms, remembered))
    return np.abs(cross_talk) + rho * norms * remembered


def sum_change_by_gates(forgetting, read_out, remembered, coefficients, overlaps, weight_decay):
    """Σ_k|v_k| (ρ|w_k(0)·x| + (1/λn) Σ_j |α_kj||⟨x′_j,x⟩|): bounds |f_{A+B}(x) − ⟨v, σ(W_A x)⟩|, two ReLU layers, hidden
    weights summed, (*E, q) from `read_out` v of the sum (*E, m), `remembered` W_B(0)x (*E, m, q), `coefficients` α of
    B's training (*E, m, n), which are u ⊙ G for a read-out u that is not trained, `overlaps` (*E, n, q). (λ > 0) Ours."""
    rho, v, kept, alpha, overlaps, decay = map(np.asarray, (forgetting, read_out, remembered, coefficients, overlaps, weight_decay))
    refuse_zero_decay(decay)
    learnt = np.abs(alpha) @ np.abs(overlaps) / (decay[..., None, None] * alpha.shape[-1])
    return (np.abs(v)[..., None] * (rho[..., None, None] * np.abs(kept) + learnt)).sum(-2)


def sum_change_by_coherence(forgetting, output_norm, remembered, coherence, gate, weight_decay):
    """ρ‖u‖‖W_B(0)x‖ + ε‖u‖²ḡ/λ: bounds |f_{A+B}(x) − f_A(x)|, two ReLU layers with one read-out u for all, not trained,
    where |⟨x, x′_j⟩| ≤ ε = `coherence` for all training inputs of B; `remembered` is ‖W_B(0)x‖ and `gate` is
    ḡ = mean_j max_k G_kj, or what bounds it: 1 − ρ, or 1. (λ > 0) Ours."""
    rho, norm, kept, epsilon, gate, decay = map(np.asarray, (forgetting, output_norm, remembered, coherence, gate, weight_decay))
    refuse_zero_decay(decay)
    return rho * norm * kept + epsilon * norm**2 * gate / decay


def coherence_that_keeps(margin, forgetting, output_norm, remembered, gate, weight_decay):
    """λ(γ − ρ‖u‖‖W_B(0)x‖)/(‖u‖²ḡ): below this coherence the sum keeps the label that A gives to x with margin
    γ = y f_A(x), by `sum_change_by_coherence`; at most 0 where no coherence does. (ḡ > 0) Ours."""
    margin, rho, norm, kept, gate, decay = map(np.asarray, (margin, forgetting, output_norm, remembered, gate, weight_decay))
    return decay * (margin - rho * norm * kept) / (norm**2 * positive("gate", gate))


def coherence_that_keeps_by_gates(margin, forgetting, read_out, remembered, coefficients, weight_decay):
    """λn(γ − ρΣ_k|u_k||w_k(0)·x|)/Σ_kj|u_k α_kj|: as `coherence_that_keeps`, by `sum_change_by_gates`: beyond it, where that is > 0;
    (*E, q) from margins γ (*E, q), W_B(0)x (*E, m, q), u (*E, m) and α = u ⊙ G (*E, m, n), not all 0. Ours."""
    margin, rho, u, kept, alpha, decay = map(np.asarray, (margin, forgetting, read_out, remembered, coefficients, weight_decay))
    left = margin - rho[..., None] * (np.abs(u)[..., None] * np.abs(kept)).sum(-2)
    return decay[..., None] * alpha.shape[-1] * left / positive("coefficients", np.abs(u[..., None] * alpha).sum((-2, -1)))[..., None]


def sum_change_by_norm(forgetting, output_norm, remembered, seen, hidden_norm):
    """‖u‖(ρ‖W_B(0)P_⊥x‖ + ‖P_Bx‖N): bounds |f_{A+B}(x) − f_A(x)|, two ReLU layers with one read-out u for all, not
    trained; P_B projects onto the span of B's training inputs, `seen` is ‖P_Bx‖, `remembered` ‖W_B(0)P_⊥x‖, N bounds
    ‖W_B(T)P_B‖ as `hidden_norm` does. Ours."""
    rho, norm, kept, seen, hidden = map(np.asarray, (forgetting, output_norm, remembered, seen, hidden_norm))
    return norm * (rho * kept + seen * hidden)


def output_change(layer_changes, merged_norms):
    """δ_K, δ_k = ‖W̄_k‖₂ δ_{k−1} + √tr(Δ_k M_{k−1} Δ_kᵀ), δ_0 = 0, (*E,) from both terms' factors (*E, K): bounds the root mean
    square √E‖f_merged(x) − f(x)‖² of the change when weights W_k become W̄_k = W_k + Δ_k, at any depth, σ 1-Lipschitz,
    without biases; M_{k−1} are the second moments of the layers' inputs in the network before. Rounded up. Raises ValueError
    for numbers below 0, nan or infinity, and for another number of layers. Ours."""
    changes, norms = (not_negative(name, side) for name, side in (("layer_changes", layer_changes), ("merged_norms", merged_norms)))
    if changes.shape[-1:] != norms.shape[-1:] or not changes.shape[-1:] or not changes.shape[-1]:
        raise ValueError(f"merged_norms: expected one number a layer as layer_changes, {changes.shape}, got {norms.shape}")
    bound = np.zeros(np.broadcast_shapes(changes.shape, norms.shape)[:-1])
    for k in range(changes.shape[-1]):
        bound = norms[..., k] * bound + changes[..., k]
        bound = bound * (1 + 2 * EPS)  # two roundings before, one here
    return bound


def altered_share(distances, change):
    """max q/n with Σ of the q least d_i² ≤ nδ², (*E,) from distances (*E, n) and δ (*E,): bounds the share of n inputs whose
    label alters when outputs change by δ in root mean square; input i needs a change of d_i or more. At most
    P(d < γ) + (δ/γ)² for every γ > 0 (Chebyshev). Rounded up: what is affordable up to the rounding of these sums counts.
    1 where δ² is at least the mean of d²: then nothing is certified. Raises ValueError for numbers below 0, nan or
    infinity, and for no inputs."""
    distances, change = not_negative("distances", distances), not_negative("change", change)
    if distances.ndim == 0 or distances.shape[-1] == 0:
        raise ValueError(f"distances: expected at least one input, (*E, n), got shape {distances.shape}")
    spent = np.cumsum(np.sort(distances, -1) ** 2, -1)
    outward = 1 + (distances.shape[-1] + 4) * EPS  # n squares and n − 1 sums of them against three products, half an ε each
    return (spent <= distances.shape[-1] * change[..., None] ** 2 * outward).mean(-1)
