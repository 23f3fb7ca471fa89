"""Right-hand sides of the inequalities: numbers in, numbers out, those on merging from `sum_bounds`. Imports nothing of
what it checks, so that it stays independent. Arguments are numbers or arrays that broadcast; tensors count as arrays."""

from __future__ import annotations

import numpy as np
from scipy.special import gammainccinv, gammaincinv, lambertw

from ._numbers import EPS, depth_of, positive, refuse_zero_decay
from .sum_bounds import (
    altered_share,
    coherence_that_keeps,
    coherence_that_keeps_by_gates,
    output_change,
    sum_change_by_coherence,
    sum_change_by_gates,
    sum_change_by_norm,
    sum_of_two_layer_networks,
)


def alignment_sine(residual, weight_decay, norm):
    """‖g_k‖ / (λ‖W_k‖): bounds sin∠(W_k, −∇_{W_k}L) at any point, where it is below 1. (λ > 0)"""
    residual, decay, norm = map(np.asarray, (residual, weight_decay, norm))
    refuse_zero_decay(decay)
    return residual / (decay * norm)


def window_alignment_sine(drift, step_size, weight_decay, steps, mean_norm):
    """‖θ_s − θ_e‖ / (ηλT‖θ̄‖): bounds the sine of the angle between time-mean parameters θ̄ and minus the time-mean
    gradient over T steps of plain gradient descent from θ_s to θ_e, `drift` being ‖θ_s − θ_e‖. (λ > 0)"""
    drift, decay, mean_norm = map(np.asarray, (drift, weight_decay, mean_norm))
    refuse_zero_decay(decay)
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
    refuse_zero_decay(decay)
    return weighted_margin_cap() / decay


def norm_gap(steps, first_gap, step_size, weight_decay, largest_change):
    """ρ^T|D(0)| + η² C (1−ρ^T)/(1−ρ), ρ = (1−ηλ)²: bounds |D_k(T)| under gradient descent, D_k = ‖W_{k+1}‖² − ‖W_k‖²,
    where |‖∇_{W_{k+1}}L‖² − ‖∇_{W_k}L‖²| ≤ C = `largest_change` on the way. (0 < ηλ < 2)"""
    steps, gap, eta, decay, change = map(np.asarray, (steps, first_gap, step_size, weight_decay, largest_change))
    refuse_zero_decay(decay)
    rate = eta * decay
    if not np.all(rate < 2):
        raise ValueError(f"step_size: expected step_size · weight_decay < 2, got {rate.max():g}")
    with np.errstate(divide="ignore"):  # ηλ = 1 forgets all in one step: log 0 = −∞, and e^−∞ = 0
        decline = np.expm1(2 * steps * np.log1p(np.where(rate < 1, -rate, rate - 2)))  # ρ^T − 1, without cancellation where ηλ is small
    return (1 + decline) * np.abs(gap) + eta**2 * change * -decline / (rate * (2 - rate))


def hidden_norm(forgetting, first_norm, output_norm, radius, step_size, weight_decay):
    """√(ρ²‖W(0)‖² + (1−ρ²)(2(1−ηλ)W(1/e) + η‖u‖²R²)/(λ(2−ηλ))): bounds ‖W_1(T)‖_F, and ‖W_1(T)P‖_F from ‖W_1(0)P‖_F
    with P onto the span of the inputs, at any time T of gradient descent, two ReLU layers, read-out u not trained,
    logistic loss; ρ = (1−ηλ)^T. (0 < ηλ ≤ 1) Ours."""
    rho, first, norm, radius, eta, decay = map(np.asarray, (forgetting, first_norm, output_norm, radius, step_size, weight_decay))
    refuse_zero_decay(decay)
    rate = eta * decay
    if not np.all(rate <= 1):
        raise ValueError(f"step_size: expected step_size · weight_decay <= 1, got {rate.max():g}")
    level = (2 * (1 - rate) * weighted_margin_cap() + eta * (norm * radius) ** 2) / (decay * (2 - rate))
    return np.sqrt(rho**2 * first**2 + (1 - rho**2) * level)


