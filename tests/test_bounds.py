"""Each inequality at random points, and an instance where it is an equality."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

from lowrank import (
    Network,
    Objective,
    Task,
    bounds,
    data_loss,
    dual_coefficients,
    exact,
    forward,
    gate_means,
    gradient_descent,
    imbalance,
    initialise,
    layer_changes,
    low_rank_bias,
    merge,
    norm_gaps,
    regularised_loss,
    residuals,
    second_moments,
    stable_rank,
    stationarity,
    weighted_margin,
    window_stationarity,
)
from lowrank.objective import loss_gradients
from lowrank.spectra import layer_norms

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "depth": st.integers(1, 4),
        "width": st.integers(1, 9),
        "n": st.integers(1, 12),
        "d": st.integers(1, 6),
        "decay": st.floats(1e-3, 1.0),
        "scale": st.floats(0.1, 5.0),
    }
)


def draw(seed, depth, width, n, d, decay, scale, activation="relu"):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    task = Task(x, torch.randn(n, generator=generator).sign())
    network = Network((d, *[width] * (depth - 1), 1), activation)
    weights = initialise(network, members=4, scale=scale, generator=generator)
    return Objective(network, task, weight_decay=decay), weights


@given(problems)
def test_alignment_sine_at_any_point(problem):
    objective, weights = draw(**problem)
    rest = stationarity(objective, weights)
    bound = bounds.alignment_sine(rest.residual, problem["decay"], rest.norm)
    active = torch.isfinite(rest.angle).numpy()
    # arcsin turns an error δ of the sine near 1 into one of √(2δ); δ is rounding, 1e-14.
    assert (rest.angle.numpy()[active] <= bounds.angle_limit(bound)[active] + 2e-7).all()
    assert (rest.angle.numpy()[active & (bound < 1)] < np.pi / 2).all()


def test_angle_limit_is_arcsin_below_one_and_silent_above():
    np.testing.assert_allclose(bounds.angle_limit([0.0, 0.5, 1.0, 7.0]), [0.0, np.pi / 6, np.pi, np.pi], rtol=1e-15)


def test_alignment_sine_is_attained_by_a_residual_across_the_gradient():
    # λW = (1, 1), −∇L = (1, 0): g = (0, 1) is the shortest way from λW to the ray of −∇L.
    assert float(bounds.alignment_sine(1.0, 1.0, np.sqrt(2))) == pytest.approx(np.sin(np.pi / 4), abs=1e-15)


@given(problems, st.integers(2, 60))
def test_window_sine_for_any_run(problem, steps):
    objective, weights = draw(**problem)
    run = gradient_descent(objective, weights, step_size=0.05, steps=steps, window=steps)
    window = window_stationarity(run)
    bound = bounds.window_alignment_sine(window.drift, 0.05, problem["decay"], steps, window.norm)
    active = (bound < 1) & torch.isfinite(window.angle).numpy()
    assert (np.sin(window.angle.numpy())[active] <= bound[active] * (1 + 1e-9) + 1e-12).all()


linear_problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "depth": st.integers(2, 4),
        "width": st.integers(1, 6),
        "n": st.integers(1, 12),
        "d": st.integers(1, 6),
        "decay": st.floats(1e-2, 0.2),
        "scale": st.floats(0.5, 2.0),
    }
)


def product(weights):
    total = weights[0]
    for w in weights[1:]:
        total = w @ total
    return total


@settings(max_examples=40)
@given(linear_problems, st.integers(0, 400))
def test_bounds_of_linear_networks_with_one_output(problem, steps):
    objective, weights = draw(**problem, activation="linear")
    if steps:
        weights = gradient_descent(objective, weights, step_size=0.02, steps=steps).weights
    decay, depth = problem["decay"], problem["depth"]
    rest = stationarity(objective, weights)
    margin = rest.weighted_margin.numpy()
    inside = margin > 0
    rho = bounds.unequal_layers(rest.residual, decay, np.where(inside, margin, 1e-300))
    root = np.log(np.where(inside, margin, 1.0) / decay) / 2
    assert (np.abs(np.log(rest.norm.numpy()) - root[:, None])[inside] <= rho[inside, None] + 1e-12).all()
    q = [torch.linalg.vector_norm(product(weights[k:])[:, 0], dim=-1).numpy() for k in range(depth)] + [np.ones(4)]
    for before, after in zip(q, q[1:]):
        assert (np.abs(np.log(before / after) - root)[inside] <= rho[inside] + 1e-12).all()
    active = inside & np.isfinite(rho) & (rho < 100)
    w = product(weights)[:, 0].numpy()
    first = residuals(objective, weights)[0].numpy()
    direction = product(weights[1:])[:, 0].numpy() / np.where(q[1] > 0, q[1], 1.0)[:, None]
    along = np.einsum("em,emd->ed", direction, first)
    across = np.linalg.norm(first - direction[:, :, None] * along[:, None], axis=(1, 2))
    along = np.linalg.norm(along, axis=1)
    x, y = objective.task.x.numpy(), objective.task.y.numpy()
    allowed = bounds.ridge_distance(along, np.maximum(q[1], 1e-30), decay, np.maximum(q[0], 1e-30), depth)
    for member in np.flatnonzero(active):
        minimiser = exact.ridge_logistic(x, y, decay * q[0][member] ** (2 / depth - 2))
        assert np.linalg.norm(w[member] - minimiser) <= allowed[member] * (1 + 1e-9) + 1e-11
    if depth == 2:
        slopes = 1 / (1 + np.exp(y * (w @ x.T)))
        gap = bounds.two_layer_duality_gap(
            along, across, np.maximum(q[1], 1e-30), decay, np.maximum(q[0], 1e-30), slopes.mean(1), slopes.max(1)
        )
        value = regularised_loss(objective, weights).numpy()
        for member in np.flatnonzero(active & np.isfinite(gap)):
            pull = np.linalg.norm((slopes[member] * y) @ x) / len(y)
            dual = exact.norm_logistic_dual(x, y, decay, slopes[member] * decay / pull)
            assert -1e-13 <= value[member] - dual <= gap[member] * (1 + 1e-9) + 1e-13


@settings(max_examples=40)
@given(linear_problems, st.integers(0, 400))
def test_mode_defect_at_any_point(problem, steps):
    generator = torch.Generator().manual_seed(problem["seed"])
    c, depth, decay = problem["d"], problem["depth"], problem["decay"]
    target = torch.randn(c, c, generator=generator, dtype=torch.float64)
    network = Network((c, *[problem["width"]] * (depth - 1), c), "linear")
    x = c**0.5 * torch.eye(c, dtype=torch.float64)
    objective = Objective(network, Task(x, x @ target.mT), weight_decay=decay, loss="squared")
    weights = initialise(network, scale=problem["scale"] / 2, generator=generator)
    if steps:
        weights = gradient_descent(objective, weights, step_size=0.01, steps=steps).weights
    g = residuals(objective, weights)
    u, sigma, vt = np.linalg.svd(product(weights).numpy())
    e = max(float(torch.linalg.matrix_norm(gap)) for gap in imbalance(weights))
    force = max(float(torch.linalg.matrix_norm(m)) for m in (weights[0].mT @ g[0], g[-1] @ weights[-1].mT))
    largest = max(float(torch.linalg.matrix_norm(w, 2)) for w in weights)
    for i in np.flatnonzero(sigma > 1e-3):
        d = sigma[i] + decay * sigma[i] ** (2 / depth - 1)
        defect = max(
            np.linalg.norm(target.numpy() @ vt[i] - d * u[:, i]), np.linalg.norm(target.numpy().T @ u[:, i] - d * vt[i])
        )
        assert defect <= bounds.mode_defect(sigma[i], decay, depth, largest, e, force) * (1 + 1e-9) + 1e-9


def test_bounds_of_linear_networks_are_zero_at_rest_and_attained_by_one_neuron():
    assert bounds.unequal_layers([0.0, 0.0], 0.1, 0.2) == 0
    assert bounds.unequal_layers([0.0, 1.0], 0.1, 0.2) == np.inf
    assert bounds.ridge_distance(0.0, 4.0, 0.1, 8.0, 3) == pytest.approx(0, abs=1e-13)  # ‖q_1‖ = ‖w‖^{2/3}
    # K = 2, scalars, W_1 = W_2 = s balanced: g_1 = s(s² − D) + λs, and Dv − du is −g_1 s/σ: equality.
    s, target, decay = 1.3, 2.0, 0.1
    g = s * (s**2 - target) + decay * s
    assert bounds.mode_defect(s**2, decay, 2, s, 0.0, abs(g * s)) == pytest.approx(abs(target - s**2 - decay), rel=1e-14)


def test_ridge_distance_is_attained_along_a_direction_that_no_input_sees():
    # One input (1, 0), W_2 = √ω at rest, W_1 = (√ω, δ): w is √ω·δ away, up to the second order by which μ moves.
    decay, tilt = 0.05, 1e-5
    omega = np.log(1 / decay - 1)
    w = np.array([omega, omega**0.5 * tilt])
    distance = np.linalg.norm(w - exact.ridge_logistic([[1.0, 0.0]], [1.0], decay / np.linalg.norm(w)))
    allowed = bounds.ridge_distance(decay * tilt, omega**0.5, decay, np.linalg.norm(w), 2)
    assert distance <= allowed == pytest.approx(distance, rel=1e-4)


def test_two_layer_duality_gap_near_what_it_bounds():
    decay = 0.05
    omega = np.log(1 / decay - 1)  # one input at rest: p = λ, w = ω, both norms √ω
    # A neuron of size 0.1 that nothing reads costs its penalty.
    unread = bounds.two_layer_duality_gap(0.0, decay * 0.1, omega**0.5, decay, omega, decay, decay)
    assert unread == pytest.approx(decay * 0.01 / 2, rel=1e-14)
    # Layers of unequal norm, and the same w.
    gap = decay / 2 * (omega / 1.7 - 1.7) ** 2
    assert bounds.two_layer_duality_gap(0.0, 0.0, 1.7, decay, omega, decay, decay) >= gap
    # w longer than at rest: its scaled slopes are those at rest, and the gap is what the scale alone costs.
    w = omega * 1.001
    p = 1 / (1 + np.exp(w))
    gap = np.logaddexp(0, -w) + decay * w - exact.norm_logistic_dual([[1.0]], [1.0], decay, [p * decay / p])
    bound = bounds.two_layer_duality_gap((decay - p) * w**0.5, 0.0, w**0.5, decay, w, p, p)
    assert gap <= bound <= 4 * gap


def test_cap_is_the_maximum_found_by_search():
    best = minimize_scalar(lambda z: -z / (1 + np.exp(z)), bounds=(0, 5), method="bounded", options={"xatol": 1e-12})
    assert abs(bounds.weighted_margin_cap() + best.fun) < 1e-15
    assert f"{bounds.weighted_margin_cap():.5f}" == "0.27846"


@given(problems)
def test_weighted_margin_stays_below_the_cap(problem):
    objective, weights = draw(**problem)
    assert (weighted_margin(objective, weights) <= bounds.weighted_margin_cap() + 1e-15).all()
    rest = stationarity(objective, weights)
    charge = problem["decay"] * rest.norm**2
    assert (charge <= bounds.weighted_margin_cap() + rest.inner_product.abs() + 1e-12 * (1 + charge)).all()


def test_squared_norm_cap_is_attained_by_one_input():
    z = 1 + bounds.weighted_margin_cap()
    decay = 1 / (1 + np.exp(z))  # where the margin of the stationary point is z
    start = tuple(torch.full((1, 1), v, dtype=torch.float64) for v in (1.5, 0.5))
    objective = Objective(Network((1, 1, 1), "linear"), Task([[1.0]], [1.0]), weight_decay=decay)
    run = gradient_descent(objective, start, step_size=0.5, steps=2000, tolerance=1e-12)
    assert str(run.status) == "converged"
    assert float(layer_norms(run.weights)[0] ** 2) == pytest.approx(float(bounds.squared_norm_cap(decay)), rel=1e-11)


@given(problems, st.integers(1, 50))
def test_norm_gap_for_any_run(problem, steps):
    objective, weights = draw(**{**problem, "depth": max(problem["depth"], 2)})
    run = gradient_descent(objective, weights, step_size=0.1, steps=steps, save_every=1)
    squares = layer_norms(loss_gradients(objective, run.saved)) ** 2
    change = squares.diff(dim=-1).abs().amax(0)
    bound = bounds.norm_gap(steps, norm_gaps(weights), 0.1, problem["decay"], change)
    size = (layer_norms(run.saved) ** 2).max()
    assert (norm_gaps(run.weights).abs().numpy() <= bound + 1e-12 * float(size)).all()


def test_norm_gap_against_its_recursion_and_attained():
    gap, ratio = 3.0, (1 - 0.1 * 0.2) ** 2
    for _ in range(30):
        gap = ratio * gap + 0.1**2 * 0.7
    assert float(bounds.norm_gap(30, 3.0, 0.1, 0.2, 0.7)) == pytest.approx(gap, rel=1e-13)


def test_norm_gap_does_not_cancel_for_tiny_rates():
    # As ηλ → 0 the sum of T terms η²C tends to Tη²C.
    assert float(bounds.norm_gap(1000, 0.0, 0.1, 1e-12, 1.0)) == pytest.approx(1000 * 0.01, rel=1e-9)
    with pytest.raises(ValueError, match="step_size: expected step_size · weight_decay < 2, got 3"):
        bounds.norm_gap(5, 1.0, 3.0, 1.0, 1.0)


@given(problems, st.integers(0, 40))
def test_sum_of_two_layer_networks_for_any_input_off_the_training_span(problem, steps):
    generator = torch.Generator().manual_seed(problem["seed"])
    d = 2 * problem["d"]
    seen = torch.randn(problem["n"], problem["d"], generator=generator, dtype=torch.float64)
    training = Task(torch.cat([seen, torch.zeros_like(seen)], -1), torch.randn(problem["n"], generator=generator).sign())
    x = torch.cat([torch.zeros(7, problem["d"]), torch.randn(7, problem["d"], generator=generator)], -1).double()
    network = Network((d, problem["width"], 1))
    own, start = (initialise(network, members=3, scale=problem["scale"], generator=generator) for _ in range(2))
    other = start
    if steps:
        objective = Objective(network, training, weight_decay=problem["decay"])
        other = gradient_descent(objective, start, step_size=0.1, steps=steps).weights
    moved = (forward(network, merge([own, other]), x) - forward(network, own, x))[..., 0].abs()
    bound = bounds.sum_of_two_layer_networks(
        forward(network, (own[0], other[1]), x)[..., 0],
        (1 - 0.1 * problem["decay"]) ** steps,
        (torch.linalg.matrix_norm(own[1]) + torch.linalg.matrix_norm(other[1]))[:, None],
        torch.linalg.vector_norm(x @ start[0].mT, dim=-1),
    )
    assert (moved.numpy() <= bound * (1 + 1e-12) + 1e-12).all()


def test_sum_of_two_layer_networks_is_attained_by_one_neuron():
    # u_A = u_B = 1, W_A x = 2, W_B x = 3: f_{A+B} − f_A = 2·5 − 2 = 8 = 2 (cross-talk) + 2·3.
    assert float(bounds.sum_of_two_layer_networks(2.0, 1.0, 2.0, 3.0)) == 8.0


@settings(max_examples=25)
@given(problems)
def test_two_layer_excess_at_any_point(problem):
    problem = {**problem, "depth": 2, "d": min(problem["d"], 3)}
    objective, weights = draw(**problem)
    x, y, n = objective.task.x, objective.task.y, problem["n"]
    p = torch.sigmoid(-y * forward(objective.network, weights, x)[..., 0])
    worth = [exact.two_layer_relu_correlation(x, y.numpy() * row) / n for row in p.numpy()]
    bound = bounds.two_layer_excess(worth, problem["decay"], float(torch.linalg.vector_norm(x, dim=1).max()))
    excess = regularised_loss(objective, weights) - exact.two_layer_relu_program(x, y, problem["decay"]).value
    assert (excess.numpy() >= bound - 1e-12).all()


def test_two_layer_excess_is_an_equality_in_the_limit():
    # One input of norm 2 and the zero network, G = 1: log 2 − P* tends to the bound as λ tends to 1 from below.
    for decay, near in ((0.9, 2e-2), (0.99, 2e-4)):
        excess = np.log(2) - exact.two_layer_relu_program([[2.0]], [1.0], decay).value
        assert excess == pytest.approx(float(bounds.two_layer_excess(1.0, decay, 2.0)), rel=near)
    assert float(bounds.two_layer_excess(0.5, 0.6, 2.0)) == 0.0


def test_summed_rounding_covers_an_adversarial_sum():
    terms = np.array([1.0] + [2.0**-53] * 10_000)  # each small one is lost when added to 1
    naive = 0.0
    for term in terms:
        naive += term
    exact = 1 + 10_000 * 2.0**-53
    assert 0 < exact - naive <= bounds.summed_rounding(len(terms), terms.sum())


ACTIVATIONS = st.sampled_from(["relu", "leaky_relu", "linear"])
ROUNDING = 1e-12  # n ≤ 12 inputs and widths ≤ 9: some 100 roundings of numbers of the size of the bound


def ratios(bias):
    """The bound in its four forms, sharpest first, each (members,)."""
    s, norms = bias.weighted_margin, bias.norm_product
    return (
        bounds.spectral_ratio(s, bias.effective_radius, bias.mean_slope, norms),
        bounds.spectral_ratio(s, bias.radius, bias.mean_slope, norms),
        bounds.margin_spectral_ratio(bias.least_margin, bias.radius, norms),
    )


@given(problems, ACTIVATIONS, st.booleans())
def test_spectral_ratio_at_any_point(problem, activation, own_labels):
    objective, weights = draw(**problem, activation=activation)
    if own_labels:  # all margins positive for the first member: the bound is far from 0
        labels = torch.where(forward(objective.network, tuple(w[0] for w in weights), objective.task.x)[:, 0] > 0, 1.0, -1.0)
        objective = Objective(objective.network, Task(objective.task.x, labels.double()), weight_decay=problem["decay"])
    bias = low_rank_bias(objective, weights)
    sharp, plain, margin = ratios(bias)
    assert (bias.spectral_ratio.numpy() >= sharp * (1 - ROUNDING)).all()
    assert (sharp >= plain * (1 - ROUNDING)).all() and (plain >= margin * (1 - ROUNDING)).all()
    from_loss = bounds.spectral_ratio(
        bias.weighted_margin, bias.radius, data_loss(objective, weights), bias.norm_product
    )
    assert (from_loss <= plain).all()
    rest = stationarity(objective, weights)
    near = bounds.near_stationary_spectral_ratio(
        problem["decay"], rest.norm, rest.residual, bias.effective_radius, bias.mean_slope
    )
    # λ‖W‖² − ‖g‖‖W‖ is a difference: its rounding is that of its terms, divided by what it is divided by
    terms = (problem["decay"] * rest.norm**2 + rest.residual * rest.norm).amax(-1)
    rounding = ROUNDING * terms / (bias.effective_radius * bias.mean_slope * bias.norm_product)
    assert (near <= sharp + rounding.numpy()).all()


@given(problems, ACTIVATIONS)
def test_forms_at_rest_agree_where_residuals_vanish(problem, activation):
    # No training: choose N, then λ = S/N² and equal norms make λN² = S, which is all that the stationary form adds.
    objective, weights = draw(**problem, activation=activation)
    depth = objective.network.depth
    bias = low_rank_bias(objective, weights)
    up = bias.weighted_margin.numpy() > 0
    norm = (bias.norm_product ** (1 / depth)).numpy()
    decay = np.where(up, bias.weighted_margin.numpy() / norm**2, 1.0)
    rest = bounds.stationary_spectral_ratio(decay, bias.radius, bias.mean_slope, norm, depth)
    np.testing.assert_allclose(rest[up], ratios(bias)[1][up], rtol=1e-10)
    by_hand = (bias.radius.numpy() * bias.mean_slope.numpy() * norm ** (depth - 2) / decay) ** (2 / depth)
    np.testing.assert_allclose(bounds.stable_rank_mean(rest, depth), by_hand, rtol=1e-10)
    stable = torch.stack([stable_rank(w) for w in weights]).log().mean(0).exp().numpy()
    assert (stable[up] <= by_hand[up] * (1 + 1e-10)).all()
    np.testing.assert_allclose(bounds.stable_rank_mean(bias.spectral_ratio, depth), stable, rtol=1e-10)


@given(problems)
def test_spectral_ratio_is_attained_by_a_chain_of_rank_one_on_one_input(problem):
    generator = torch.Generator().manual_seed(problem["seed"])
    widths = (problem["d"], *[problem["width"]] * (problem["depth"] - 1), 1)
    units = [torch.randn(m, generator=generator, dtype=torch.float64) for m in widths]
    units = [u / u.norm() for u in units[:-1]] + [torch.ones(1, dtype=torch.float64)]
    weights = tuple(problem["scale"] * torch.outer(after, before) for before, after in zip(units, units[1:]))
    objective = Objective(Network(widths, "linear"), Task(3.0 * units[0][None], [1.0]), weight_decay=0.1)
    bias = low_rank_bias(objective, weights)
    if bias.mean_slope > 1e-100:
        assert float(bias.spectral_ratio) == pytest.approx(1.0, rel=1e-12)
        for form in ratios(bias):
            assert float(form) == pytest.approx(1.0, rel=1e-12)


def test_spectral_ratio_says_nothing_where_labels_are_fitted_worse_than_by_zero():
    assert float(bounds.spectral_ratio(-0.1, 1.0, 0.5, 2.0)) == 0.0
    assert np.isinf(bounds.stable_rank_mean(0.0, 3))
    assert float(bounds.near_stationary_spectral_ratio(0.1, [1.0, 1.0], [0.2, 0.3], 1.0, 0.5)) == 0.0


@given(st.integers(2, 9), st.floats(0.1, 10.0))
def test_largest_weight_decay_is_the_maximum_found_by_search(depth, radius):
    def minus(log_norm):  # λN² = S for one input on the axis: λ = z/(1+e^z)/N² with z = RN^K
        z = radius * np.exp(depth * log_norm)
        return -z / (1 + np.exp(min(z, 700.0))) / np.exp(2 * log_norm)

    best = minimize_scalar(minus, bounds=(np.log(1e-4 / radius) / depth, np.log(20 / radius) / depth), method="bounded")
    found = float(bounds.largest_weight_decay(radius, depth))
    assert found == pytest.approx(-best.fun, rel=1e-4)  # K = 2: the supremum, at z → 0, which the search stops 1e-4 before
    assert found >= -best.fun * (1 - 1e-12)


@given(problems, ACTIVATIONS)
def test_no_point_that_satisfies_eulers_balance_beats_the_data_free_bounds(problem, activation):
    # At rest all norms are N and λ = S/N²; both are premises of the proof, and enough for it.
    objective, weights = draw(**{**problem, "depth": max(problem["depth"], 2)}, activation=activation)
    depth, radius_ = objective.network.depth, low_rank_bias(objective, weights).radius.numpy()
    norms = layer_norms(weights)
    norm = norms.prod(-1) ** (1 / depth)
    weights = tuple(w * (norm / norms[:, k])[:, None, None] for k, w in enumerate(weights))
    decay = (weighted_margin(objective, weights) / norm**2).numpy()
    up = decay > 1e-12
    largest = bounds.largest_weight_decay(radius_, depth)
    stable = torch.stack([stable_rank(w) for w in weights]).log().mean(0).exp().numpy()
    assert (stable[up] * decay[up] <= largest[up] * (1 + 1e-10)).all()
    if depth >= 3:
        least = bounds.least_stationary_norm(decay[up], radius_[up], depth)
        assert (norm.numpy()[up] >= least * (1 - 1e-10)).all()


def test_data_free_bounds_are_attained_by_one_input():
    # w of three linear layers, one input 1: λ = w/(1+e^{w³}) is largest at w³ = z*, and there λ is λ_max.
    z = np.linspace(0.0, 3.0, 300_001)
    assert float(bounds.largest_weight_decay(1.0, 3)) == pytest.approx((np.cbrt(z) / (1 + np.exp(z))).max(), rel=1e-9)
    # N → (2λ/R)^{1/(K−2)} as λ → 0, where the slope tends to ½.
    w = 1e-3
    assert float(bounds.least_stationary_norm(w / (1 + np.exp(w**3)), 1.0, 3)) == pytest.approx(w, rel=1e-9)


@given(problems, ACTIVATIONS, st.floats(0.05, 0.999))
def test_each_step_from_inside_the_basin_goes_inwards(problem, activation, share):
    objective, weights = draw(**{**problem, "depth": max(problem["depth"], 3)}, activation=activation)
    x = objective.task.x.norm(dim=-1).max()
    ball = float(bounds.collapse_basin(problem["decay"], x, objective.network.depth))
    inside = tuple(share * ball * w / torch.linalg.matrix_norm(w, keepdim=True) for w in weights)
    run = gradient_descent(objective, inside, step_size=1.0 / problem["decay"], steps=5, save_every=1)  # ηλ = 1
    largest = layer_norms(run.saved).amax(-1)
    factor = x * largest ** (objective.network.depth - 2) / problem["decay"]  # 1 − η(λ − Rν^{K−2})
    assert (factor <= 1).all()
    assert (largest[1:] <= largest[:-1] * (factor[:-1] * (1 + 1e-12) + 1e-15)).all()  # 1 − ηλ is 0 up to ε


@given(problems, st.sampled_from(["linear", "relu"]))
def test_loss_of_two_layers_stays_above_its_floor(problem, activation):
    objective, weights = draw(**{**problem, "depth": 2, "d": min(problem["d"], 2)}, activation=activation)
    x, y = objective.task.x.numpy(), objective.task.y.numpy()
    threshold = exact.linear_collapse_threshold(x, y) if activation == "linear" else exact.two_layer_relu_threshold(x, y)
    for scale in (1e-3, 0.1, 1.0):
        point = tuple(scale * w for w in weights)
        square = (layer_norms(point) ** 2).sum(-1)
        floor = bounds.two_layer_loss_floor(problem["decay"], threshold, square)
        loss = regularised_loss(objective, point).numpy()
        assert (loss >= floor - 1e-13 * (1 + np.abs(floor))).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bounds.spectral_ratio(0.1, 1.0, 0.5, 0.0), "norm_product: expected numbers > 0, got 0; a layer of zeros"),
        (lambda: bounds.spectral_ratio(0.1, 1.0, 0.5, np.nan), "norm_product: expected numbers > 0, got nan"),
        (lambda: bounds.spectral_ratio(np.nan, 1.0, 0.5, 1.0), "weighted_margin: expected numbers, got 1 of 1 that are nan"),
        (lambda: bounds.spectral_ratio(0.1, 0.0, 0.5, 1.0), "radius: expected numbers > 0, got 0"),
        (lambda: bounds.stable_rank_mean(np.nan, 2), "spectral_ratio: expected numbers, got 1 of 1 that are nan"),
        (lambda: bounds.stable_rank_mean(0.5, 0), "depth: expected whole numbers >= 1, got 0"),
        (lambda: bounds.stable_rank_mean(0.5, 2.5), "depth: expected whole numbers >= 1, got 2.5"),
        (lambda: bounds.largest_weight_decay(1.0, 1), "depth: expected whole numbers >= 2, got 1"),
        (lambda: bounds.least_stationary_norm(0.1, 1.0, 2), "depth: expected whole numbers >= 3, got 2"),
    ],
)
def test_what_the_low_rank_bounds_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: bounds.stationary_spectral_ratio(0.0, 1.0, 0.5, 1.0, 2),
        lambda: bounds.near_stationary_spectral_ratio(0.0, [1.0], [0.1], 1.0, 0.5),
        lambda: bounds.least_stationary_norm(0.0, 1.0, 3),
        lambda: bounds.alignment_sine(1.0, 0.0, 1.0),
        lambda: bounds.window_alignment_sine(1.0, 0.1, 0.0, 5, 1.0),
        lambda: bounds.squared_norm_cap(0.0),
        lambda: bounds.norm_gap(5, 1.0, 0.1, 0.0, 1.0),
    ],
)
def test_bounds_that_divide_by_decay_refuse_zero(call):
    with pytest.raises(ValueError, match="weight_decay: expected numbers > 0"):
        call()


def merged_pair(seed, *, trains_read_out=False, n=5, d=6, width=4, steps=30, scale=3.0, eta=1.0, decay=0.04):
    """Two trained two-layer ReLU networks on tasks that overlap anyhow, with points q of all kinds; and B's gates."""
    generator = torch.Generator().manual_seed(seed)
    network, frozen = Network((d, width, 1)), () if trains_read_out else (2,)
    first, second = initialise(network, generator=generator), initialise(network, scale=scale, generator=generator)
    starts = first, (second[0], second[1] if trains_read_out else first[1])
    runs = []
    for start in starts:
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        objective = Objective(network, Task(x, torch.randn(n, generator=generator).sign()), weight_decay=decay)
        runs.append(gradient_descent(objective, start, step_size=eta, steps=steps, save_every=1, frozen=frozen))
    a, b = runs
    x = torch.cat([a.objective.task.x, b.objective.task.x, torch.randn(3, d, generator=generator, dtype=torch.float64)])
    read_out = a.weights[1] + b.weights[1] if trains_read_out else a.weights[1]
    summed = (a.weights[0] + b.weights[0], read_out)
    changed = (forward(network, summed, x) - forward(network, (a.weights[0], read_out), x))[:, 0].abs().numpy()
    return a, b, x, read_out[0], changed, (1 - eta * decay) ** steps


