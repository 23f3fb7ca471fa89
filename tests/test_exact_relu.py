"""The convex twin of two-layer ReLU training: counts, closed forms, search by brute force, and bounds at random points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lowrank import Network, Objective, Task, exact, initialise, loss_gradients, regularised_loss, teacher
from lowrank.convex import arrangements

EPS = np.finfo(float).eps
inputs = st.fixed_dictionaries({"seed": st.integers(0, 10**6), "n": st.integers(1, 9), "d": st.integers(1, 3)})


def gaussian(seed, n, d):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)), np.sign(generator.standard_normal(n))


def objective(x, y, decay, width):
    return Objective(Network((x.shape[1], width, 1)), Task(x, np.asarray(y, dtype=float)), weight_decay=decay)


@given(inputs)
def test_there_are_as_many_arrangements_as_cover_counts(case):
    x, _ = gaussian(**case)
    assert len(arrangements(x)) == 2 * sum(math.comb(case["n"] - 1, k) for k in range(case["d"]))


@given(inputs, st.sampled_from(["general", "signs", "rounded", "flat"]))
def test_no_arrangement_is_missing_or_invented(case, kind):
    x, _ = gaussian(**case)
    x = {"general": x, "signs": np.sign(x), "rounded": np.round(x), "flat": x * (np.arange(case["d"]) < 2)}[kind]
    found = {tuple(row) for row in arrangements(x).tolist()}
    u = np.random.default_rng(1).standard_normal((4000, case["d"]))
    sampled = {tuple(row) for row in (u @ x.T > 0).tolist()}
    assert sampled <= found
    for gates in found - sampled:  # a thin cone: a point inside shows that it is there
        sides = np.where(gates, 1.0, -1.0)[:, None] * x
        least = minimize(
            lambda z: -z[-1], np.zeros(case["d"] + 1), method="SLSQP", bounds=[(-1, 1)] * case["d"] + [(None, None)],
            constraints={"type": "ineq", "fun": lambda z: (sides @ z[:-1])[x.any(1)] - z[-1]},
        )  # fmt: skip
        assert -least.fun > 1e-9


def test_arrangements_of_two_lines_and_of_nothing():
    assert arrangements([[1.0, 0.0], [0.0, 1.0]]).tolist() == [[False, False], [False, True], [True, False], [True, True]]
    assert arrangements([[1.0, 0.0], [-2.0, 0.0]]).tolist() == [[False, True], [True, False]]
    assert arrangements([[0.0, 0.0]]).tolist() == [[False]]


@given(inputs)
def test_largest_correlation_against_a_dense_search(case):
    x, v = gaussian(**case)
    v = v * np.random.default_rng(2).random(case["n"])
    u = np.random.default_rng(3).standard_normal((2000, case["d"]))
    u /= np.linalg.norm(u, axis=1, keepdims=True)

    def size(u):
        return np.abs(np.maximum(u @ x.T, 0.0) @ v)

    largest, found = exact.two_layer_relu_correlation(x, v), size(u)
    assert (found <= largest * (1 + 1e-14)).all()
    climbed = [
        -minimize(lambda w: -float(size(w / np.linalg.norm(w))), start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).fun
        for start in u[np.argsort(-found)[:3]]
    ]  # fmt: skip
    assert max(climbed) >= largest * (1 - 1e-6)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.003, 0.1, 0.4, 0.6, 5.0])
def test_one_input_by_hand(d, decay):
    # One neuron along x: f = s‖x‖ and min log(1 + e^{−f}) + λs; |ℓ′|‖x‖ = λ, or zero from λ = ‖x‖/2 on.
    x = np.array([[0.6, -0.8, 0.5]])[:, :d]
    norm = np.linalg.norm(x)
    result = exact.two_layer_relu_program(x, [-1.0], decay)
    p = min(decay / norm, 0.5)
    f = math.log(1 / p - 1)
    assert result.value == pytest.approx(math.log1p(math.exp(-f)) + decay * f / norm, abs=1e-14)
    assert exact.two_layer_relu_threshold(x, [-1.0]) == pytest.approx(norm / 2, rel=1e-15)
    w, a = result.weights
    if decay < norm / 2:
        np.testing.assert_allclose(w.numpy() / np.linalg.norm(w), x / norm, atol=1e-9)
        assert float(a) * np.linalg.norm(w) == pytest.approx(-f / norm, abs=1e-9)
    else:
        assert not w.any() and not a.any()


def test_two_sides_by_hand():
    # x = ±1, both labelled +1: a neuron for each side, p = 2λ, and the dual value is the binary entropy of 2λ.
    result = exact.two_layer_relu_program([[1.0], [-1.0]], [1.0, 1.0], 0.05)
    assert result.value == pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9), abs=1e-15)
    np.testing.assert_allclose(result.slopes, 0.1, rtol=1e-12)
    np.testing.assert_allclose(np.sort(result.weights[0].numpy().ravel()), np.array([-1, 1]) * math.sqrt(math.log(9)))


@settings(max_examples=40)
@given(inputs, st.floats(-3.5, -0.5), st.sampled_from(["general", "signs", "rounded", "twins"]))
def test_optimum_is_certified_attained_and_narrow(case, exponent, kind):
    x, y = gaussian(**case)
    x = {"general": x, "signs": np.sign(x), "rounded": np.round(x), "twins": np.repeat(x, 2, 0)[: len(x)]}[kind]
    result = exact.two_layer_relu_program(x, y, 10**exponent)
    w, a = result.weights
    assert abs(result.gap) <= (1e-12 if kind == "general" else 1e-8)  # with parallel inputs the optimum need not be unique
    attained = regularised_loss(objective(x, y, 10**exponent, len(w)), result.weights)
    assert float(attained) == pytest.approx(result.value, abs=1e-13)
    assert len(w) <= len(x) or kind != "general"
    np.testing.assert_allclose(torch.linalg.vector_norm(w, dim=1), a[0].abs(), rtol=1e-12)
    assert exact.two_layer_relu_correlation(x, y * result.slopes) / len(x) <= 10**exponent * (1 + 100 * EPS)
    entropy = -result.slopes * np.log(result.slopes) - (1 - result.slopes) * np.log1p(-result.slopes)
    assert result.dual_value == pytest.approx(entropy.mean(), abs=1e-14)


@settings(max_examples=25)
@given(inputs, st.floats(-3, -0.3), st.integers(1, 8), st.floats(0.01, 10.0))
def test_no_network_is_below_the_lower_bound(case, exponent, width, scale):
    x, y = gaussian(**case)
    result = exact.two_layer_relu_program(x, y, 10**exponent)
    generator = torch.Generator().manual_seed(case["seed"])
    problem = objective(x, y, 10**exponent, width)
    weights = initialise(problem.network, members=(200,), scale=scale, generator=generator)
    assert (regularised_loss(problem, weights) >= result.dual_value - 1e-12).all()
    near = problem.network.widths[1] >= len(result.weights[0])
    if near:  # around the optimum itself, where it is close
        padded = [torch.zeros(shape, dtype=torch.float64) for shape in ((width, case["d"]), (1, width))]
        padded[0][: len(result.weights[0])], padded[1][:, : len(result.weights[0])] = result.weights
        around = tuple(w + 1e-3 * v for w, v in zip(padded, weights))
        assert (regularised_loss(problem, around) >= result.dual_value - 1e-12).all()


@pytest.mark.parametrize(("n", "d", "decay", "seed"), [(6, 2, 0.02, 0), (8, 2, 0.005, 1), (6, 3, 0.02, 2), (9, 3, 0.05, 3)])
def test_brute_force_reaches_the_optimum_and_never_passes_it(n, d, decay, seed):
    generator = torch.Generator().manual_seed(seed)
    task = teacher(n, d, generator=generator)
    result = exact.two_layer_relu_program(task.x, task.y, decay)
    problem = objective(task.x.numpy(), task.y, decay, 24)
    ends = []
    for _ in range(3):
        start = initialise(problem.network, generator=generator)
        shapes = [tuple(w.shape) for w in start]

        def split(z):
            z = torch.as_tensor(z)
            return z[: shapes[0][0] * d].reshape(shapes[0]), z[shapes[0][0] * d :].reshape(shapes[1])

        def loss(z):
            weights = split(z)
            gradients = [g + decay * w for g, w in zip(loss_gradients(problem, weights), weights)]
            return float(regularised_loss(problem, weights)), torch.cat([g.ravel() for g in gradients]).numpy()

        z, size = torch.cat([w.ravel() for w in start]).numpy(), 0.0
        for _ in range(30):  # a kink ends a line search: begin again a little off it, less and less, and keep what is better
            kicked = z + size * torch.randn(len(z), generator=generator, dtype=torch.float64).numpy()
            found = minimize(loss, kicked, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-12}).x
            z, size = (found, 1e-2) if not size or loss(found)[0] < loss(z)[0] else (z, size / 2)
        ends.append(loss(z)[0])
    assert min(ends) >= result.dual_value - 1e-12
    assert min(ends) - result.value <= 1e-5


@settings(max_examples=40)
@given(inputs, st.floats(1e-3, 0.1))
def test_zero_is_optimal_from_the_threshold_on_and_not_before(case, margin):
    x, y = gaussian(**case)
    threshold = exact.two_layer_relu_threshold(x, y)
    above = exact.two_layer_relu_program(x, y, threshold * (1 + margin))
    assert not above.weights[0].any() and above.value == pytest.approx(math.log(2)) and abs(above.gap) < 1e-14
    below = exact.two_layer_relu_program(x, y, threshold * (1 - margin))
    attained = regularised_loss(objective(x, y, threshold * (1 - margin), len(below.weights[0])), below.weights)
    assert below.weights[0].any() and float(attained) < math.log(2)


def test_symmetric_data_has_a_symmetric_value():
    angle = 2 * np.pi * np.arange(5) / 5
    x, y = np.stack([np.cos(angle), np.sin(angle)], 1), np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    values = [exact.two_layer_relu_program(np.roll(x, k, 0), s * y, 0.01).value for k in range(5) for s in (1, -1)]
    np.testing.assert_allclose(values[::2], values[1::2], atol=1e-13)  # f → −f
    mirrored = exact.two_layer_relu_program(x * [1, -1], y, 0.01)
    np.testing.assert_allclose(mirrored.value, exact.two_layer_relu_program(x, y, 0.01).value, atol=1e-13)
    np.testing.assert_allclose(  # every input twice: the same mean
        exact.two_layer_relu_program(np.repeat(x, 2, 0), np.repeat(y, 2), 0.01).value, values[0], atol=1e-13
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: exact.two_layer_relu_program([[1.0]], [1.0], 0.0), ValueError, "weight_decay: expected a number > 0, got 0"),
        (lambda: exact.two_layer_relu_program([[1.0]], [1.0], math.nan), ValueError, "weight_decay: expected a number > 0"),
        (lambda: exact.two_layer_relu_program([[1.0]], [1.0], "1"), TypeError, "weight_decay: expected a number > 0, got '1'"),
        (lambda: exact.two_layer_relu_program([[1.0]], [0.5], 1.0), ValueError, "y: expected 1 labels -1 or"),
        (lambda: exact.two_layer_relu_program([[1.0]], [1.0, 1.0], 1.0), ValueError, "y: expected 1 labels -1 or"),
        (lambda: exact.two_layer_relu_program([1.0], [1.0], 1.0), ValueError, r"x: expected finite numbers \(n, d\)"),
        (lambda: exact.two_layer_relu_threshold([[math.nan]], [1.0]), ValueError, r"x: expected finite numbers \(n, d\)"),
        (lambda: exact.two_layer_relu_threshold([[1.0] * 4], [1.0]), ValueError, "x: expected at most 3 dimensions, got 4"),
        (lambda: exact.two_layer_relu_correlation([[1.0]], [1.0, 2.0]), ValueError, "v: expected 1 finite numbers"),
        (lambda: exact.two_layer_relu_program(gaussian(0, 40, 3)[0], [1.0] * 40, 1.0), ValueError, "x: expected at most 1000 cones, got 1562"),
    ],
)  # fmt: skip
def test_misuse_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