def unequal_layers(residual, weight_decay, weighted_margin):
    """r/(1−r), r = max_k ‖g_k‖/√(λS), (*E,) from residuals (*E, K): bounds how far log‖W_k‖_F and log(‖q_{k−1}‖/‖q_k‖),
    q_k = (W_K…W_{k+1})ᵀ, are from ½log(S/λ), all k, in a linear network with one output; inf where r ≥ 1. (λ, S > 0)"""
    residual, decay, margin = map(np.asarray, (residual, weight_decay, weighted_margin))
    refuse_zero_decay(decay)
    r = residual.max(-1) / np.sqrt(decay * margin)
    return np.where(r < 1, r / np.where(r < 1, 1 - r, 1.0), np.inf)


def ridge_distance(first_residual, output_norm, weight_decay, length, depth):
    """h + (e^r−1)(‖w‖ + h), h = ‖g_1ᵀq̂_1‖‖q_1‖/λ, r = |log(‖q_1‖²‖w‖^{2/K−2})|: bounds the distance of w = W_K…W_1 from the
    minimiser of L(w) + (μ/2)‖w‖², μ = λ‖w‖^{2/K−2}, for convex L; `output_norm` is ‖q_1‖ = ‖W_K…W_2‖, q̂_1 its direction,
    `length` is ‖w‖; with ‖g_1‖ for ‖g_1ᵀq̂_1‖ it holds as well. (λ, ‖q_1‖, ‖w‖ > 0)"""
    residual, q, decay, length = map(np.asarray, (first_residual, output_norm, weight_decay, length))
    refuse_zero_decay(decay)
    near = residual * q / decay
    apart = np.abs(2 * np.log(q) + (2 / depth - 2) * np.log(length))
    return near + np.expm1(apart) * (length + near)


def two_layer_duality_gap(along, across, output_norm, weight_decay, length, mean_slope, largest_slope):
    """(λ/2)(‖w‖/q − q)² + b²/(2λ) + λ‖w‖(1 − √(1−s²)) + ½κ²p̄/((1−κ)(1 − (1+κ)p_max)), s = aq/(λ‖w‖), κ = k/(1−k),
    k = |‖w‖/q² − 1| + a/(λq): bounds how far L_λ of a two-layer linear network with logistic loss is above the dual value of
    its own slopes p, scaled to the edge of what is feasible; inf where κ ≥ 1 or (1+κ)p_max ≥ 1.

    a = `along` = ‖g_1ᵀq̂‖ and b = `across` = ‖(I − q̂q̂ᵀ)g_1‖ are the parts of the first residual along q̂ = W_2ᵀ/q and across,
    q = ‖W_2‖ is `output_norm`, `length` is ‖w‖; p̄ and p_max are `mean_slope` and `largest_slope`. Of second order. (λ, q, ‖w‖ > 0)
    """
    a, b, q, decay, length, mean, largest = map(np.asarray, (along, across, output_norm, weight_decay, length, mean_slope, largest_slope))
    refuse_zero_decay(decay)
    k = np.abs(length / q**2 - 1) + a / (decay * q)
    kappa = np.where(k < 0.5, k / (1 - np.minimum(k, 0.5)), np.inf)
    valid = (kappa < 1) & ((1 + kappa) * largest < 1)
    kappa = np.where(valid, kappa, 0.0)
    sine = np.where(valid, a * q / (decay * length), 0.0)
    penalty = decay / 2 * (length / q - q) ** 2 + b**2 / (2 * decay)
    turned = decay * length * sine**2 / (1 + np.sqrt(1 - sine**2))
    scaled = kappa**2 / 2 * mean / ((1 - kappa) * np.where(valid, 1 - (1 + kappa) * largest, 1.0))
    return np.where(valid, penalty + turned + scaled, np.inf)


def mode_defect(sigma, weight_decay, depth, largest, imbalance, force):
    """(λΔσ^{2/K−2} + F)/σ, Δ = ½K(K−1)M^{2K−2}e: bounds ‖Dv − du‖ and ‖Dᵀu − dv‖, d = σ + λσ^{2/K−1}, for a singular triple
    (σ, u, v) of P = W_K…W_1 and the loss ½‖P − D‖²; `largest` is M = max‖W_k‖₂, `imbalance` e = max‖W_{k+1}ᵀW_{k+1} − W_kW_kᵀ‖,
    `force` F the larger of ‖W_1ᵀg_1‖ and ‖g_KW_Kᵀ‖. (λ, σ > 0)"""
    sigma, decay, largest, gap, force = map(np.asarray, (sigma, weight_decay, largest, imbalance, force))
    refuse_zero_decay(decay)
    delta = depth * (depth - 1) / 2 * largest ** (2 * depth - 2) * gap
    return (decay * delta * sigma ** (2 / depth - 2) + force) / sigma


