import numpy as np
import pytest
import torch
from scipy.stats import entropy

from lowrank import (
    effective_rank,
    imbalance,
    initialise,
    layer_alignment,
    layer_norms,
    Network,
    neuron_gaps,
    norm_gaps,
    nuclear_norm,
    numerical_rank,
    singular_values,
    spectral_ratio,
    stable_rank,
    tail_norm,
)


@pytest.fixture
def stack(generator):
    return torch.randn(2, 3, 6, 4, generator=generator, dtype=torch.float64)


def test_each_quantity_against_numpy(stack):
    for i in range(2):
        for j in range(3):
            w = stack[i, j].numpy()
            sigma = np.linalg.svd(w, compute_uv=False)
            np.testing.assert_allclose(singular_values(stack)[i, j], sigma, rtol=1e-12)
            np.testing.assert_allclose(stable_rank(stack)[i, j], np.linalg.norm(w) ** 2 / np.linalg.norm(w, 2) ** 2, rtol=1e-12)
            np.testing.assert_allclose(nuclear_norm(stack)[i, j], np.linalg.norm(w, "nuc"), rtol=1e-12)
            np.testing.assert_allclose(effective_rank(stack)[i, j], np.exp(entropy(sigma)), rtol=1e-12)
            u, s, v = np.linalg.svd(w, full_matrices=False)
            best = (u[:, :2] * s[:2]) @ v[:2]
            np.testing.assert_allclose(tail_norm(stack, 2)[i, j], np.linalg.norm(w - best), rtol=1e-12)
            assert numerical_rank(stack, rtol=0.5)[i, j] == np.linalg.matrix_rank(w, tol=0.5 * sigma[0])


def test_ranks_of_matrices_that_are_known():
    ones = torch.ones(5, 7, dtype=torch.float64)
    identity = torch.eye(4, dtype=torch.float64)
    assert float(stable_rank(ones)) == pytest.approx(1, abs=1e-14)
    assert float(stable_rank(identity)) == pytest.approx(4, abs=1e-14)
    assert float(effective_rank(identity)) == pytest.approx(4, abs=1e-13)
    assert int(numerical_rank(ones, rtol=1e-10)) == 1 and int(numerical_rank(identity, rtol=1e-10)) == 4


def test_a_zero_matrix_has_no_stable_rank_and_says_nan():
    zero = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.isnan(stable_rank(zero)) and torch.isnan(effective_rank(zero))
    assert int(numerical_rank(zero, rtol=0.1)) == 0 and float(tail_norm(zero, 0)) == 0


def test_spectral_ratio_is_the_product_of_norm_ratios(generator):
    weights = initialise(Network((3, 4, 5, 2)), members=2, generator=generator)
    for e in range(2):
        product = np.prod([np.linalg.norm(w[e], 2) / np.linalg.norm(w[e]) for w in weights])
        assert abs(float(spectral_ratio(weights)[e]) - product) < 1e-14
    dead = (weights[0], torch.zeros_like(weights[1]), weights[2])
    assert torch.isnan(spectral_ratio(dead)).all()


def test_layer_quantities_by_hand(generator):
    weights = initialise(Network((3, 4, 2)), members=2, generator=generator)
    for e in range(2):
        a, b = (w[e].numpy() for w in weights)
        np.testing.assert_allclose(layer_norms(weights)[e], [np.linalg.norm(a), np.linalg.norm(b)], rtol=1e-14)
        np.testing.assert_allclose(norm_gaps(weights)[e], [np.linalg.norm(b) ** 2 - np.linalg.norm(a) ** 2], rtol=1e-12)
        np.testing.assert_allclose(imbalance(weights)[0][e], b.T @ b - a @ a.T, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(np.trace(imbalance(weights)[0][e]), norm_gaps(weights)[e, 0], rtol=1e-11)
        np.testing.assert_allclose(np.diag(imbalance(weights)[0][e]), neuron_gaps(weights)[0][e], rtol=1e-11, atol=1e-14)
        u = np.linalg.svd(a)[0][:, 0]
        v = np.linalg.svd(b)[2][0]
        np.testing.assert_allclose(layer_alignment(weights)[e], [abs(u @ v)], rtol=1e-11)


@pytest.mark.parametrize("value, message", [(torch.ones(3), "w: expected a matrix"), (torch.full((2, 2), torch.nan), "w: expected finite")])
def test_bad_matrices_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        stable_rank(value)
