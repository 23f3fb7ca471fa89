"""The conditions at kinks against automatic differentiation of what they are the gradient of."""

import numpy as np
import pytest
import torch

from lowrank import Network, Objective, Task, initialise, kinks, loss_gradients
from lowrank.networks import ACTIVATIONS
from lowrank.objective import LOSSES

TARGETS = {
    "logistic": lambda g, n, c: np.sign(g.standard_normal(n)),
    "squared": lambda g, n, c: g.standard_normal((n, c)),
    "cross_entropy": lambda g, n, c: g.integers(0, c, n),
}


def problem(depth, activation, loss="logistic", seed=0):
    generator = np.random.default_rng(seed)
    outputs = 1 if loss == "logistic" else 2
    network = Network((2, *[3] * (depth - 1), outputs), activation)
    y = TARGETS[loss](generator, 5, outputs)
    if loss == "logistic":
        y[0] = -1.0
    objective = Objective(network, Task(generator.standard_normal((5, 2)), y), weight_decay=0.1, loss=loss)
    return objective, initialise(network, generator=torch.Generator().manual_seed(seed))


def random_piece(objective, weights, seed=0):
    generator = torch.Generator().manual_seed(seed)
    piece = kinks.piece_at(objective, weights, -1.0)
    masks = tuple(torch.rand(m.shape, generator=generator) < 0.3 for m in piece.kinks)
    slopes = tuple(s.masked_fill(m, 0.0) for s, m in zip(piece.slopes, masks))
    multipliers = tuple(torch.randn(m.shape, generator=generator).double() * m for m in masks)
    return kinks.Piece(weights, masks, slopes, multipliers)


@pytest.mark.parametrize("loss", list(TARGETS))
@pytest.mark.parametrize("depth, activation", [(2, "relu"), (3, "leaky_relu"), (4, "relu")])
def test_the_conditions_are_the_gradient_of_the_lagrangian(depth, activation, loss):
    objective, weights = problem(depth, activation, loss)
    piece = random_piece(objective, weights)

    def lagrangian(unknowns):
        """L_λ + Σ μ_a z_a on the piece; its derivative by μ_a is z_a."""
        here, h, total = piece.at(unknowns), objective.task.x.mT, 0.0
        for w, slope, multiplier in zip(here.weights, piece.slopes, here.multipliers):
            z = w @ h
            total, h = total + (multiplier * z).sum(), slope * z
        output = (here.weights[-1] @ h).mT
        squares = sum(w.square().sum() for w in here.weights)
        return total + LOSSES[loss].value(output, objective.targets).mean() + 0.05 * squares

    tracked = piece.unknowns.clone().requires_grad_()
    (expected,) = torch.autograd.grad(lagrangian(tracked), tracked)
    found = kinks.conditions(objective, piece)(piece.unknowns)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12, atol=1e-14)
    assert len(found) == sum(w.numel() for w in weights) + len(piece.listed())


@pytest.mark.parametrize("depth, activation", [(1, "relu"), (2, "relu"), (3, "leaky_relu"), (3, "linear")])
def test_without_kinks_the_forces_are_the_gradient(depth, activation):
    objective, weights = problem(depth, activation)
    piece = kinks.piece_at(objective, weights, 0.0)
    expected = torch.cat([(g + 0.1 * w).flatten() for g, w in zip(loss_gradients(objective, weights), weights)])
    np.testing.assert_allclose(kinks.conditions(objective, piece)(piece.unknowns).numpy(), expected.numpy(), rtol=1e-12, atol=1e-15)


def test_what_counts_as_a_kink_and_where_it_is_listed():
    objective = Objective(Network((2, 2, 1)), Task([[1.0, 0.0], [1.0, 1.0]], [1.0, -1.0]), weight_decay=0.1)
    weights = (torch.tensor([[1.0, -1.0], [-0.5, 1.0]]).double(), torch.ones(1, 2).double())
    piece = kinks.piece_at(objective, weights, 0.5)  # z = [[1, 0], [−0.5, 0.5]]
    assert piece.listed().tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert piece.slopes[0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    again = piece.at(torch.arange(9.0).double())
    assert again.multipliers[0].tolist() == [[0.0, 6.0], [7.0, 8.0]] and again.weights[1].tolist() == [[4.0, 5.0]]
    assert torch.equal(again.unknowns, torch.arange(9.0).double())


@pytest.mark.parametrize("depth", [2, 3])
def test_gates_are_the_slopes_that_give_the_multipliers(depth):
    objective, weights = problem(depth, "relu", seed=1)
    piece = random_piece(objective, weights, seed=1)
    gates = kinks.gates(objective, piece)
    # back-propagation with those slopes put in at the kinks, the forward pass unchanged
    z, h = [], [objective.task.x.mT]
    for w, slope in zip(weights[:-1], piece.slopes):
        z.append(w @ h[-1])
        h.append(slope * z[-1])
    signal = LOSSES["logistic"].slope((weights[-1] @ h[-1]).mT, objective.targets).mT / 5
    for k in range(depth - 2, -1, -1):
        arriving = weights[k + 1].mT @ signal
        slope = torch.where(piece.kinks[k], gates[k], piece.slopes[k])
        signal = slope * arriving
        np.testing.assert_allclose(signal[piece.kinks[k]].numpy(), piece.multipliers[k][piece.kinks[k]].numpy(), rtol=1e-11)


def test_where_nothing_arrives_the_lower_slope_is_named():
    for activation, low in (("relu", 0.0), ("leaky_relu", 0.1)):
        objective, weights = problem(2, activation)
        weights = (weights[0], torch.zeros_like(weights[1]))
        assert all((g == low).all() for g in kinks.gates(objective, kinks.piece_at(objective, weights, 1e9)))


@pytest.mark.parametrize("depth", [2, 3])
def test_multipliers_of_given_gates_give_them_back(depth):
    objective, weights = problem(depth, "relu", seed=2)
    piece = random_piece(objective, weights, seed=2)
    generator = torch.Generator().manual_seed(0)
    slopes = tuple(torch.rand(k.shape, generator=generator, dtype=torch.float64) for k in piece.kinks)
    held = kinks.with_gates(objective, piece, slopes, kinks.states(objective, piece)[0][-1])
    for k, given, found, m in zip(piece.kinks, slopes, kinks.gates(objective, held), held.multipliers):
        np.testing.assert_allclose(found[k], given[k], rtol=1e-12)
        assert not bool(m[~k].any())


def test_slopes_by_activation():
    for activation, expected in (("relu", (0.0, 1.0)), ("leaky_relu", (0.1, 1.0)), ("linear", (1.0, 1.0))):
        assert kinks.slope_range(problem(2, activation)[0]) == expected
        z = torch.tensor([-1e-3, 1e-3]).double()
        slope = (ACTIVATIONS[activation].value(z) / z).tolist()
        assert slope == pytest.approx(expected)