@given(st.integers(0, 10**6), st.booleans(), st.floats(0.1, 10.0))
def test_sum_change_by_gates_for_any_tasks(seed, trains_read_out, scale):
    _, b, x, v, changed, rho = merged_pair(seed, trains_read_out=trains_read_out, scale=scale)
    kept, overlaps = b.saved[0][0] @ x.mT, b.objective.task.x @ x.mT
    bound = bounds.sum_change_by_gates(rho, v, kept, dual_coefficients(b)[-1], overlaps, b.objective.weight_decay)
    assert (changed <= bound * (1 + 1e-12) + 1e-12).all()


@given(st.integers(0, 10**6), st.floats(0.1, 10.0))
def test_forms_of_the_change_that_need_less_are_larger(seed, scale):
    _, b, x, u, changed, rho = merged_pair(seed, scale=scale)
    kept, overlaps, decay = b.saved[0][0] @ x.mT, b.objective.task.x @ x.mT, b.objective.weight_decay
    gates = gate_means(b)[-1]
    forms = [bounds.sum_change_by_gates(rho, u, kept, u[:, None] * gates, overlaps, decay)]
    for gate in (gates.amax(0).mean(), 1 - rho, 1.0):
        forms.append(bounds.sum_change_by_coherence(rho, u.norm(), kept.norm(dim=0), overlaps.abs().amax(0), gate, decay))
    for smaller, larger in zip(forms, forms[1:]):
        assert (smaller <= larger * (1 + 1e-12) + 1e-12).all()
    span = torch.linalg.qr(b.objective.task.x.mT).Q
    projected = [w @ span @ span.mT for w in (b.saved[0][0], b.weights[0])]
    cap = bounds.hidden_norm(rho, projected[0].norm(), u.norm(), b.objective.task.x.norm(dim=-1).max(), 1.0, decay)
    assert float(projected[1].norm()) <= float(cap) * (1 + 1e-12)
    unseen = kept - projected[0] @ x.mT
    by_norm = bounds.sum_change_by_norm(rho, u.norm(), unseen.norm(dim=0), (x @ span).norm(dim=-1), cap)
    assert (changed <= by_norm * (1 + 1e-12) + 1e-12).all()