def spectral_ratio(weighted_margin, radius, mean_slope, norm_product):
    """S / (R ℓ̄′ Π_k‖W_k‖_F): bounds Π_k ‖W_k‖₂/‖W_k‖_F from below at any point, σ 1-Lipschitz with σ(0) = 0.

    Sharper with Σ|ℓ′_i|‖x_i‖ / Σ|ℓ′_i| for R = `radius`, weaker with the loss L for ℓ̄′ = `mean_slope`. Where S ≤ 0 the
    proof gives nothing, and neither does this: 0. Raises ValueError for R, ℓ̄′ or a product of norms that is not above 0.
    """
    margin, product = np.asarray(weighted_margin), positive("norm_product", norm_product, _COLLAPSED)
    _refuse_nan("weighted_margin", margin)
    return np.maximum(margin, 0.0) / (positive("radius", radius) * positive("mean_slope", mean_slope) * product)


def margin_spectral_ratio(margin, radius, norm_product):
    """γ / (R Π_k‖W_k‖_F): bounds Π_k ‖W_k‖₂/‖W_k‖_F from below at any point, γ = min_i m_i; 0 where γ ≤ 0.

    Never above `spectral_ratio`, since S ≥ ℓ̄′γ. Raises like it.
    """
    return spectral_ratio(margin, radius, 1.0, norm_product)


def stationary_spectral_ratio(weight_decay, radius, mean_slope, norm, depth):
    """λ N^{2−K} / (R ℓ̄′): what `spectral_ratio` becomes at a stationary point, where S = λN² and every ‖W_k‖_F = N.

    σ of degree one as well. Raises ValueError for λ, R, ℓ̄′ or N that is not above 0.
    """
    decay, norm = np.asarray(weight_decay), positive("norm", norm, _COLLAPSED)
    refuse_zero_decay(decay)
    return decay * norm ** (2.0 - depth_of(depth)) / (positive("radius", radius) * positive("mean_slope", mean_slope))


def near_stationary_spectral_ratio(weight_decay, norms, residuals, radius, mean_slope):
    """max_k (λ‖W_k‖² − ‖g_k‖‖W_k‖) / (R ℓ̄′ Π_k‖W_k‖_F), at least 0: `spectral_ratio` where S is known only through
    residuals, S = λ‖W_k‖² − ⟨g_k, W_k⟩. σ of degree one; `norms`, `residuals` are (…, K). Raises ValueError for λ ≤ 0."""
    decay, norms, residuals = np.asarray(weight_decay), positive("norms", norms, _COLLAPSED), np.asarray(residuals)
    refuse_zero_decay(decay)
    margin = (decay[..., None] * norms**2 - residuals * norms).max(-1)
    return spectral_ratio(margin, radius, mean_slope, norms.prod(-1))


def stable_rank_mean(spectral_ratio, depth):
    """ratio^{−2/K}: bounds the geometric mean of K stable ranks, from a lower bound on Π_k ‖W_k‖₂/‖W_k‖_F; inf from 0.

    From λN^{2−K}/(Rℓ̄′) it is (R ℓ̄′ N^{K−2}/λ)^{2/K}. It says something only below the mean of the matrices' smaller sides.
    """
    ratio = np.asarray(spectral_ratio, dtype=np.float64)
    _refuse_nan("spectral_ratio", ratio)
    with np.errstate(divide="ignore"):
        return ratio ** (-2.0 / depth_of(depth))


def largest_weight_decay(radius, depth):
    """λ_max = R^{2/K} max_{z>0} z^a/(1+e^z), a = 1−2/K, the maximum at z = a + Lambert W(a e^{−a}): beyond it a network
    of degree one and K ≥ 2 layers has no stationary point but 0, and λ_max/λ bounds the geometric mean of the stable
    ranks at any other, whatever data of that radius, width and σ (1-Lipschitz, logistic loss). Ours."""
    depth = depth_of(depth, minimum=2)
    a = 1 - 2 / depth
    z = a + lambertw(a * np.exp(-a)).real
    return positive("radius", radius) ** (2 / depth) * z**a / (1 + np.exp(z))


