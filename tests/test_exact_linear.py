"""Closed forms against search by brute force, other libraries, and networks that gradient descent trained."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar, root
from scipy.special import expit

from lowrank import Network, Objective, Task, exact, gradient_descent, initialise, random_rotation, singular_values

decays = st.floats(1e-6, 10.0)
targets = st.floats(1e-3, 100.0)
depths = st.integers(1, 8)


def energy(sigma, d, decay, depth):
    return (sigma - d) ** 2 / 2 + decay * depth / 2 * sigma ** (2 / depth)


def local_minima(d, decay, depth):
    """Of E, which only rises beyond d: by search of a grid, each polished."""
    grid = np.linspace(0, 1.01 * d, 4001)
    values = energy(grid, d, decay, depth)
    found = [0.0] if values[0] <= values[1] else []
    for i in np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:])) + 1:
        polished = minimize_scalar(
            energy, bounds=(grid[i - 1], grid[i + 1]), args=(d, decay, depth), method="bounded", options={"xatol": 1e-12}
        )
        found.append(polished.x)
    return found


@given(targets, decays, depths)
def test_spectrum_is_the_largest_local_minimum_found_by_search(d, decay, depth):
    threshold = float(exact.deep_linear_threshold(decay, depth))
    if abs(d - threshold) < 1e-3 * threshold:
        return  # the root and the maximum are then closer than the grid
    sigma = float(exact.deep_linear_spectrum(d, decay, depth))
    # a minimum found by values of E is good to √ε of its scale; the grid may not see a nearer one than its spacing
    assert sigma == pytest.approx(max(local_minima(d, decay, depth), default=0.0), abs=2e-3 * max(d, 1e-3))
    if sigma > 0:
        assert sigma - d + decay * sigma ** (2 / depth - 1) == pytest.approx(0.0, abs=1e-13 * max(d, 1.0))
        nearby = sigma * (1 + np.array([-1e-3, 1e-3]))
        assert (energy(nearby, d, decay, depth) > energy(sigma, d, decay, depth)).all()


@given(targets, decays, depths)
def test_the_global_branch_costs_least(d, decay, depth):
    sigma = float(exact.deep_linear_spectrum(d, decay, depth, branch="global"))
    grid = np.linspace(0, d, 2001)
    cost = energy(sigma, d, decay, depth)
    assert cost <= energy(grid, d, decay, depth).min() + 1e-12 * (1 + cost)


@given(decays, st.integers(3, 9))
def test_thresholds_are_where_the_root_and_where_its_advantage_begin(decay, depth):
    fold = ((depth - 2) * decay / depth) ** (depth / (2 * depth - 2))
    threshold = float(exact.deep_linear_threshold(decay, depth))
    slope_at_best = minimize_scalar(
        lambda log_s: np.exp(log_s) + decay * np.exp(log_s) ** (2 / depth - 1),
        bracket=(np.log(fold) - 2, np.log(fold) + 1),
    )
    assert threshold == pytest.approx(slope_at_best.fun, rel=1e-12)
    above, below = threshold * (1 + 1e-6), threshold * (1 - 1e-6)
    assert exact.deep_linear_spectrum(below, decay, depth) == 0.0
    assert exact.deep_linear_spectrum(above, decay, depth) >= fold
    # at the threshold itself, where two roots meet, one is returned
    assert exact.deep_linear_spectrum(threshold, decay, depth) == pytest.approx(fold, rel=1e-6)
    equal = float(exact.deep_linear_threshold(decay, depth, branch="global"))
    sigma = float(exact.deep_linear_spectrum(equal, decay, depth))
    assert energy(sigma, equal, decay, depth) == pytest.approx(equal**2 / 2, rel=1e-12)
    assert equal > threshold


def test_shallow_depths_are_ridge_and_soft_thresholding():
    d = np.linspace(0, 3, 31)
    np.testing.assert_allclose(exact.deep_linear_spectrum(d, 0.5, 1), d / 1.5, rtol=1e-15)
    np.testing.assert_allclose(exact.deep_linear_spectrum(d, 0.5, 2), np.maximum(d - 0.5, 0), rtol=1e-15)
    np.testing.assert_array_equal(exact.deep_linear_spectrum(d, 0.0, 4), d)


def test_spectrum_broadcasts():
    whole = exact.deep_linear_spectrum(np.array([1.0, 2.0, 3.0]), np.array([[0.1], [0.2]]), 3)
    assert whole.shape == (2, 3)
    assert whole[1, 2] == exact.deep_linear_spectrum(3.0, 0.2, 3)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_spectrum_against_trained_networks(depth, generator):
    d = np.array([2.0, 1.2, 0.7, 0.3])
    left, right = (random_rotation(4, generator=generator) for _ in range(2))
    x = np.sqrt(4) * random_rotation(4, generator=generator)  # (1/n)XᵀX = I
    task = Task(x, x @ (left @ torch.diag(torch.as_tensor(d)) @ right).mT)
    network = Network((4, *[6] * (depth - 1), 4), "linear")
    weights = initialise(network, members=3, generator=generator)
    objective = Objective(network, task, weight_decay=0.1, loss="squared")
    run = gradient_descent(objective, weights, step_size=0.05, steps=6000, tolerance=1e-9)
    assert (run.status == "converged").all()
    product = run.weights[0]
    for w in run.weights[1:]:
        product = w @ product
    found = singular_values(product).numpy()
    predicted = exact.deep_linear_spectrum(d, 0.1, depth)
    # K ≥ 3: each is the root or 0, as the start has it; training ends at local minima
    distance = np.minimum(np.abs(found - predicted), found) if depth >= 3 else np.abs(found - predicted)
    assert distance.max() < 1e-7  # relative residual 1e-9, curvature of E above 0.3
    assert (np.abs(found - predicted)[:, 0] < 1e-7).all()


def draw(seed, n, d, reach=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = np.where(x @ rng.normal(size=d) + rng.normal(size=n) > 0, 1.0, -1.0)
    return reach * x, y


def loss(w, x, y):
    return np.logaddexp(0, -y * (x @ w)).mean()


def loss_gradient(w, x, y):
    return -(expit(-y * (x @ w)) * y) @ x / len(y)


def loss_hessian(w, x, y):
    p = expit(-y * (x @ w))
    return (x.T * (p * (1 - p))) @ x / len(y)


problems = st.fixed_dictionaries({"seed": st.integers(0, 10**6), "n": st.integers(1, 30), "d": st.integers(1, 8)})


@given(problems, st.floats(1e-5, 100.0))
def test_ridge_logistic_against_scipy(problem, penalty):
    x, y = draw(**problem)
    w = exact.ridge_logistic(x, y, penalty)
    assert np.linalg.norm(loss_gradient(w, x, y) + penalty * w) <= 1e-13 * max(1, np.abs(x).max())
    start = minimize(lambda v: loss(v, x, y) + penalty / 2 * v @ v, np.zeros(len(w)), tol=1e-6).x
    other = root(
        lambda v: loss_gradient(v, x, y) + penalty * v, start,
        jac=lambda v: loss_hessian(v, x, y) + penalty * np.eye(len(v)), tol=1e-14,
    ).x  # fmt: skip
    curvature = penalty + np.linalg.eigvalsh(loss_hessian(w, x, y))[0]
    np.testing.assert_allclose(w, other, atol=1e-12 / curvature)  # both have gradients of at most about 1e-13


def test_ridge_logistic_converges_where_undamped_steps_cycle():
    # inputs of very different size and a small penalty: about 1 in 50 of these defeats the full Newton step
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, d = rng.integers(2, 8), rng.integers(1, 4)
        x = rng.normal(size=(n, d)) * np.exp(2 * rng.normal(size=(n, 1)))
        penalty = 10 ** rng.uniform(-8, -2)
        w = exact.ridge_logistic(x, np.ones(n), penalty)
        assert np.linalg.norm(loss_gradient(w, x, np.ones(n)) + penalty * w) <= 1e-12 * np.abs(x).max()


def test_ridge_logistic_takes_labels_of_one_sign_and_one_input():
    x = np.array([[1.0, 2.0], [0.5, -1.0]])
    one_sign, mixed = exact.ridge_logistic(x, [1, 1], 0.1), exact.ridge_logistic(x * [[1], [-1]], [1, -1], 0.1)
    np.testing.assert_allclose(one_sign, mixed, rtol=1e-12)
    (w,) = exact.ridge_logistic([[1.0]], [1.0], 0.25)
    assert 0.25 * w == pytest.approx(expit(-w), rel=1e-13)


def stationary_defect(w, x, y, decay, depth):
    return loss_gradient(w, x, y) + decay * np.linalg.norm(w) ** (2 / depth - 2) * w


@settings(max_examples=40)
@given(problems, st.floats(1e-3, 0.3), st.integers(1, 5))
def test_deep_linear_logistic_is_a_self_consistent_minimum(problem, decay, depth):
    x, y = draw(**problem)
    w = exact.deep_linear_logistic(x, y, decay, depth)
    length = np.linalg.norm(w)
    if length == 0:
        return
    assert np.linalg.norm(stationary_defect(w, x, y, decay, depth)) < 1e-11 * max(1, np.abs(x).max())
    unit = w / length
    penalty = decay * length ** (2 / depth - 2)
    hessian = loss_hessian(w, x, y) + penalty * (np.eye(len(w)) + (2 / depth - 2) * np.outer(unit, unit))
    assert np.linalg.eigvalsh(hessian)[0] > -1e-6 * penalty


@settings(max_examples=25)
@given(problems, st.floats(1e-2, 0.3), st.integers(3, 5))
def test_no_longer_minimum_is_found_by_descent_from_far(problem, decay, depth):
    x, y = draw(**problem)
    w = exact.deep_linear_logistic(x, y, decay, depth)
    rng = np.random.default_rng(problem["seed"])
    cost = lambda v: loss(v, x, y) + decay * depth / 2 * np.linalg.norm(v) ** (2 / depth)  # noqa: E731
    for start in rng.normal(size=(3, len(w))) * 3 * (1 + np.linalg.norm(w)):
        end = minimize(cost, start, jac=lambda v: stationary_defect(v, x, y, decay, depth), tol=1e-9).x
        if np.linalg.norm(stationary_defect(end, x, y, decay, depth)) < 1e-7:  # some stop at the edge near 0
            assert np.linalg.norm(end) <= np.linalg.norm(w) + 1e-4 * (1 + np.linalg.norm(w))


@pytest.mark.parametrize("decay", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_two_layers_against_a_convex_program(seed, decay):
    import cvxpy

    x, y = draw(seed, 20, 4)
    w = cvxpy.Variable(4)
    program = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum(cvxpy.logistic(-cvxpy.multiply(y, x @ w))) / 20 + decay * cvxpy.norm(w, 2))
    )
    value = program.solve(solver="CLARABEL")
    ours = exact.deep_linear_logistic(x, y, decay, 2)
    own_value = loss(ours, x, y) + decay * np.linalg.norm(ours)
    assert own_value == pytest.approx(value, abs=1e-7)  # Clarabel's gap is 1e-8
    bound = exact.norm_logistic_dual(x, y, decay, expit(-y * (x @ ours)))
    assert own_value == pytest.approx(bound, abs=1e-13)


def test_two_layers_collapse_exactly_at_half_the_mean():
    x, y = draw(3, 20, 4)
    threshold = np.linalg.norm(y @ x) / 40
    assert (exact.deep_linear_logistic(x, y, threshold * (1 + 1e-9), 2) == 0).all()
    just_below = exact.deep_linear_logistic(x, y, threshold * (1 - 1e-6), 2)
    assert 0 < np.linalg.norm(just_below) < 1e-3


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_deep_linear_logistic_against_trained_networks(depth, generator):
    x, y = draw(5, 20, 4)
    network = Network((4, *[5] * (depth - 1), 1), "linear")
    weights = initialise(network, members=3, scale=1.5, generator=generator)
    run = gradient_descent(
        Objective(network, Task(x, y), weight_decay=0.05), weights, step_size=0.2, steps=3000, tolerance=1e-11
    )
    assert (run.status == "converged").all()
    product = run.weights[0]
    for w in run.weights[1:]:
        product = w @ product
    expected = exact.deep_linear_logistic(x, y, 0.05, depth)
    np.testing.assert_allclose(product[:, 0].numpy(), np.tile(expected, (3, 1)), atol=1e-8)  # residual 1e-11 over curvature


@given(problems, st.floats(1e-3, 1.0), st.integers(0, 10**6))
def test_dual_is_below_every_primal_value(problem, decay, seed):
    x, y = draw(**problem)
    rng = np.random.default_rng(seed)
    bound = exact.norm_logistic_dual(x, y, decay, rng.uniform(size=len(y)))
    for w in rng.normal(size=(5, x.shape[1])) * rng.exponential(2, size=(5, 1)):
        assert bound <= loss(w, x, y) + decay * np.linalg.norm(w) + 1e-12


def test_arguments_are_checked():
    x, y = draw(0, 6, 2)
    for call, words in (
        (lambda: exact.deep_linear_spectrum(-1.0, 0.1, 3), "d: expected finite numbers >= 0"),
        (lambda: exact.deep_linear_spectrum(1.0, np.nan, 3), "weight_decay: expected finite numbers >= 0"),
        (lambda: exact.deep_linear_spectrum(1.0, 0.1, 0), "depth: expected a whole number >= 1, got 0"),
        (lambda: exact.deep_linear_spectrum(1.0, 0.1, 2.0), "depth: expected a whole number"),
        (lambda: exact.deep_linear_threshold(0.1, 3, branch="least"), "branch: expected one of minimum, global"),
        (lambda: exact.ridge_logistic(x, y, 0.0), "penalty: expected a number > 0, got 0.0"),
        (lambda: exact.ridge_logistic(x, y[:-1], 1.0), r"expected shapes \(n, d\) and \(n,\), got \(6, 2\) and \(5,\)"),
        (lambda: exact.ridge_logistic(x, 2 * y, 1.0), "labels -1 or \\+1"),
        (lambda: exact.deep_linear_logistic(x, y, -0.1, 2), "weight_decay: expected a number > 0, got -0.1"),
        (lambda: exact.norm_logistic_dual(x, y, 0.1, 2 * np.ones(6)), "multipliers: expected 6 numbers in"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