@given(st.integers(0, 10**6), st.floats(0.3, 3.0))
def test_labels_are_kept_below_the_coherence_that_keeps_them(seed, scale):
    a, b, x, u, _, rho = merged_pair(seed, scale=scale, d=24, eta=2.0, steps=60)
    f = forward(a.objective.network, a.weights, x)[:, 0]
    kept, overlaps = (b.saved[0][0] @ x.mT).norm(dim=0), (b.objective.task.x @ x.mT).abs().amax(0)
    gate = gate_means(b)[-1].amax(0).mean()
    limit = bounds.coherence_that_keeps(f.abs(), rho, u.norm(), kept, gate, b.objective.weight_decay)
    merged = forward(a.objective.network, (a.weights[0] + b.weights[0], u[None]), x)[:, 0]
    assert (f.sign() == merged.sign())[overlaps.numpy() < limit].all()
    at_the_limit = bounds.sum_change_by_coherence(rho, u.norm(), kept, limit, gate, b.objective.weight_decay)
    np.testing.assert_allclose(at_the_limit, f.abs(), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10**6), st.floats(0.3, 3.0))
def test_gates_certify_labels_further_than_their_means(seed, scale):
    a, b, x, u, _, rho = merged_pair(seed, scale=scale, d=24, eta=2.0, steps=60)
    f = forward(a.objective.network, a.weights, x)[:, 0]
    kept, overlaps = b.saved[0][0] @ x.mT, (b.objective.task.x @ x.mT).abs().amax(0).numpy()
    alpha, decay = u[:, None] * gate_means(b)[-1], b.objective.weight_decay
    limit = bounds.coherence_that_keeps_by_gates(f.abs(), rho, u, kept, alpha, decay)
    gate = gate_means(b)[-1].amax(0).mean()
    coarse = bounds.coherence_that_keeps(f.abs(), rho, u.norm(), kept.norm(dim=0), gate, decay)
    assert (limit >= coarse - 1e-12)[coarse > 0].all()
    merged = forward(a.objective.network, (a.weights[0] + b.weights[0], u[None]), x)[:, 0]
    assert (f.sign() == merged.sign())[overlaps < limit].all()
    # at the limit the change by gates with equal overlaps is the margin
    equal = np.tile(np.maximum(limit, 0.0), (alpha.shape[-1], 1))
    change = bounds.sum_change_by_gates(rho, u, kept, alpha, equal, decay)
    np.testing.assert_allclose(change[limit > 0], f.abs()[limit > 0], rtol=1e-9)


