"""Where gradient descent comes to rest on orthonormal inputs, against a root finder, descent itself and wide networks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import ndtri

from lowrank import Network, Objective, Task, exact, forward, gate_means, gradient_descent, initialise, random_rotation


@given(st.floats(0.0, 1e12))
def test_resting_margin_is_the_root_of_its_equation(worth):
    expected = brentq(lambda z: z * (1 + np.exp(z)) - worth, 0.0, 40.0, xtol=1e-15, rtol=1e-14) if worth else 0.0
    assert float(exact.resting_margin(worth)) == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_resting_margin_of_small_and_large_worth():
    np.testing.assert_allclose(exact.resting_margin([0.0, 1e-8, 1 + np.e]), [0.0, 0.5e-8, 1.0], rtol=1e-8)
    with pytest.raises(ValueError, match="worth: expected"):
        exact.resting_margin([-1.0])


@pytest.mark.parametrize("seed, n, decay", [(0, 2, 0.01), (1, 3, 0.2), (2, 5, 0.05), (3, 4, 0.02)])
def test_descent_on_orthonormal_inputs_comes_to_rest_at_the_resting_gates(seed, n, decay):
    generator = torch.Generator().manual_seed(seed)
    network, x = Network((6, 10, 1)), random_rotation(6, generator=generator)[:n]
    y = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0).double()
    start = initialise(network, generator=generator)[0]
    u = torch.where(torch.arange(10) % 2 == 0, 0.3, -0.3).double()  # none so small that its gates close late
    objective = Objective(network, Task(x, y), weight_decay=decay)
    # Longer, and what has closed shrinks to the size of rounding, which opens it again.
    run = gradient_descent(objective, (start, u[None]), step_size=0.05 / decay, steps=450, save_every=1, frozen=(2,))
    gates = torch.as_tensor(exact.resting_gates(start @ x.mT, u, y, decay))
    # Gates that close within the first 80 steps leave less than 0.95^370 < 6e-9; times 1/λ in the weights.
    np.testing.assert_allclose(gates, gate_means(run)[-1], atol=1e-8)
    rebuilt = exact.first_layer(start, u[:, None] * gates, x, y, 0.0, decay)
    np.testing.assert_allclose(rebuilt, run.weights[0], atol=1e-8 / decay)


def test_resting_gates_of_an_input_that_no_neuron_keeps():
    gates = exact.resting_gates([[-1.0, 1.0]], [1.0], [1.0, -1.0], 0.1)  # closed; open, and on the wrong side
    np.testing.assert_array_equal(gates, [[0.0, 0.0]])
    with pytest.raises(ValueError, match="weight_decay: expected numbers > 0"):
        exact.resting_gates([[1.0]], [1.0], [1.0], 0.0)


@pytest.mark.parametrize("n, decay, kept", [(10, 0.02, 0.25), (40, 0.005, 0.25), (10, 0.02, 0.4)])
def test_wide_networks_give_up_labels_at_the_adversarial_coherence(n, decay, kept):
    # In a wide network all sums over neurons are near their means, and the mean field is exact.
    width, rng, open_from = 20_000, np.random.default_rng(0), ndtri(1 - 2 * kept)  # so that a share 2κ of all gates is open
    u = np.where(np.arange(width) % 2, -1.0, 1.0) / width**0.5
    y = np.where(np.arange(n) % 2, -1.0, 1.0)
    network = Network((2 * n, width, 1))
    x = np.eye(2 * n)
    w = sum(
        exact.first_layer(np.zeros((width, 2 * n)), u[:, None] * exact.resting_gates(rng.standard_normal((width, n)) - open_from, u, y, decay), own, y, 0.0, decay)
        for own in (x[:n], x[n:])
    )

    def margin(epsilon):
        point = (1 - n * epsilon**2) ** 0.5 * x[0] - epsilon * y[0] * (y @ x[n:])
        return y[0] * float(forward(network, (torch.tensor(w), torch.tensor(u)[None]), torch.tensor(point)[None])[0, 0])

    found = brentq(margin, 1e-6, 0.9 / n**0.5)
    assert float(exact.adversarial_coherence(n, kept=kept)) == pytest.approx(found, rel=0.05)  # sums over neurons: 1/√5000 for a quarter


def test_adversarial_coherence_with_unequal_slopes():
    n, epsilon = 9, float(exact.adversarial_coherence(9, 0.5))
    assert (1 - n * epsilon**2) ** 0.5 * 0.5 / 4 == pytest.approx(epsilon * n * (1 / 4 + 1 / 2) / 4, rel=1e-12)
