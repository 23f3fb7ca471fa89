import numpy as np
import pytest
import torch
from scipy.optimize import least_squares, lsq_linear

from lowrank import (
    Network,
    Objective,
    Task,
    angles,
    clarke_distance,
    data_loss,
    gradient_descent,
    initialise,
    low_rank_bias,
    nearest_gradient,
    polish,
    stationarity,
    window_alignment,
    window_stationarity,
)
from lowrank.networks import hidden_states


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


# ---- the generalised gradient -------------------------------------------------------------------------------------------


def at_a_kink(target=-3.0, first=(1.0, -1.0), second=1.0):
    """Inputs e₁ and e₁ + e₂, one neuron on whose kink the second lies."""
    task = Task([[1.0, 0.0], [1.0, 1.0]], [[1.0], [target]])
    objective = Objective(Network((2, 1, 1)), task, weight_decay=0.1, loss="squared")
    return objective, (torch.tensor([first]).double(), torch.tensor([[second]]).double())


@pytest.mark.parametrize("target", [-3.0, -0.1, 0.0, 0.3, 3.0])
@pytest.mark.parametrize("first, second", [((1.0, -1.0), 1.0), ((0.7, -0.7), -1.2), ((2.0, -2.0), 0.4)])
def test_the_distance_at_one_kink_by_hand(target, first, second):
    objective, weights = at_a_kink(target, first, second)
    p = first[0]
    left = np.array([(second * p - 1) * second / 2 + 0.1 * p, -0.1 * p])  # slope 0 at the kink, for W_1
    pull = -target * second / 2 * np.array([1.0, 1.0])
    gate = np.clip(-(left @ pull) / (pull @ pull), 0, 1) if pull.any() else 0.0
    top = (second * p - 1) * p / 2 + 0.1 * second
    expected = np.sqrt(((left + gate * pull) ** 2).sum() + top**2)
    assert float(clarke_distance(objective, weights, kink_tolerance=1e-12)) == pytest.approx(expected, rel=1e-7)


def test_for_smooth_networks_the_distance_is_the_residual(task, generator):
    for activation in ("tanh", "linear", "relu"):
        network = Network((5, 4, 3, 1), activation)
        objective = Objective(network, task, weight_decay=torch.tensor([0.1, 0.2]).double())
        weights = initialise(network, members=2, generator=generator)
        expected = torch.linalg.vector_norm(stationarity(objective, weights).residual, dim=-1)
        np.testing.assert_allclose(clarke_distance(objective, weights, kink_tolerance=0.0), expected, rtol=1e-12)


