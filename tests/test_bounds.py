"""Each inequality at random points, and an instance where it is an equality."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from lowrank import (
    Network,
    Objective,
    Task,
    bounds,
    data_loss,
    exact,
    forward,
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
    allowed = bounds.ridge_distance(rest.residual[:, 0], q[1], decay, q[0], np.where(active, rho, 0.0))
    x, y = objective.task.x.numpy(), objective.task.y.numpy()
    for member in np.flatnonzero(active):
        minimiser = exact.ridge_logistic(x, y, decay * q[0][member] ** (2 / depth - 2))
        assert np.linalg.norm(w[member] - minimiser) <= allowed[member] * (1 + 1e-9) + 1e-11
    if depth == 2:
        gap = bounds.two_layer_duality_gap(rest.residual, rest.norm, q[1], decay, np.where(active, rho, np.inf))
        value = regularised_loss(objective, weights).numpy()
        for member in np.flatnonzero(active):
            dual = exact.norm_logistic_dual(x, y, decay, 1 / (1 + np.exp(y * (x @ w[member]))))
            assert -1e-13 <= value[member] - dual <= gap[member] + 1e-13


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
    assert bounds.ridge_distance(0.0, 3.0, 0.1, 5.0, 0.0) == 0
    # K = 2, scalars, W_1 = W_2 = s balanced: g_1 = s(s² − D) + λs, and Dv − du is −g_1 s/σ: equality.
    s, target, decay = 1.3, 2.0, 0.1
    g = s * (s**2 - target) + decay * s
    # Both weights above the optimum of one input: multipliers are feasible, and the first term of the gap is all there is.
    p, both = 1 / (1 + np.exp(s**2)), np.full(2, s)
    force = np.full(2, -p * s + 0.3 * s)
    gap = np.logaddexp(0, -(s**2)) + 0.3 * s**2 - exact.norm_logistic_dual([[1.0]], [1.0], 0.3, [p])
    extra = np.log(2) * force[0] / (0.3 * s)
    assert bounds.two_layer_duality_gap(force, both, s, 0.3, 0.0) - extra == pytest.approx(gap, rel=1e-12)
    assert bounds.mode_defect(s**2, decay, 2, s, 0.0, abs(g * s)) == pytest.approx(abs(target - s**2 - decay), rel=1e-14)


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
    assert float(bounds.output_change([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])) == 30 * (20 * 1 + 2) + 3
    assert bounds.output_change(np.ones((4, 2)), np.ones((4, 2))).tolist() == [2.0] * 4


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
    with pytest.raises(ValueError, match="distances: expected numbers, got nan"):
        bounds.altered_share([1.0, np.nan], 1.0)


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.sampled_from([0.9, 0.95, 0.999]))
def test_accuracy_floor_is_scipys_exact_interval(n, share, level):
    hits = round(share * n)
    expected = binomtest(hits, n).proportion_ci(level, method="exact").low
    assert float(bounds.accuracy_floor(hits / n, n, level=level)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
