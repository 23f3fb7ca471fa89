import numpy as np
import pytest
import torch

from lowrank import (
    Network,
    Objective,
    angles,
    data_loss,
    gradient_descent,
    initialise,
    low_rank_bias,
    stationarity,
    window_alignment,
    window_stationarity,
)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 0.3, np.pi / 2, 3.0, np.pi])
def test_angles_down_to_rounding(angle):
    first = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    second = 0.2 * torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float64)
    assert abs(float(angles((first,), (second,))[0]) - angle) < 4e-16 + 4e-16 * angle


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_angles_of_tiny_and_huge_matrices(size):
    w = size * torch.eye(2, dtype=torch.float64)
    assert float(angles((w,), (-w,))[0]) == pytest.approx(np.pi, abs=1e-15)


def test_stationarity_against_autograd_and_numpy(task, generator):
    network = Network((5, 4, 3, 1))
    objective = Objective(network, task, weight_decay=0.2)
    weights = initialise(network, members=2, generator=generator)
    tracked = tuple(w.clone().requires_grad_() for w in weights)
    gradients = torch.autograd.grad(data_loss(objective, tracked).sum(), tracked)
    rest = stationarity(objective, weights)
    for e in range(2):
        for k in range(3):
            w, g = weights[k][e].numpy(), gradients[k][e].numpy()
            residual = g + 0.2 * w
            np.testing.assert_allclose(rest.residual[e, k], np.linalg.norm(residual), rtol=1e-12)
            np.testing.assert_allclose(rest.relative_residual[e, k], np.linalg.norm(residual) / (0.2 * np.linalg.norm(w)), rtol=1e-12)
            cosine = np.sum(-g * w) / np.linalg.norm(g) / np.linalg.norm(w)
            np.testing.assert_allclose(rest.angle[e, k], np.arccos(cosine), rtol=1e-9)
            np.testing.assert_allclose(rest.inner_product[e, k], np.sum(residual * w), rtol=1e-11, atol=1e-15)


def test_without_decay_the_relative_residual_is_infinite(task, generator):
    network = Network((5, 4, 1))
    rest = stationarity(Objective(network, task, weight_decay=0.0), initialise(network, generator=generator))
    assert torch.isinf(rest.relative_residual).all() and torch.isfinite(rest.angle).all()


def test_window_identity_holds_for_plain_descent_and_not_with_momentum(task, generator):
    network = Network((5, 4, 1))
    objective = Objective(network, task, weight_decay=torch.tensor([0.01, 0.1], dtype=torch.float64))
    weights = initialise(network, members=2, generator=generator)
    plain = window_stationarity(gradient_descent(objective, weights, step_size=0.3, steps=500, window=400))
    assert (plain.defect <= 400 * np.finfo(float).eps * plain.size).all()
    heavy = window_stationarity(gradient_descent(objective, weights, step_size=0.3, steps=500, window=400, momentum=0.9))
    assert (heavy.defect > 1e-6).all()


def test_window_alignment_is_the_angle_of_means(task, generator):
    network = Network((5, 4, 1))
    run = gradient_descent(
        Objective(network, task, weight_decay=0.1), initialise(network, generator=generator), step_size=0.3, steps=50, window=20
    )
    for k in range(2):
        w, g = run.window_mean.weights[k].numpy().ravel(), run.window_mean.loss_gradients[k].numpy().ravel()
        cosine = -(w @ g) / np.linalg.norm(w) / np.linalg.norm(g)
        assert abs(np.cos(float(window_alignment(run)[k])) - cosine) < 1e-14


def test_a_solution_without_window_is_refused(task, generator):
    network = Network((5, 4, 1))
    run = gradient_descent(Objective(network, task, weight_decay=0.1), initialise(network, generator=generator), step_size=0.3, steps=2)
    with pytest.raises(ValueError, match="solution: expected one trained with window="):
        window_alignment(run)


def test_low_rank_bias_against_numpy(task, generator):
    network = Network((5, 4, 3, 1))
    weights = initialise(network, members=2, generator=generator)
    bias = low_rank_bias(Objective(network, task, weight_decay=0.1), weights)
    x, y = task.x.numpy(), task.y.numpy()
    for e in range(2):
        a, b, c = (w[e].numpy() for w in weights)
        m = y * (np.maximum(np.maximum(x @ a.T, 0) @ b.T, 0) @ c.T)[:, 0]
        slope, lengths = 1 / (1 + np.exp(m)), np.linalg.norm(x, axis=1)
        spectral, frobenius = (np.prod([np.linalg.norm(w, order) for w in (a, b, c)]) for order in (2, "fro"))
        expected = (spectral / frobenius, (slope * m).mean(), slope.mean(), lengths.max(), slope @ lengths / slope.sum(), m.min(), frobenius)
        found = (bias.spectral_ratio, bias.weighted_margin, bias.mean_slope, bias.radius, bias.effective_radius, bias.least_margin, bias.norm_product)
        np.testing.assert_allclose([float(value[e]) for value in found], expected, rtol=1e-11)


@pytest.mark.parametrize(
    "activation, why",
    [("tanh", "is not homogeneous, so S = "), ("gelu", "is not homogeneous"), ("relu2", "is not 1-Lipschitz")],
)
def test_low_rank_bias_refuses_what_its_theorem_does_not_cover(activation, why, task, generator):
    network = Network((5, 4, 1), activation)
    with pytest.raises(ValueError, match=f"network: expected activation relu, leaky_relu or linear, got {activation}, which {why}"):
        low_rank_bias(Objective(network, task, weight_decay=0.1), initialise(network, generator=generator))


def test_low_rank_bias_of_a_collapsed_member_is_nan(task):
    network = Network((5, 4, 1))
    dead = low_rank_bias(Objective(network, task, weight_decay=0.1), (torch.zeros(4, 5).double(), torch.zeros(1, 4).double()))
    assert torch.isnan(dead.spectral_ratio) and float(dead.norm_product) == 0.0
