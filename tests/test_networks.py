import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import Network, forward, initialise
from lowrank.networks import ACTIVATIONS, hidden_states

TORCH = {
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.1),
    "linear": lambda z: z,
    "relu2": lambda z: torch.relu(z) ** 2,
    "relu3": lambda z: torch.relu(z) ** 3,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_what_torch_computes(activation, generator):
    network = Network((3, 5, 4, 2), activation)
    weights = initialise(network, members=(2, 3), generator=generator)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    f = forward(network, weights, x)
    assert f.shape == (2, 3, 6, 2)
    for i in range(2):
        for j in range(3):
            a = x
            for k, w in enumerate(weights):
                a = torch.nn.functional.linear(a, w[i, j])
                a = TORCH[activation](a) if k < 2 else a
            np.testing.assert_allclose(f[i, j], a, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_is_what_autograd_computes(activation, generator):
    z = torch.randn(200, generator=generator, dtype=torch.float64, requires_grad=True)
    s = torch.randn(200, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(TORCH[activation](z), z, s)
    np.testing.assert_allclose(ACTIVATIONS[activation].backward(s, z.detach()), expected, rtol=1e-12, atol=1e-15)


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 10**6), activation=st.sampled_from(list(ACTIVATIONS)))
def test_degree_of_homogeneity(scale, seed, activation):
    network = Network((4, 6, 1), activation)
    z = torch.randn(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left = ACTIVATIONS[activation].value(scale * z)
    if network.degree is None:
        assert abs(scale - 1) < 0.5 or not torch.allclose(left, scale * ACTIVATIONS[activation].value(z), rtol=1e-6)
    else:
        right = scale**network.degree * ACTIVATIONS[activation].value(z)
        torch.testing.assert_close(left, right, rtol=1e-12, atol=0.0)


def test_initialise_has_the_variance_it_says(generator):
    network = Network((40, 50, 1))
    first, second = initialise(network, members=200, scale=3.0, generator=generator)
    assert first.shape == (200, 50, 40) and second.shape == (200, 1, 50)
    for w, fan_in in ((first, 40), (second, 50)):
        expected = 9.0 / fan_in
        assert abs(w.var() / expected - 1) < 5 * (2 / w.numel()) ** 0.5  # five standard errors of a variance


def test_members_axis_may_be_absent_or_an_int(generator):
    network = Network((3, 2, 1))
    assert initialise(network, generator=generator)[0].shape == (2, 3)
    assert initialise(network, members=4, generator=generator)[0].shape == (4, 2, 3)


def test_hidden_states_do_not_touch_inputs(generator):
    network = Network((3, 4, 1))
    weights = initialise(network, generator=generator)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    copies = [t.clone() for t in (*weights, x)]
    hidden_states(network, weights, x)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*weights, x)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Network((3,)), "widths: expected at least"),
        (lambda: Network((3, 0, 1)), "widths\\[1\\]: expected a whole number >= 1, got 0"),
        (lambda: Network((3, 2, 1), "swish"), "activation: expected one of relu, .* got 'swish'"),
    ],
)
def test_bad_networks_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_misfitting_weights_are_named(generator):
    network = Network((3, 4, 1))
    w1, w2 = initialise(network, members=2, generator=generator)
    x = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"W_2: expected \(2, 1, 4\), got \(2, 1, 5\); build weights with initialise"):
        forward(network, (w1, torch.zeros(2, 1, 5, dtype=torch.float64)), x)
    with pytest.raises(ValueError, match="W_2: expected .* got \\(1, 4\\)"):
        forward(network, (w1, w2[0]), x)
    with pytest.raises(TypeError, match="W_1: expected a float64 tensor, got torch.float32"):
        forward(network, (w1.float(), w2), x)
    with pytest.raises(ValueError, match="weights: expected a tuple of 2 tensors, got 1"):
        forward(network, (w1,), x)
    with pytest.raises(ValueError, match=r"x: expected \(\*E, n, 3\), got \(1, 2\)"):
        forward(network, (w1, w2), torch.zeros(1, 2))
