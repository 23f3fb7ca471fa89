import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import Network, Objective, Task, exact, gradient_descent, initialise, regularised_loss
from lowrank.spectra import layer_norms

draws = st.fixed_dictionaries({"seed": st.integers(0, 10**6), "n": st.integers(1, 12)})


def draw(seed, n, d=2):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n), rng


@given(draws, st.integers(1, 5))
def test_linear_threshold_is_where_the_hessian_at_zero_loses_its_last_negative_eigenvalue(problem, d):
    x, y, _ = draw(**problem, d=d)
    threshold = exact.linear_collapse_threshold(x, y)
    width = 3
    objective = Objective(Network((d, width, 1), "linear"), Task(x, y), weight_decay=0.0)

    def loss(flat):
        inner, outer = flat[: width * d].reshape(width, d), flat[width * d :].reshape(1, width)
        margin = objective.task.y * (objective.task.x @ inner.T @ outer.T)[:, 0]
        return torch.nn.functional.softplus(-margin).mean()

    hessian = torch.autograd.functional.hessian(loss, torch.zeros(width * d + width, dtype=torch.float64))
    lowest = float(torch.linalg.eigvalsh(hessian)[0])  # of L; λ adds itself to every eigenvalue
    assert abs(-lowest - threshold) < 1e-12 * (1 + threshold)


@given(draws)
def test_relu_threshold_in_the_plane_against_a_grid_of_directions(problem):
    x, y, _ = draw(**problem)
    threshold = exact.two_layer_relu_threshold(x, y)
    angle = np.linspace(0, 2 * np.pi, 40_001)
    u = np.stack([np.cos(angle), np.sin(angle)])
    grid = np.abs(y @ np.maximum(x @ u, 0)).max() / len(y) / 2
    slope = np.linalg.norm(x, axis=1).mean() / 2  # how fast the sum can change with the angle
    assert grid <= threshold * (1 + 1e-12) <= grid + slope * np.pi / 40_000 + 1e-12


def test_relu_threshold_by_hand():
    assert exact.two_layer_relu_threshold([[3.0], [-4.0]], [1, -1]) == 1.0  # u = −1: |−4|/2/2
    assert exact.two_layer_relu_threshold([[3.0, 4.0]], [1]) == pytest.approx(2.5, rel=1e-15)
    # two opposite inputs of one label: no direction sees both
    assert exact.two_layer_relu_threshold([[1.0, 0.0], [-1.0, 0.0]], [1, 1]) == pytest.approx(0.25, rel=1e-15)
    assert exact.linear_collapse_threshold([[1.0, 0.0], [-1.0, 0.0]], [1, 1]) == 0.0


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_networks_collapse_above_the_threshold_and_leave_zero_below(activation, generator):
    x, y, _ = draw(3, 12)
    find = exact.linear_collapse_threshold if activation == "linear" else exact.two_layer_relu_threshold
    threshold = find(x, y)
    decays = threshold * torch.tensor([[0.95], [1.05]], dtype=torch.float64)
    objective = Objective(Network((2, 12, 1), activation), Task(x, y), weight_decay=decays)
    start = initialise(objective.network, members=(2, 4), scale=0.1, generator=generator)
    run = gradient_descent(objective, start, step_size=0.5, steps=int(20 / (0.5 * 0.05 * threshold)))
    assert (run.status[1] == "collapsed").all() and not (run.status[0] == "collapsed").any()
    assert (regularised_loss(objective, run.weights)[0] < np.log(2)).all()
    assert (layer_norms(run.weights)[0] > 1e2 * layer_norms(run.weights)[1].max()).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: exact.linear_collapse_threshold(np.ones((2, 3)), [1, 0]), "y: expected labels -1 or [+]1, got 0"),
        (lambda: exact.linear_collapse_threshold(np.ones((2, 3)), [1]), "x: expected .n, d. with labels y .n,., got .2, 3. and .1,."),
        (lambda: exact.linear_collapse_threshold([[np.nan]], [1]), "x: expected finite numbers"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