def least_stationary_norm(weight_decay, radius, depth):
    """(2λ/R)^{1/(K−2)}: bounds N = ‖W_k‖_F from below at any stationary point but 0, K ≥ 3. (λ > 0)"""
    decay, depth = np.asarray(weight_decay), depth_of(depth, minimum=3)
    refuse_zero_decay(decay)
    return (2 * decay / positive("radius", radius)) ** (1 / (depth - 2))


def collapse_basin(weight_decay, radius, depth):
    """(λ/R)^{1/(K−2)}: gradient descent with ηλ ≤ 1 from a point whose layers all have ‖W_k‖_F below this converges to 0,
    K ≥ 3, σ 1-Lipschitz with σ(0) = 0. (λ > 0)"""
    return least_stationary_norm(np.asarray(weight_decay) / 2, radius, depth)


def two_layer_loss_floor(weight_decay, threshold, squared_norm):
    """log 2 + ½(λ − λ_c)‖θ‖²: bounds L_λ(θ) from below, two layers of degree one and logistic loss, at any θ.

    λ_c is the collapse threshold of `exact`: from it on, 0 is the minimiser and the only stationary point.
    """
    decay, threshold, square = map(np.asarray, (weight_decay, threshold, squared_norm))
    return np.log(2) + (decay - threshold) * square / 2


def two_layer_excess(worth, weight_decay, radius):
    """2 (G − λ)₊² / R²: bounds L_λ − min L_λ of a two-layer ReLU network from below, G = `worth` being the maximum of
    |(1/n) Σ p_i y_i relu(u·x_i)| over unit vectors u with the network's slopes p_i = 1/(1+e^{m_i}), R = max ‖x_i‖."""
    worth, decay, radius = map(np.asarray, (worth, weight_decay, radius))
    return 2 * np.maximum(worth - decay, 0.0) ** 2 / radius**2


def product_change(norms, changes):
    """Π_k(a_k + δ_k) − Π_k a_k, (*E,) from (*E, K): bounds ‖W̃_K…W̃_1 − W_K…W_1‖₂ where ‖W_k‖₂ ≤ a_k = `norms` and
    ‖W̃_k − W_k‖₂ ≤ δ_k = `changes`; times ‖x‖, how far a linear network's output moves. Without cancellation."""
    norms, changes = np.broadcast_arrays(*(np.asarray(side, dtype=np.float64) for side in (norms, changes)))
    product, change = np.ones(norms.shape[:-1]), np.zeros(norms.shape[:-1])
    for a, delta in zip(np.moveaxis(norms, -1, 0), np.moveaxis(changes, -1, 0)):
        product, change = product * a, change * (a + delta) + product * delta
    return change


def square_mean_band(second_moment, fourth_moment, samples, *, level=1e-6):
    """v χ²_ν(level/2)/ν and v χ²_ν(1 − level/2)/ν, ν = 2Nv²/(κ − v²): where the mean of N independent squares with mean
    v = `second_moment` and mean square κ = `fourth_moment` lies, up to a chance `level`. (*E,) each.

    ν is what gives v χ²_ν/ν the variance (κ − v²)/N of that mean (Satterthwaite 1946); for Gaussian numbers κ = 3v², ν = N
    and the band is exact. Otherwise it is an approximation, to be held against a simulation. Raises ValueError for κ ≤ v².
    """
    v, kappa, count = (np.asarray(value, dtype=np.float64) for value in (second_moment, fourth_moment, samples))
    if not np.all(kappa > v**2):
        raise ValueError("fourth_moment: expected more than the square of second_moment, got less or as much")
    degrees = 2 * count * v**2 / (kappa - v**2)
    return tuple(2 * v * quantile(degrees / 2, level / 2) / degrees for quantile in (gammaincinv, gammainccinv))


def summed_rounding(terms, size):
    """terms · ε · size, ε = 2.2e-16: bounds the rounding error of a sum of that many terms of total absolute size
    `size`, to first order in ε (Higham 2002, §4.2). The tolerance of the identities in this book."""
    return np.asarray(terms) * EPS * np.asarray(size)


_COLLAPSED = "; a layer of zeros has no stable rank: leave out collapsed members"


def _refuse_nan(name, value):
    if np.isnan(value).any():
        raise ValueError(f"{name}: expected numbers, got {int(np.isnan(value).sum())} of {value.size} that are nan{_COLLAPSED}")