def with_kinks(seed, depth, count, width=3):
    """A random network with `count` pre-activations of the first hidden layer at 0 exactly: an input orthogonal to a row."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((6, 3))
    network = Network((3, *[width] * (depth - 1), 1))
    weights = initialise(network, generator=torch.Generator().manual_seed(seed))
    rows = weights[0].numpy()
    for a in range(count):
        x[a] -= (x[a] @ rows[a % width]) / (rows[a % width] @ rows[a % width]) * rows[a % width]
    y = np.sign(generator.standard_normal(6))
    y[0] = -1.0
    return Objective(network, Task(x, y), weight_decay=0.05), weights


def gradient_with_slopes(objective, weights, kinks, gates):
    """Own back-propagation, σ′ = gates[a] at kinks[a] = (layer, neuron, sample): ∇_γ L + λθ, flat."""
    x, y = objective.task.x.numpy(), objective.task.y.numpy()
    h, z = [x.T], []
    arrays = [w.numpy() for w in weights]
    for w in arrays[:-1]:
        z.append(w @ h[-1])
        h.append(np.maximum(z[-1], 0))
    f = (arrays[-1] @ h[-1])[0]
    signal = (-y / (1 + np.exp(y * f)) / len(y))[None]
    forces = []
    for k in range(len(arrays) - 1, -1, -1):
        forces.append((signal @ h[k].T + 0.05 * arrays[k]).ravel())
        if k:
            slope = (z[k - 1] > 0).astype(float)
            for (layer, a, i), gate in zip(kinks, gates):
                if layer == k - 1:
                    slope[a, i] = gate
            signal = slope * (arrays[k].T @ signal)
    return np.concatenate(forces[::-1])


@pytest.mark.parametrize("seed", [0, 2, 3])
@pytest.mark.parametrize("depth, count", [(2, 1), (2, 2), (3, 1), (3, 2)])
def test_the_distance_against_all_slopes_of_a_grid(depth, count, seed):
    objective, weights = with_kinks(seed, depth, count, width=8)
    spots = [(0, a, a) for a in range(count)]
    hidden = hidden_states(objective.network, weights, objective.task.x)[0][:-1]
    assert sum(int((z.abs() <= 1e-9).sum()) for z in hidden) == count  # a sample that no neuron lets through has more
    grid = np.linspace(0, 1, 41)
    values = [
        np.linalg.norm(gradient_with_slopes(objective, weights, spots, gates))
        for gates in np.array(np.meshgrid(*[grid] * count)).reshape(count, -1).T
    ]
    pulls = [
        np.linalg.norm(
            gradient_with_slopes(objective, weights, spots, np.eye(count)[a]) - gradient_with_slopes(objective, weights, spots, np.zeros(count))
        )
        for a in range(count)
    ]
    found = float(clarke_distance(objective, weights, kink_tolerance=1e-9))
    assert found <= min(values) + 1e-9
    assert found >= min(values) - sum(pulls) / 80  # half a step of the grid off in every slope


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_against_bounded_least_squares(seed):
    objective, weights = with_kinks(seed, 2, 6)
    spots = [(0, a % 3, a) for a in range(6)]
    none = gradient_with_slopes(objective, weights, spots, np.zeros(6))
    columns = np.stack([gradient_with_slopes(objective, weights, spots, e) - none for e in np.eye(6)], axis=1)
    expected = np.linalg.norm(columns @ lsq_linear(columns, -none, (0, 1), tol=1e-14).x + none)
    assert float(clarke_distance(objective, weights, kink_tolerance=1e-9)) == pytest.approx(expected, rel=1e-6)
    nearest = nearest_gradient(objective, weights, kink_tolerance=1e-9)
    flat = torch.cat([(g + 0.05 * w).flatten() for g, w in zip(nearest, weights)])
    assert float(flat.norm()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_in_three_layers_against_least_squares_from_many_starts(seed):
    objective, weights = with_kinks(seed, 3, 2, width=4)
    hidden = hidden_states(objective.network, weights, objective.task.x)[0][:-1]
    spots = [(k, *spot) for k, z in enumerate(hidden) for spot in torch.nonzero(z.abs() <= 0.2).tolist()]
    assert {spot[0] for spot in spots} == {0, 1}
    starts = np.random.default_rng(0).uniform(0.01, 0.99, (4, len(spots)))
    ends = [
        least_squares(lambda g: gradient_with_slopes(objective, weights, spots, g), g, bounds=(0, 1), xtol=1e-12, ftol=1e-12)
        for g in starts
    ]
    best = min(np.sqrt(2 * end.cost) for end in ends)
    worst = max(np.sqrt(2 * end.cost) for end in ends)
    found = float(clarke_distance(objective, weights, kink_tolerance=0.2))
    assert found <= 1.001 * worst and found == pytest.approx(best, rel=1e-2)  # a local search: there are several minima


@pytest.mark.parametrize("seed", range(3))
def test_more_kinks_are_never_further(seed):
    objective, weights = with_kinks(seed, 2, 2)
    found = [float(clarke_distance(objective, weights, kink_tolerance=t)) for t in (0.0, 1e-9, 1e-2, 0.1, 0.5, 2.0, 100.0)]
    assert all(more <= fewer * (1 + 1e-9) for fewer, more in zip(found, found[1:])) and found[-1] < found[0]


@pytest.mark.parametrize("depth, decay, seed", [(2, 0.02, 2), (3, 0.006, 1)])
def test_polished_points_are_at_distance_zero(depth, decay, seed):
    objective, weights = with_kinks(seed, depth, 0)
    objective = Objective(objective.network, objective.task, weight_decay=decay)
    found = polish(objective, weights)
    assert found.status == "converged" and found.field == "clarke"
    assert float(clarke_distance(objective, found.weights, kink_tolerance=1e-9)) < 1e-12
    assert float(torch.linalg.vector_norm(stationarity(objective, found.weights).residual)) > 1e-6  # σ′(0) = 0 does not do


def test_a_silent_neuron_and_a_negative_tolerance():
    objective, weights = with_kinks(0, 2, 2)
    silent = (weights[0], weights[1] * torch.tensor([0.0, 1.0, 1.0]).double())
    assert torch.isfinite(clarke_distance(objective, silent, kink_tolerance=1e-9))
    with pytest.raises(ValueError, match="kink_tolerance: expected"):
        clarke_distance(objective, weights, kink_tolerance=-1e-9)


def test_members_of_the_distance_are_their_own(generator):
    task = Task(torch.randn(2, 6, 3, generator=generator).double(), [[1.0, -1.0] * 3] * 2)
    network, decay = Network((3, 4, 1)), torch.tensor([0.05, 0.3]).double()
    weights = initialise(network, members=2, generator=generator)
    found = clarke_distance(Objective(network, task, weight_decay=decay), weights, kink_tolerance=0.2)
    for e in range(2):
        alone = Objective(network, Task(task.x[e], task.y[e]), weight_decay=float(decay[e]))
        assert float(clarke_distance(alone, tuple(w[e] for w in weights), kink_tolerance=0.2)) == float(found[e])