def test_coherence_by_gates_is_attained_and_refuses_gates_that_are_all_closed():
    # One neuron of A with margin γ, one of B that is pushed the other way: the label is lost just above ε = λγ/G.
    limit = bounds.coherence_that_keeps_by_gates([0.4], 0.0, [1.0], [[0.0]], [[0.5]], 0.1)
    np.testing.assert_allclose(limit, [0.08], rtol=1e-12)
    with pytest.raises(ValueError, match="coefficients: expected numbers > 0"):
        bounds.coherence_that_keeps_by_gates([0.4], 0.0, [1.0], [[0.0]], [[0.0]], 0.1)


def test_one_neuron_attains_the_change_by_gates_and_by_coherence():
    # One neuron, one input e_2 with label +1, x = (√(1−ε²), ε): the neuron of B stays active, so f_{A+B} − f_A = w_B·x.
    epsilon, decay, eta, steps = 0.3, 0.1, 0.5, 12
    objective = Objective(Network((2, 1, 1)), Task([[0.0, 1.0]], [1.0]), weight_decay=decay)
    start = (torch.tensor([[0.4, 0.2]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    run = gradient_descent(objective, start, step_size=eta, steps=steps, save_every=1, frozen=(2,))
    x, rho = torch.tensor([[(1 - epsilon**2) ** 0.5, epsilon]], dtype=torch.float64), (1 - eta * decay) ** steps
    change, gates = float(run.weights[0] @ x.mT), gate_means(run)[-1]
    kept = start[0] @ x.mT
    by_gates = bounds.sum_change_by_gates(rho, [1.0], kept, gates, objective.task.x @ x.mT, decay)
    by_coherence = bounds.sum_change_by_coherence(rho, 1.0, kept.abs(), epsilon, gates, decay)
    assert by_gates.item() == pytest.approx(change, rel=1e-12)
    assert by_coherence.item() == pytest.approx(change, rel=1e-12)
    # With ‖P_Bx‖ = ε the norm form needs ‖W_B(T)P_B‖, which is the second weight.
    by_norm = bounds.sum_change_by_norm(rho, 1.0, 0.4 * x[0, 0], epsilon, run.weights[0][0, 1])
    assert by_norm.item() == pytest.approx(change, rel=1e-12)


def test_hidden_norm_is_attained_by_one_input_at_rest_as_the_step_shrinks():
    # w = c p(uw)u/λ at rest with u chosen so that the margin maximises z/(1 + e^z): ‖w‖² = W(1/e)/λ.
    decay, cap = 0.1, bounds.weighted_margin_cap()
    margin = 1 + cap  # z = 1 + W(1/e) maximises z/(1+e^z)
    w = (cap / decay) ** 0.5
    u = margin / w
    objective = Objective(Network((1, 1, 1)), Task([[1.0]], [1.0]), weight_decay=decay)
    start = (torch.tensor([[0.1]], dtype=torch.float64), torch.tensor([[u]], dtype=torch.float64))
    eta = 0.01
    run = gradient_descent(objective, start, step_size=eta, steps=20000, frozen=(2,))
    bound = float(bounds.hidden_norm(0.0, 0.1, u, 1.0, eta, decay))
    assert float(run.weights[0]) == pytest.approx(w, rel=1e-6)
    assert w <= bound <= w * (1 + eta * u**2 / (4 * cap))  # √(1+a) ≤ 1 + a/2, a = ηu²/(2W(1/e))
    with pytest.raises(ValueError, match="step_size: expected step_size · weight_decay <= 1, got 2"):
        bounds.hidden_norm(0.0, 1.0, 1.0, 1.0, 2.0, 1.0)


@given(st.integers(1, 4), st.integers(0, 200), st.floats(1e-12, 2.0))
def test_product_change_bounds_how_far_a_product_moves(depth, seed, size):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 5, depth + 1)
    layers = [rng.standard_normal((rows, columns)) for columns, rows in zip(widths, widths[1:])]
    changes = [size * rng.standard_normal(w.shape) for w in layers]
    before, after = np.eye(widths[0]), np.eye(widths[0])
    for w, change in zip(layers, changes):
        before, after = w @ before, (w + change) @ after
    limit = bounds.product_change([np.linalg.norm(w, 2) for w in layers], [np.linalg.norm(c, 2) for c in changes])
    # two products of up to 4 layers of up to 4 neurons, each rounded
    assert np.linalg.norm(after - before, 2) <= limit + 200 * bounds.EPS * np.prod([np.linalg.norm(w) + np.linalg.norm(c) for w, c in zip(layers, changes)])


def test_product_change_is_attained_and_does_not_cancel():
    assert bounds.product_change([2.0, 3.0], [1.0, 0.5]) == 3 * 3.5 - 6  # numbers of one sign
    assert bounds.product_change([0.0, 3.0], [1.0, 0.0]) == 3.0
    np.testing.assert_allclose(bounds.product_change(np.full((2, 3), 1e3), 1e-17), 3e-11, rtol=1e-12)  # 1e6 · 1e-17 · 3


@pytest.mark.parametrize("samples, second", [(5, 1.0), (80, 0.03)])
def test_square_mean_band_is_that_of_chi_square_for_gaussian_numbers(samples, second):
    low, high = bounds.square_mean_band(second, 3 * second**2, samples, level=0.01)
    assert float(low) == pytest.approx(second * chi2.ppf(0.005, samples) / samples, rel=1e-9)
    assert float(high) == pytest.approx(second * chi2.ppf(0.995, samples) / samples, rel=1e-9)
    # a heavier tail widens it as fewer samples would
    np.testing.assert_allclose(bounds.square_mean_band(1.0, 5.0, 2 * samples), bounds.square_mean_band(1.0, 3.0, samples), rtol=1e-9)
    with pytest.raises(ValueError, match="fourth_moment: expected more than"):
        bounds.square_mean_band(1.0, 1.0, 5)


@settings(max_examples=60)
@given(
    problems, st.sampled_from(["relu", "leaky_relu", "linear", "tanh"]), st.integers(1, 3), st.floats(0.0, 2.0)
)
def test_output_change_for_any_two_networks(problem, activation, outputs, distance):
    generator = torch.Generator().manual_seed(problem["seed"])
    network = Network((problem["d"], *[problem["width"]] * (problem["depth"] - 1), outputs), activation)
    own, other = (initialise(network, members=4, scale=problem["scale"], generator=generator) for _ in range(2))
    merged = tuple(v + distance * w for v, w in zip(own, other))
    x = torch.randn(problem["n"], problem["d"], generator=generator, dtype=torch.float64)
    measured = (forward(network, merged, x) - forward(network, own, x)).square().sum(-1).mean(-1).sqrt().numpy()
    moments = second_moments(network, own, x)
    fine, coarse = (bounds.output_change(*layer_changes(network, own, merged, m)) for m in (moments, moments[:1]))
    rounding = 1e-12 * (1 + coarse)
    assert (measured <= fine + rounding).all() and (fine <= coarse + rounding).all()


def test_output_change_is_attained_by_one_linear_neuron_a_layer():
    # W_k = 1, W̄_k = 1 + Δ_k with Δ_k >= 0: changes of all layers point the same way, and no norm is lost.
    network = Network((1, 1, 1, 1), "linear")
    own = tuple(torch.ones(1, 1).double() for _ in range(3))
    merged = tuple(w + delta for w, delta in zip(own, (0.5, 0.25, 2.0)))
    x = torch.tensor([[1.0], [-3.0]])
    bound = bounds.output_change(*layer_changes(network, own, merged, second_moments(network, own, x)))
    assert float(bound) == pytest.approx((1.5 * 1.25 * 3.0 - 1) * np.sqrt(5), rel=1e-14)


def test_output_change_is_the_recursion():
    exactly = 30 * (20 * 1 + 2) + 3
    assert exactly <= float(bounds.output_change([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])) <= exactly * (1 + 1e-14)
    np.testing.assert_allclose(bounds.output_change(np.ones((4, 2)), np.ones((4, 2))), [2.0] * 4, rtol=1e-14)
    for changes, norms in np.random.default_rng(0).random((200, 2, 5)):
        exactly = Fraction(0)
        for change, norm in zip(changes, norms):
            exactly = Fraction(norm) * exactly + Fraction(change)
        assert exactly <= Fraction(float(bounds.output_change(changes, norms))) <= exactly * (1 + 20 * Fraction(bounds.EPS))


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=7), st.floats(0.0, 4.0), st.floats(0.01, 5.0))
def test_altered_share_against_all_subsets_and_chebyshev(distances, change, gamma):
    n = len(distances)
    affordable = [
        bin(subset).count("1")
        for subset in range(2**n)
        if sum(d**2 for i, d in enumerate(sorted(distances)) if subset >> i & 1) <= n * change**2
    ]
    share = float(bounds.altered_share(distances, change))
    assert abs(share * n - max(affordable)) < 1e-9
    assert share <= np.mean(np.asarray(distances) < gamma) + (change / gamma) ** 2 + 1e-12


