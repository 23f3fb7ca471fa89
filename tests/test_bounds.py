"""Each inequality at random points, and an instance where it is an equality."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from lowrank import (
    Network,
    Objective,
    Task,
    bounds,
    exact,
    forward,
    gradient_descent,
    initialise,
    merge,
    norm_gaps,
    regularised_loss,
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


@pytest.mark.parametrize(
    "call",
    [
        lambda: bounds.alignment_sine(1.0, 0.0, 1.0),
        lambda: bounds.window_alignment_sine(1.0, 0.1, 0.0, 5, 1.0),
        lambda: bounds.squared_norm_cap(0.0),
        lambda: bounds.norm_gap(5, 1.0, 0.1, 0.0, 1.0),
    ],
)
def test_bounds_that_divide_by_decay_refuse_zero(call):
    with pytest.raises(ValueError, match="weight_decay: expected numbers > 0"):
        call()
