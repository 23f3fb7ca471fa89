"""How near a point is to what the theorems assume."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import jacfwd

from . import _require
from .descent import Solution, WindowMean
from .kinks import flat, gates, piece_at, signals, slope_range, unflat, with_gates
from .networks import ACTIVATIONS, Weights, hidden_states
from .objective import (
    Objective,
    check_members,
    effective_radius,
    loss_gradients,
    margins,
    mean_slope,
    split_objective,
    weighted_margin,
)
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


def clarke_distance(objective: Objective, weights: Weights, *, kink_tolerance: float) -> Tensor:
    """min_γ ‖∇_γ L + λθ‖ over the slopes γ of σ at the kinks, the pre-activations with |z| <= `kink_tolerance`, (*E,): the
    distance of 0 from the generalised gradient of L_λ that allows every choice of slopes. Zero where the point is stationary
    in its sense. That is Clarke's sense where the kinks' gradients ∂z_a/∂θ are independent and `kink_tolerance` finds only zeros;
    where they are dependent, as for two equal inputs, Clarke's gradient may be smaller and further from 0.

    See `nearest_gradient` for what is minimised, and its errors.
    """
    nearest = nearest_gradient(objective, weights, kink_tolerance=kink_tolerance)
    decay = objective.weight_decay[..., None, None]
    squares = [(g + decay * w).square().sum((-2, -1)) for g, w in zip(nearest, weights)]
    return torch.stack(squares, dim=-1).sum(-1).sqrt()


def nearest_gradient(objective: Objective, weights: Weights, *, kink_tolerance: float) -> Weights:
    """The ∇_γ L nearest to −λθ, a tuple like `weights`: back-propagation with a slope γ_a between σ′(0−) and σ′(0+) of its
    own at every kink a, a pre-activation with |z_a| <= `kink_tolerance` (in units of z).

    With one hidden layer ∇_γ L is affine in γ, and the minimum is that of a bounded least-squares problem. With more it
    is affine in the signals μ = γb behind the kinks; where the best μ asks for slopes within bounds it is the minimum, and
    otherwise bounded problems are solved layer by layer, five times in turn, and then for all slopes at once, which is a
    local search and gives an upper bound of the minimum. For smooth activations this is ∇L. Raises ValueError for a negative
    tolerance.
    """
    _require.instance("objective", objective, Objective)
    check_members(objective, weights)
    tolerance = _require.number("kink_tolerance", kink_tolerance, minimum=0.0)
    gradients = loss_gradients(objective, weights)
    if ACTIVATIONS[objective.network.activation].slopes is None:
        return gradients
    members = weights[0].shape[:-2]
    rows = zip(*(w.reshape(-1, *w.shape[-2:]) for w in weights))
    found = [_nearest(one, own, tolerance) for one, own in zip(split_objective(objective, members), rows)]
    return tuple(torch.stack(layer).reshape(w.shape) for layer, w in zip(zip(*found), weights))


def _nearest(objective: Objective, weights: Weights, tolerance: float) -> Weights:
    low, high = slope_range(objective)
    piece = piece_at(objective, weights, tolerance)
    # where nothing leaves a neuron its slopes do not matter
    heard = [(w != 0).any(0)[:, None] for w in weights[1:]]
    piece = replace(piece, kinks=tuple(k & h for k, h in zip(piece.kinks, heard)))
    before, states = hidden_states(objective.network, weights, objective.task.x)
    decayed = objective.weight_decay * flat(weights)

    def force(multipliers: tuple[Tensor, ...]) -> Tensor:
        leaving, _ = signals(objective, replace(piece, multipliers=multipliers), before[-1])
        return flat([p @ h.mT for p, h in zip(leaving, states)]) + decayed

    def from_signals(mu: Tensor) -> Tensor:
        return force(piece.spread(mu))

    def from_slopes(gamma: tuple[Tensor, ...]) -> Tensor:
        return force(with_gates(objective, piece, gamma, before[-1]).multipliers)

    def as_weights(value: Tensor) -> Weights:
        return unflat(value - decayed, [w.shape for w in weights])

    none = torch.zeros(int(piece.mask.sum()), dtype=torch.float64)
    if not len(none):
        return as_weights(from_signals(none))
    best = torch.linalg.lstsq(jacfwd(from_signals)(none), -from_signals(none)[:, None], driver="gelsd").solution[:, 0]
    free = replace(piece, multipliers=piece.spread(best))
    wanted = [g.masked_fill(~k, low) for k, g in zip(piece.kinks, gates(objective, free, before[-1]))]
    if all(bool(((w >= low) & (w <= high)).all()) for w in wanted):
        return as_weights(from_signals(best))

    slopes = [w.nan_to_num(low).clamp(low, high).masked_fill(~k, 0.0) for w, k in zip(wanted, piece.kinks)]
    for _ in range(1 if len(slopes) == 1 else 5):
        for layer in reversed(range(len(slopes))):
            mask = piece.kinks[layer]
            if not bool(mask.any()):
                continue

            def of_layer(values: Tensor) -> Tensor:
                changed = torch.zeros_like(slopes[layer]).index_put(torch.nonzero(mask, as_tuple=True), values)
                return from_slopes((*slopes[:layer], changed, *slopes[layer + 1 :]))

            zero = torch.zeros(int(mask.sum()), dtype=torch.float64)
            best = _bounded_least_squares(jacfwd(of_layer)(zero), of_layer(zero), slopes[layer][mask], low, high)
            slopes[layer] = torch.zeros_like(slopes[layer]).masked_scatter(mask, best)
    if len(slopes) > 1:
        def at(values: Tensor) -> Tensor:
            return from_slopes(piece.spread(values))

        turns = flat(slopes)[piece.mask]
        middle = torch.full_like(turns, (low + high) / 2)  # a slope at its end may hide what lies below it
        ends = (turns, _together(at, turns, low, high), _together(at, middle, low, high))
        slopes = piece.spread(min(ends, key=lambda values: float(at(values).norm())))
    return as_weights(from_slopes(tuple(slopes)))


def _together(force, start: Tensor, low: float, high: float) -> Tensor:
    """A local argmin of ‖force(γ)‖² over low <= γ <= high, for the slopes of all layers at once."""

    def half_square(gamma):
        values = torch.tensor(gamma, requires_grad=True)
        square = force(values).square().sum() / 2
        (gradient,) = torch.autograd.grad(square, values)
        return square.item(), gradient.numpy()

    return _least(half_square, start, low, high)


def _bounded_least_squares(matrix: Tensor, offset: Tensor, start: Tensor, low: float, high: float) -> Tensor:
    """argmin ‖matrix·γ + offset‖² over low <= γ <= high."""
    columns, target = matrix.numpy(), offset.numpy()

    def half_square(gamma):
        error = columns @ gamma + target
        return error @ error / 2, columns.T @ error

    return _least(half_square, start, low, high)


def _least(half_square, start: Tensor, low: float, high: float) -> Tensor:
    """Where `half_square`, which gives value and gradient, is least in a box. L-BFGS-B: there may be thousands of kinks, for
    which the factorisations of scipy.optimize.lsq_linear take minutes."""
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 0.0, "gtol": 1e-16}
    end = minimize(half_square, start.numpy(), jac=True, method="L-BFGS-B", bounds=[(low, high)] * len(start), options=options)
    return torch.as_tensor(end.x)