def test_altered_share_by_member_and_its_mistakes():
    assert bounds.altered_share([[3.0, 1.0, 2.0], [0.0, 9.0, 9.0]], np.array([1.0, 1.0])).tolist() == [1 / 3, 1 / 3]
    for distances, change, name, got in (
        ([1.0, np.nan], 1.0, "distances", "nan"), ([1.0, -1.0], 1.0, "distances", "-1"), ([1.0, 2.0], -1.0, "change", "-1"),
        ([1.0], np.nan, "change", "nan"), ([np.inf], 1.0, "distances", "inf"), ([1.0], np.inf, "change", "inf"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: expected finite numbers >= 0, got {got}; leave out members that diverged"):
            bounds.altered_share(distances, change)
    for empty in ([], np.ones((2, 0)), 1.0):
        with pytest.raises(ValueError, match=r"distances: expected at least one input, \(\*E, n\), got shape"):
            bounds.altered_share(empty, 1.0)
    for changes, norms, got in (([1.0, 2.0], [1.0, 2.0, 3.0], r"\(2,\), got \(3,\)"), ([], [], r"\(0,\), got \(0,\)"), (1.0, 1.0, r"\(\), got \(\)")):
        with pytest.raises(ValueError, match=f"merged_norms: expected one number a layer as layer_changes, {got}"):
            bounds.output_change(changes, norms)
    for changes, norms, name, got in (
        ([-1.0, 2.0], [1.0, 2.0], "layer_changes", "-1"), ([1.0, np.nan], [1.0, 2.0], "layer_changes", "nan"),
        ([1.0, 2.0], [np.nan, 2.0], "merged_norms", "nan"), ([1.0, 2.0], [1.0, -3.0], "merged_norms", "-3"), ([np.inf, 2.0], [0.0, 2.0], "layer_changes", "inf"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: expected finite numbers >= 0, got {got}"):
            bounds.output_change(changes, norms)


@pytest.mark.parametrize("count", [1, 2, 7, 60, 1000])
def test_altered_share_counts_what_is_affordable_up_to_rounding(count):
    # δ² is exactly the mean of d²: all labels may alter, however the sums are rounded
    for distances in np.random.default_rng(count).uniform(0.01, 5.0, (20, count)):
        check_all_may_alter(distances)


def check_all_may_alter(distances):
    squares = [Fraction(d) ** 2 for d in distances]
    change = float(np.sqrt(float(sum(squares) / len(squares))))
    while Fraction(change) ** 2 * len(squares) < sum(squares):
        change = np.nextafter(change, np.inf)
    assert bounds.altered_share(distances, change) == 1.0
    assert bounds.altered_share(distances, change * (1 - 1e-9)) < 1.0
