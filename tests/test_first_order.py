"""The first-order difference of descent and flow against closed forms and against descent itself."""

import pytest
import torch
from lowrank import Network, Objective, Task, first_order_departure, gradient_descent, gradient_flow, initialise, teacher


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("time", [0.3, 2.0])
def test_one_weight_is_solved_by_hand(time):
    # L_λ = ½(w − y)² + (λ/2)w² has curvature a = 1 + λ: (1 − ηa)^{t/η} = e^{−at}(1 − ηa²t/2) + O(η²)
    decay = torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64)
    objective = Objective(Network((1, 1), "linear"), Task([[1.0]], [[2.0]]), weight_decay=decay, loss="squared")
    start = (torch.full((3, 1, 1), -1.0, dtype=torch.float64),)
    (found,) = first_order_departure(objective, start, time=time, rtol=1e-9)
    a, rest = 1 + decay, 2 / (1 + decay)
    expected = -(a**2) * time / 2 * torch.exp(-a * time) * (-1 - rest)
    torch.testing.assert_close(found[:, 0, 0], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("activation", "loss"), [("tanh", "logistic"), ("gelu", "logistic"), ("linear", "squared"), ("relu3", "logistic")])
def test_descent_is_that_far_from_the_flow(activation, loss):
    task = teacher(9, 4, generator=generator())
    network = Network((4, 3, 1), activation)
    objective = Objective(network, task, weight_decay=0.05, loss=loss)
    start = tuple(w.reshape(2, 2, *w.shape[1:]) for w in initialise(network, members=4, generator=generator(1)))
    end = gradient_flow(objective, start, time=4.0, rtol=1e-10).weights
    v = first_order_departure(objective, start, time=4.0)
    misses = []
    for steps in (400, 800):
        descent = gradient_descent(objective, start, step_size=4.0 / steps, steps=steps).weights
        rate = [(d - f) * steps / 4.0 for d, f in zip(descent, end)]
        misses.append(max(float((r - w).abs().max()) for r, w in zip(rate, v)))
        assert max(float(r.abs().max()) for r in rate) > 20 * misses[-1]
    assert misses[1] == pytest.approx(misses[0] / 2, rel=0.05)  # what is left is of the next order


def test_members_do_not_see_one_another():
    objective = Objective(Network((4, 3, 1), "tanh"), teacher(9, 4, generator=generator()), weight_decay=0.05)
    start = initialise(objective.network, members=3, generator=generator(1))
    together = first_order_departure(objective, start, time=2.0, rtol=1e-9)
    for member in range(3):
        alone = first_order_departure(objective, tuple(w[member] for w in start), time=2.0, rtol=1e-9)
        for a, b in zip(together, alone):
            torch.testing.assert_close(a[member], b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_kinks_are_refused(activation):
    network = Network((4, 3, 1), activation)
    objective = Objective(network, teacher(9, 4, generator=generator()), weight_decay=0.05)
    with pytest.raises(ValueError, match="objective: expected an activation without a kink, got " + activation):
        first_order_departure(objective, initialise(network, members=1, generator=generator()), time=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"time": 0.0}, "time: expected"), ({"time": float("nan")}, "time: expected"), ({"time": 1.0, "rtol": 0.0}, "rtol: expected")],
)
def test_bad_numbers_are_named(options, message):
    objective = Objective(Network((4, 3, 1), "tanh"), teacher(9, 4, generator=generator()), weight_decay=0.05)
    with pytest.raises(ValueError, match=message):
        first_order_departure(objective, initialise(objective.network, members=1, generator=generator()), **options)


def test_weights_of_another_network_are_refused():
    objective = Objective(Network((4, 3, 1), "tanh"), teacher(9, 4, generator=generator()), weight_decay=0.05)
    with pytest.raises((TypeError, ValueError), match="W_|weights"):
        first_order_departure(objective, (torch.ones(3, 4), torch.ones(2, 3)), time=1.0)
