"""Closed forms and convex twins that training is held against: numbers in, numbers out. Imports nothing of ours, so that it
stays independent of what it checks. Arguments are numbers or arrays that broadcast; tensors count as arrays."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import entr, expit, lambertw

from .convex import TwoLayerOptimum, two_layer_relu_correlation, two_layer_relu_program, two_layer_relu_threshold
from .merged_linear import (
    hidden_directions,
    merged_deep_linear,
    merged_fourth_moment,
    merged_ratios,
    merged_second_moment,
    merged_variance,
    signed_shifts,
    uniform_overlaps,
)

_BRANCHES = ("minimum", "global")


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


def deep_linear_spectrum(d, weight_decay, depth: int, *, branch: str = "minimum"):
    """σ with σ − d + λσ^{2/K−1} = 0, the larger root, or 0: singular values of W_K…W_1 at a minimum of
    ½‖W_K…W_1 − D‖_F² + (λ/2)Σ‖W_k‖_F² for a target D with singular values `d`; shaped like `d` and `weight_decay` together.

    That is squared loss with inputs whose (1/n)XᵀX = I, hidden layers no narrower than D. A mode costs
    E(σ) = ½(σ−d)² + (λK/2)σ^{2/K}. K = 1: d/(1+λ). K = 2: (d−λ)₊, soft thresholding. For K ≥ 3, σ = 0 is a local minimum
    of E for every λ > 0; the larger root is another one where d exceeds `deep_linear_threshold`, and below that there is
    none. (The smaller root is the maximum between the two.) `branch` "minimum" gives the larger root wherever it exists,
    "global" only where it costs less than 0. Raises ValueError for a negative d or λ, a depth below 1, another branch.
    """
    target, decay = np.broadcast_arrays(_nonnegative("d", d), _nonnegative("weight_decay", weight_decay))
    threshold = deep_linear_threshold(decay, depth, branch=branch)
    if depth == 1:
        return target / (1 + decay)
    if depth == 2:
        return np.maximum(target - decay, 0.0)
    unit = decay ** (depth / (2 * depth - 2))  # with σ = unit·z the equation is z − d/unit + z^{−a} = 0
    cells = zip(target.ravel(), unit.ravel(), threshold.ravel(), strict=True)
    return np.array([_larger_root(*cell, depth) for cell in cells]).reshape(target.shape)


def deep_linear_threshold(weight_decay, depth: int, *, branch: str = "minimum"):
    """The target d below which the mode of `deep_linear_spectrum` is 0, shaped like λ.

    K = 1: 0; K = 2: λ. For K ≥ 3 the larger root exists from d = (2K−2)/(K−2)·σ_* on, where it starts at the fold
    σ_* = ((K−2)λ/K)^{K/(2K−2)}, and costs less than 0 from d = (K−1)/(K−2)·((K−2)λ)^{K/(2K−2)} on (`branch` "global").
    Raises ValueError like `deep_linear_spectrum`.
    """
    decay = _nonnegative("weight_decay", weight_decay)
    _depth(depth)
    if branch not in _BRANCHES:
        raise ValueError(f"branch: expected one of {', '.join(_BRANCHES)}, got {branch!r}")
    if depth <= 2:
        return decay * (depth - 1)
    power = depth / (2 * depth - 2)
    if branch == "global":
        return (depth - 1) / (depth - 2) * ((depth - 2) * decay) ** power
    return (2 * depth - 2) / (depth - 2) * ((depth - 2) * decay / depth) ** power


def _larger_root(target: float, unit: float, threshold: float, depth: int) -> float:
    if unit == 0.0 or target < threshold:
        return target if unit == 0.0 else 0.0
    a, scaled = (depth - 2) / depth, target / unit

    def slope(z: float) -> float:
        return z - scaled + z**-a

    fold = a ** (1 / (1 + a))  # where slope is least: E is concave below, convex above
    # At the fold the two roots meet, and rounding may leave none.
    return unit * (fold if slope(fold) >= 0 else brentq(slope, fold, scaled, xtol=1e-300, rtol=1e-15))


def ridge_logistic(x, y, penalty: float) -> np.ndarray:
    """argmin_w (1/n)Σ_i log(1+e^{−y_i⟨w, x_i⟩}) + (penalty/2)‖w‖², (d,) from x (n, d), y (n,) of ±1: strictly convex.

    Newton's method with backtracking. It ends with a gradient of about 1e-16; scikit-learn's LogisticRegression with
    C = 1/(n·penalty), no intercept and its default solver stops near 1e-9. Raises ValueError for a penalty that is not positive,
    shapes that do not fit and labels other than ±1, ArithmeticError for no convergence.
    """
    x, y = _binary(x, y)
    if not (np.isfinite(penalty) and penalty > 0):
        raise ValueError(f"penalty: expected a number > 0, got {penalty!r}")
    points = y[:, None] * x
    radius = np.linalg.norm(points, axis=1).max()
    w, last = np.zeros(x.shape[1]), np.inf

    def value(w) -> float:
        return np.logaddexp(0, -(points @ w)).mean() + penalty / 2 * w @ w

    for _ in range(200):
        force = expit(-(points @ w))
        hessian = (points.T * (force * (1 - force))) @ points / len(y) + penalty * np.eye(len(w))
        descent = force @ points / len(y) - penalty * w
        direction = np.linalg.solve(hessian, descent)
        b = radius * np.linalg.norm(direction)  # how far margins move: below 1 the Hessian hardly changes
        step, now, promised = 1.0, value(w), descent @ direction
        while b > 1e-2 and value(w + step * direction) > now * (1 + 1e-14) - step / 4 * promised:
            step /= 2
        w = w + step * direction
        if b < 1e-8 or (b < 1e-2 and b > last / 2):  # quadratic: the next step is rounding; or rounding reached already
            return w
        last = b
    raise ArithmeticError(f"ridge_logistic: no convergence with penalty {penalty:g} and inputs up to {radius:g}; rescale x")


def deep_linear_logistic(x, y, weight_decay: float, depth: int) -> np.ndarray:
    """w = W_K…W_1 of a deep linear network with logistic loss and λ at a minimum: ∇L(w) = −λ‖w‖^{2/K−2} w, (d,).

    The ridge problem with penalty μ = λ‖w‖^{2/K−2}, solved for μ: of all self-consistent μ the least, whose w is the
    longest. It is a local minimum of L(w) + (λK/2)‖w‖^{2/K}; K = 1 is ridge itself, and for K = 2 the function is convex
    and w its global minimum. For K ≥ 3, 0 is a local minimum as well, whatever λ, and a shorter solution is as a rule a saddle.
    Where no solution but 0 is found the answer is 0: for K = 2 that is λ ≥ ½‖(1/n)Σ y_i x_i‖; for K ≥ 3 the search
    goes through μ by factors of 1.3, and can miss a pair of solutions closer than that. Raises ValueError for a λ that is not
    positive, a depth below 1, and data like those that `ridge_logistic` refuses.
    """
    x, y = _binary(x, y)
    _depth(depth)
    if not (np.isfinite(weight_decay) and weight_decay > 0):
        raise ValueError(f"weight_decay: expected a number > 0, got {weight_decay!r}")
    if depth == 1:
        return ridge_logistic(x, y, weight_decay)
    pull = np.linalg.norm(y @ x) / (2 * len(y))  # ‖∇L(0)‖, the largest that ‖∇L‖ is on the path of ridge solutions
    power = 2 - 2 / depth

    def excess(log_penalty: float) -> float:
        """log μ‖w(μ)‖^{2−2/K} − log λ, which is 0 where μ is self-consistent."""
        length = np.linalg.norm(ridge_logistic(x, y, np.exp(log_penalty)))
        return log_penalty + power * np.log(length) - np.log(weight_decay)

    # λ‖w‖^{2/K} = S ≤ W(1/e) bounds ‖w‖ from above and so μ from below; ‖w(μ)‖ ≤ pull/μ bounds μ from above.
    low = np.log(weight_decay) - (depth - 1) * np.log(lambertw(np.exp(-1)).real / weight_decay)
    if depth == 2:
        if weight_decay >= pull:
            return np.zeros(x.shape[1])
        curvature = np.linalg.eigvalsh(x.T @ x)[-1] / (4 * len(y))
        high = np.log(curvature * pull / (pull - weight_decay)) + 1e-9
        return ridge_logistic(x, y, np.exp(_root(excess, low, high)))
    if pull == 0:
        return np.zeros(x.shape[1])
    high = np.log(pull) + depth / (depth - 2) * np.log(pull / weight_decay)
    grid = np.arange(low, high, np.log(1.3))
    reached = next((i for i, log_penalty in enumerate(grid) if excess(log_penalty) >= 0), None)
    if reached is None:
        return np.zeros(x.shape[1])
    return ridge_logistic(x, y, np.exp(_root(excess, grid[max(reached - 1, 0)], grid[reached])))


def _root(function, low: float, high: float) -> float:
    """The root between, or the end at which `function` is 0 up to rounding where it does not change sign."""
    ends = function(low), function(high)
    if ends[0] >= 0 or ends[1] <= 0:
        return low if ends[0] >= 0 else high
    return brentq(function, low, high, xtol=1e-15, rtol=1e-15)


def norm_logistic_dual(x, y, weight_decay: float, multipliers) -> float:
    """(1/n)Σ_i H(cα_i), c = min(1, λ/‖(1/n)Σ α_i y_i x_i‖), H(α) = −α log α − (1−α) log(1−α): a lower bound on
    min_w (1/n)Σ log(1+e^{−y_i⟨w, x_i⟩}) + λ‖w‖, whatever the multipliers α ∈ [0, 1], (n,).

    It is the Fenchel dual at cα, made feasible; equal to the minimum at α_i = |ℓ′_i| of the minimiser. Raises ValueError for
    multipliers outside [0, 1] or of another length, and data like those that `ridge_logistic` refuses.
    """
    x, y = _binary(x, y)
    decay = _nonnegative("weight_decay", weight_decay)
    alpha = np.asarray(multipliers, dtype=np.float64)
    if alpha.shape != y.shape or not ((alpha >= 0) & (alpha <= 1)).all():
        raise ValueError(f"multipliers: expected {len(y)} numbers in [0, 1], got shape {alpha.shape}, {alpha!r:.60}")
    length = np.linalg.norm((alpha * y) @ x) / len(y)
    alpha = alpha * (decay / length if length > decay else 1.0)
    return float((entr(alpha) + entr(1 - alpha)).mean())


def _binary(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape or y.shape != x.shape[:1]:
        raise ValueError(f"x, y: expected shapes (n, d) and (n,), got {x.shape} and {y.shape}")
    if not np.isfinite(x).all() or not (np.abs(y) == 1).all():
        raise ValueError("x, y: expected finite inputs and labels -1 or +1, got others")
    return x, y


def _nonnegative(name: str, value) -> np.ndarray:
    value = np.asarray(value, dtype=np.float64)
    if not (np.isfinite(value) & (value >= 0)).all():
        raise ValueError(f"{name}: expected finite numbers >= 0, got {value!r:.60}")
    return value


def _depth(depth: int) -> None:
    if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)) or depth < 1:
        raise ValueError(f"depth: expected a whole number >= 1, got {depth!r}")


def first_layer(start, coefficients, x, y, forgetting, weight_decay):
    """ρ W_1(0) + (1/λn) Σ_j y_j α_j x_jᵀ, (*E, m, d): the first layer of a two-layer ReLU network after T steps of gradient
    descent, from its start (*E, m, d), the `dual_coefficients` α (*E, m, n), x (*E, n, d), y (*E, n); `forgetting` is
    ρ = (1−ηλ)^T. Raises ValueError for λ that is not above 0. Ours."""
    start, alpha, x, y, rho, decay = map(np.asarray, (start, coefficients, x, y, forgetting, weight_decay))
    if not np.all(decay > 0):
        raise ValueError(f"weight_decay: expected numbers > 0, since the formula divides by it, got {decay.min():g}")
    return rho[..., None, None] * start + (alpha * y[..., None, :]) @ x / (decay[..., None, None] * x.shape[-2])


def resting_margin(worth):
    """γ with γ(1 + e^γ) = r: the margin at which a two-layer ReLU network with a read-out that is not trained comes to rest
    on an input that is orthogonal to all others, r = Σ u_k²/(λn) over the neurons that keep seeing it. (r ≥ 0) Ours."""
    worth = _nonnegative("worth", worth)
    margin = np.minimum(worth / 2, np.log1p(worth))  # both are above γ, and from above Newton's steps fall to it
    for _ in range(60):
        growth = np.exp(margin)
        margin = margin - (margin * (1 + growth) - worth) / (1 + growth * (1 + margin))
    return np.maximum(margin, 0.0)


def resting_gates(start_seen, read_out, y, weight_decay):
    """G_kj = 1[w_k(0)·x_j > 0 and y_j u_k > 0]/(1 + e^{γ_j}), γ_j the `resting_margin` of their Σ_k u_k²/(λn): where the
    time-averaged gates of gradient descent tend as T → ∞ on n orthonormal inputs, two ReLU layers, read-out not trained.

    (*E, m, n) from W(0)x (*E, m, n), u (*E, m), y (*E, n). Holds for η(2λ + Σu²/4n) ≤ 2 over the sum above, and λ > 0,
    for which raises ValueError otherwise. Ours."""
    seen, u, y, decay = map(np.asarray, (start_seen, read_out, y, weight_decay))
    if not np.all(decay > 0):
        raise ValueError(f"weight_decay: expected numbers > 0, since nothing comes to rest without, got {decay.min():g}")
    stays = (seen > 0) & (y[..., None, :] * u[..., None] > 0)
    margin = resting_margin((u[..., None] ** 2 * stays).sum(-2) / (decay[..., None] * y.shape[-1]))
    return stays * expit(-margin)[..., None, :]


def adversarial_coherence(samples, slope_ratio=1.0, *, kept=0.25):
    """ε = c/√(1 + nc²), c = (g_A/g_B)/((κ + ½)n): mean field, a heuristic. Where the sum of two networks at rest on
    n inputs each gives up the label of x = √(1−nε²)x_i + εΣ_j s_j x′_j, signs chosen against it, if a share κ (`kept`) of
    the neurons keeps each input: ¼ for exactly orthonormal inputs, up to ½ where closed gates reopen. Ours."""
    n, ratio, kappa = (np.asarray(value, dtype=np.float64) for value in (samples, slope_ratio, kept))
    c = ratio / ((kappa + 0.5) * n)
    return c / np.sqrt(1 + n * c**2)


def linear_collapse_threshold(x, y) -> float:
    """½‖(1/n) Σ_i y_i x_i‖: from this λ on, 0 is the only stationary point of a two-layer linear network with logistic
    loss, and its minimiser; below, 0 is not even a local minimum. x (n, d), y (n,) of −1 and +1."""
    x, y = _labelled(x, y)
    return float(np.linalg.norm(y @ x / len(y)) / 2)


def _labelled(x, y):
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
        raise ValueError(f"x: expected (n, d) with labels y (n,), got {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x: expected finite numbers, got nan or infinity")
    if not (np.abs(y) == 1).all():
        raise ValueError(f"y: expected labels -1 or +1, got {y[np.abs(y) != 1].flat[0]:g}")
    return x, y
