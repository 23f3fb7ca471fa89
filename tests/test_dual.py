"""Time-averaged gates against a loop written with NumPy, and the identity that they are made for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import Network, Objective, Task, dual_coefficients, exact, gate_means, gradient_descent, gradient_flow, initialise, teacher

ETA, DECAY, STEPS = 0.7, 0.03, 25


def runs(drawn, *, frozen=(), members=2, scale=2.0, **options):
    task = teacher(6, 3, generator=drawn)
    network = Network((3, 5, 1))
    weights = initialise(network, members=members, scale=scale, generator=drawn)
    options = {"save_every": 1, **options}
    return gradient_descent(Objective(network, task, weight_decay=DECAY), weights, step_size=ETA, steps=STEPS, frozen=frozen, **options)


@pytest.mark.parametrize("frozen", [(), (2,)])
def test_means_are_the_sums_that_they_are_said_to_be(frozen, generator):
    run = runs(generator, frozen=frozen)
    x, y = run.objective.task.x.numpy(), run.objective.task.y.numpy()
    found_gates, found = gate_means(run), dual_coefficients(run)
    for member in range(2):
        w, u = (layer[0, member].numpy().copy() for layer in run.saved)
        visited = []
        for _ in range(STEPS):
            z = w @ x.T
            p = 1 / (1 + np.exp(y * (u @ np.maximum(z, 0))[0]))
            visited.append((p * (z > 0), p * (z > 0) * u.T))
            gradients = -((y * visited[-1][1]) @ x) / len(y), -(y * p * np.maximum(z, 0)).mean(1)[None]
            w = (1 - ETA * DECAY) * w - ETA * gradients[0]
            u = u if frozen else (1 - ETA * DECAY) * u - ETA * gradients[1]
        for t in (0, 1, 7, STEPS):
            ages = ETA * DECAY * (1 - ETA * DECAY) ** (t - 1.0 - np.arange(t))
            sums = [sum((age * pair[i] for age, pair in zip(ages, visited)), np.zeros((5, 6))) for i in (0, 1)]
            np.testing.assert_allclose(found_gates[t, member], sums[0], atol=1e-14)
            np.testing.assert_allclose(found[t, member], sums[1], atol=1e-14)
        np.testing.assert_allclose(run.weights[0][member], w, atol=1e-13)


@given(st.integers(0, 10**6), st.booleans(), st.floats(0.1, 8.0))
def test_the_first_layer_is_its_start_and_inputs_weighed_by_the_means(seed, trains_read_out, scale):
    generator = torch.Generator().manual_seed(seed)
    run = runs(generator, frozen=() if trains_read_out else (2,), scale=scale)
    alpha, task = dual_coefficients(run), run.objective.task
    for t in (0, 3, STEPS):
        rebuilt = exact.first_layer(run.saved[0][0], alpha[t], task.x, task.y, (1 - ETA * DECAY) ** t, DECAY)
        np.testing.assert_allclose(rebuilt, run.saved[0][t], atol=1e-12)
    if not trains_read_out:
        torch.testing.assert_close(alpha, run.weights[1].mT * gate_means(run), rtol=1e-12, atol=1e-15)


@given(st.integers(0, 10**6))
def test_gates_lie_between_zero_and_what_is_not_forgotten(seed):
    gates = gate_means(runs(torch.Generator().manual_seed(seed)))
    assert (gates >= 0).all()
    assert (gates.amax((1, 2, 3)) <= 1 - (1 - ETA * DECAY) ** torch.arange(STEPS + 1) + 1e-15).all()


def test_members_and_rates_of_their_own(generator):
    data = [teacher(6, 3, generator=generator) for _ in range(2)]
    task = Task(torch.stack([t.x for t in data])[:, None], torch.stack([t.y for t in data])[:, None])
    network = Network((3, 5, 1))
    weights = initialise(network, members=(2, 3), generator=generator)
    decays, sizes = torch.tensor([[0.02], [0.1]], dtype=torch.float64), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    stack = gate_means(gradient_descent(Objective(network, task, weight_decay=decays), weights, step_size=sizes, steps=9, save_every=1))
    for i in range(2):
        for j in range(3):
            alone = gradient_descent(
                Objective(network, data[i], weight_decay=decays[i, 0]), tuple(w[i, j] for w in weights), step_size=sizes[j], steps=9, save_every=1
            )
            torch.testing.assert_close(stack[:, i, j], gate_means(alone), rtol=1e-12, atol=1e-15)


def test_runs_that_the_formula_is_not_about_are_named(generator):
    with pytest.raises(ValueError, match="expected weights at all 25 steps, got 6 times; train with save_every=1"):
        gate_means(runs(generator, save_every=5))
    with pytest.raises(ValueError, match="solution: expected plain gradient descent"):
        gate_means(runs(generator, momentum=0.5))
    with pytest.raises(ValueError, match="solution: expected plain gradient descent"):
        gate_means(runs(generator, batch_size=6, generator=generator))
    objective, weights = runs(generator).objective, runs(generator).weights
    with pytest.raises(ValueError, match="solution: expected plain gradient descent"):
        dual_coefficients(gradient_flow(objective, weights, time=0.1, rtol=1e-3))
    deep = Network((3, 4, 4, 1))
    other = Objective(deep, objective.task, weight_decay=0.1)
    with pytest.raises(ValueError, match="solution: expected two layers, relu and the logistic loss, got Network"):
        gate_means(gradient_descent(other, initialise(deep, generator=generator), step_size=0.1, steps=2, save_every=1))
    free = Objective(objective.network, objective.task, weight_decay=0.0)
    with pytest.raises(ValueError, match="solution: expected weight_decay > 0"):
        gate_means(gradient_descent(free, weights, step_size=0.1, steps=2, save_every=1))
    with pytest.raises(TypeError, match="solution: expected a Solution, got tuple"):
        gate_means(weights)
    with pytest.raises(ValueError, match="weight_decay: expected numbers > 0"):
        exact.first_layer(weights[0], weights[0], objective.task.x, objective.task.y, 1.0, 0.0)
