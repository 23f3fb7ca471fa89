import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from lowrank import (
    Network,
    Objective,
    Task,
    accuracy,
    data_loss,
    effective_radius,
    forward,
    initialise,
    loss_gradients,
    margins,
    mean_slope,
    regularised_loss,
    residuals,
    weighted_margin,
)
from lowrank.networks import ACTIVATIONS

CASES = [
    ("logistic", 1, lambda g: torch.randn(9, generator=g).sign()),
    ("cross_entropy", 3, lambda g: torch.randint(0, 3, (9,), generator=g)),
    ("squared", 2, lambda g: torch.randn(9, 2, generator=g, dtype=torch.float64)),
    ("squared", 1, lambda g: torch.randn(9, generator=g).sign()),
]


def problem(loss, outputs, draw, activation, generator, depth=3, weight_decay=0.1):
    network = Network((4, *[5] * (depth - 1), outputs), activation)
    task = Task(torch.randn(9, 4, generator=generator, dtype=torch.float64), draw(generator))
    return Objective(network, task, weight_decay=weight_decay, loss=loss)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss, outputs, draw", CASES)
def test_gradients_against_autograd_and_finite_differences(loss, outputs, draw, activation, generator):
    objective = problem(loss, outputs, draw, activation, generator)
    weights = initialise(objective.network, members=2, generator=generator)
    gradients = loss_gradients(objective, weights)
    tracked = tuple(w.clone().requires_grad_() for w in weights)
    for ours, autograd in zip(gradients, torch.autograd.grad(data_loss(objective, tracked).sum(), tracked)):
        torch.testing.assert_close(ours, autograd, rtol=1e-11, atol=1e-14)

    direction = tuple(torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights)
    h = 1e-6  # central difference: error h² times the third derivative, and rounding 1e-16/h
    ahead, behind = (tuple(w + s * h * v for w, v in zip(weights, direction)) for s in (1, -1))
    slope = (data_loss(objective, ahead) - data_loss(objective, behind)) / (2 * h)
    inner = sum((g * v).sum((-2, -1)) for g, v in zip(gradients, direction))
    torch.testing.assert_close(slope, inner, rtol=1e-6, atol=1e-8)


def test_losses_against_other_libraries(generator):
    objective = problem(*CASES[0], "relu", generator)
    weights = initialise(objective.network, generator=generator)
    f = forward(objective.network, weights, objective.task.x)[:, 0]
    probability = 1 / (1 + np.exp(-f.numpy()))
    assert abs(float(data_loss(objective, weights)) - log_loss(objective.task.y, probability)) < 1e-13

    objective = problem(*CASES[1], "tanh", generator)
    weights = initialise(objective.network, generator=generator)
    f = forward(objective.network, weights, objective.task.x)
    torch.testing.assert_close(
        data_loss(objective, weights), torch.nn.functional.cross_entropy(f, objective.task.y), rtol=1e-13, atol=0
    )


def test_logistic_loss_does_not_overflow():
    objective = Objective(Network((1, 1)), Task([[1.0], [1.0]], [1.0, -1.0]), weight_decay=0.0)
    weights = (torch.tensor([[2000.0]], dtype=torch.float64),)
    assert float(data_loss(objective, weights)) == 1000.0
    assert torch.isfinite(loss_gradients(objective, weights)[0]).all()


def test_weight_decay_is_torchs_convention(generator):
    objective = problem(*CASES[0], "relu", generator, weight_decay=0.3)
    weights = initialise(objective.network, generator=generator)
    tracked = tuple(w.clone().requires_grad_() for w in weights)
    total = regularised_loss(objective, tracked)
    penalty = float(total.detach() - data_loss(objective, weights))
    assert abs(penalty - 0.15 * sum(float((w**2).sum()) for w in weights)) < 1e-13
    for ours, autograd in zip(residuals(objective, weights), torch.autograd.grad(total, tracked)):
        torch.testing.assert_close(ours, autograd, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("loss, outputs, draw", CASES)
def test_a_member_alone_is_the_member_in_the_stack(loss, outputs, draw, generator):
    decays = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    objective = problem(loss, outputs, draw, "relu", generator, weight_decay=decays)
    weights = initialise(objective.network, members=3, generator=generator)
    for member in range(3):
        alone = Objective(objective.network, objective.task, weight_decay=0.1 * (member + 1), loss=loss)
        own = tuple(w[member] for w in weights)
        for stacked, single in zip(residuals(objective, weights), residuals(alone, own)):
            torch.testing.assert_close(stacked[member], single, rtol=1e-13, atol=1e-15)
        for quantity in (data_loss, regularised_loss, weighted_margin):
            torch.testing.assert_close(quantity(objective, weights)[member], quantity(alone, own), rtol=1e-13, atol=1e-15)


def test_one_data_set_per_member(generator):
    network = Network((3, 4, 1))
    x = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 6, generator=generator).sign()
    objective = Objective(network, Task(x, y), weight_decay=0.1)
    weights = initialise(network, members=2, generator=generator)
    for member in range(2):
        alone = Objective(network, Task(x[member], y[member]), weight_decay=0.1)
        own = tuple(w[member] for w in weights)
        for stacked, single in zip(residuals(objective, weights), residuals(alone, own)):
            torch.testing.assert_close(stacked[member], single, rtol=1e-13, atol=1e-15)


def test_margins_and_weighted_margin_by_hand():
    objective = Objective(Network((1, 1)), Task([[1.0], [2.0]], [1.0, -1.0]), weight_decay=0.0)
    weights = (torch.tensor([[0.5]], dtype=torch.float64),)
    m = np.array([0.5, -1.0])
    np.testing.assert_allclose(margins(objective, weights), m)
    assert abs(float(weighted_margin(objective, weights)) - np.mean(m / (1 + np.exp(m)))) < 1e-15


def test_mean_slope_and_effective_radius_by_hand():
    objective = Objective(Network((1, 1)), Task([[1.0], [2.0]], [1.0, -1.0]), weight_decay=0.0)
    weights = (torch.tensor([[0.5]], dtype=torch.float64),)
    slopes = 1 / (1 + np.exp([0.5, -1.0]))
    assert abs(float(mean_slope(objective, weights)) - slopes.mean()) < 1e-15
    assert abs(float(effective_radius(objective, weights)) - slopes @ [1.0, 2.0] / slopes.sum()) < 1e-15


def test_mean_slope_against_autograd_and_effective_radius_between_least_and_largest(generator):
    objective = problem(*CASES[0], "relu", generator)
    weights = initialise(objective.network, members=2, scale=2.0, generator=generator)
    m = margins(objective, weights).requires_grad_()
    (slope,) = torch.autograd.grad(torch.nn.functional.softplus(-m).mean(-1).sum(), m)
    torch.testing.assert_close(mean_slope(objective, weights), -slope.sum(-1), rtol=1e-13, atol=0)
    lengths = objective.task.x.norm(dim=-1)
    found = effective_radius(objective, weights)
    assert (found > lengths.min()).all() and (found < lengths.max()).all()
    torch.testing.assert_close(found, (-slope * lengths).sum(-1) / -slope.sum(-1), rtol=1e-13, atol=0)


def test_effective_radius_survives_slopes_that_underflow():
    objective = Objective(Network((1, 1)), Task([[1.0], [2.0]], [1.0, 1.0]), weight_decay=0.0)
    weights = (torch.tensor([[2000.0]], dtype=torch.float64),)
    assert float(mean_slope(objective, weights)) == 0.0
    assert float(effective_radius(objective, weights)) == 1.0  # the shorter input has the smaller margin, and all the weight


@pytest.mark.parametrize("quantity", [mean_slope, effective_radius])
def test_slopes_are_of_the_logistic_loss_only(quantity, task):
    objective = Objective(Network((5, 1)), task, weight_decay=0.0, loss="squared")
    with pytest.raises(ValueError, match="loss: expected logistic, whose slope .* got squared"):
        quantity(objective, (torch.zeros(1, 5).double(),))


def test_accuracy_counts_and_calls_zero_wrong():
    network = Network((1, 1))
    weights = (torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64),)
    assert accuracy(network, weights, Task([[1.0], [2.0], [-1.0], [3.0]], [1.0, -1.0, -1.0, 1.0])).tolist() == [0.75, 0.0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight_decay": -0.1}, "weight_decay: expected numbers >= 0, got -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay: expected finite numbers"),
        ({"weight_decay": 0.1, "loss": "hinge"}, "loss: expected one of logistic, cross_entropy, squared, got 'hinge'"),
        ({"weight_decay": 0.1, "loss": "cross_entropy"}, "loss: cross_entropy expects a task of classes, got binary"),
    ],
)
def test_bad_objectives_are_named(options, message, task):
    with pytest.raises(ValueError, match=message):
        Objective(Network((5, 3, 1)), task, **options)


def test_misfits_of_network_and_task_are_named(task):
    with pytest.raises(ValueError, match="task: expected inputs of dimension 4"):
        Objective(Network((4, 1)), task, weight_decay=0.0)
    with pytest.raises(ValueError, match="network: expected 1 output"):
        Objective(Network((5, 2)), task, weight_decay=0.0)
    with pytest.raises(ValueError, match="y: expected classes from 0 to 1, got 0 to 2"):
        Objective(Network((1, 2)), Task([[1.0], [1.0]], [0, 2]), weight_decay=0.0, loss="cross_entropy")
    with pytest.raises(ValueError, match="task: margins need labels"):
        margins(Objective(Network((1, 2)), Task([[1.0]], [1]), weight_decay=0.0, loss="cross_entropy"), (torch.zeros(2, 1).double(),))
