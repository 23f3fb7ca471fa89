from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import Network, forward, initialise
from lowrank.neuron_matching import (
    balance_readout,
    centre_readout,
    match_neurons,
    neuron_matching,
    permute_neurons,
    random_permutations,
)


def likeness(reference, weights):
    return sum((a * b).sum() for a, b in zip(reference, weights))


@given(seed=st.integers(0, 10**6), depth=st.integers(2, 4), activation=st.sampled_from(["relu", "linear", "tanh"]))
def test_permutations_keep_the_function(seed, depth, activation):
    generator = torch.Generator().manual_seed(seed)
    network = Network((3, *[5] * (depth - 1), 2), activation)
    weights = initialise(network, members=(2,), generator=generator)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    permuted = permute_neurons(weights, random_permutations(weights, generator=generator))
    assert not torch.equal(permuted[0], weights[0])
    torch.testing.assert_close(forward(network, permuted, x), forward(network, weights, x), rtol=1e-12, atol=1e-14)


def test_a_permutation_moves_rows_and_columns_as_matrices_do(generator):
    weights = initialise(Network((3, 4, 2)), generator=generator)
    order = torch.tensor([2, 0, 3, 1])
    matrix = torch.eye(4, dtype=torch.float64)[order]
    first, second = permute_neurons(weights, [order])
    assert torch.equal(first, matrix @ weights[0]) and torch.equal(second, weights[1] @ matrix.mT)


@given(seed=st.integers(0, 10**6))
def test_one_hidden_layer_is_matched_as_well_as_by_trying_all(seed):
    generator = torch.Generator().manual_seed(seed)
    reference, weights = (initialise(Network((3, 5, 1)), generator=generator) for _ in range(2))
    best = max(likeness(reference, permute_neurons(weights, [torch.tensor(order)])) for order in permutations(range(5)))
    torch.testing.assert_close(likeness(reference, match_neurons(reference, weights)), best, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 10**6))
def test_two_hidden_layers_end_where_no_single_layer_can_be_bettered(seed):
    generator = torch.Generator().manual_seed(seed)
    reference, weights = (initialise(Network((3, 4, 4, 1)), generator=generator) for _ in range(2))
    first, second = neuron_matching(reference, weights)
    reached = likeness(reference, permute_neurons(weights, (first, second)))
    others = [torch.tensor(order) for order in permutations(range(4))]
    for pair in [*((order, second) for order in others), *((first, order) for order in others)]:
        assert likeness(reference, permute_neurons(weights, pair)) <= reached + 1e-12
    assert reached >= likeness(reference, weights) - 1e-12


def test_a_shuffled_copy_is_put_back_in_order(generator):
    weights = initialise(Network((30, 9, 8, 1)), members=(3,), generator=generator)
    shuffled = permute_neurons(weights, random_permutations(weights, generator=generator))
    for found, expected in zip(match_neurons(weights, shuffled), weights):
        assert torch.equal(found, expected)


def test_members_are_matched_alone(generator):
    reference, weights = (initialise(Network((3, 6, 1)), members=(4,), generator=generator) for _ in range(2))
    together = neuron_matching(reference, weights)
    alone = neuron_matching(tuple(w[2] for w in reference), tuple(w[2] for w in weights))
    assert torch.equal(together[0][2], alone[0])


def test_orthogonal_first_layers_leave_sorting_of_the_read_outs(generator):
    ours, others = (torch.randn(1, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    blank = torch.zeros(7, 2, dtype=torch.float64)
    matched = match_neurons((blank, ours), (blank, others))[1]
    np.testing.assert_array_equal(matched[0, ours[0].argsort()], np.sort(others[0]))


@given(seed=st.integers(0, 10**6), values=st.integers(1, 3), tasks=st.integers(2, 5))
def test_tied_read_outs_are_put_in_one_order(seed, values, tasks):
    """|f_sum − T f| ≤ ‖h‖ Σ‖a_t − a_i‖, sorted read-outs, with read-outs of few values: −1, 0 and 1 at most."""
    generator = torch.Generator().manual_seed(seed)
    width, dimension = 6, 2
    models = []
    for t in range(tasks):
        first = torch.zeros(width, tasks * dimension, dtype=torch.float64)
        first[:, t * dimension : (t + 1) * dimension] = torch.randn(width, dimension, generator=generator, dtype=torch.float64)
        readout = torch.randint(values, (1, width), generator=generator).double() - values // 2
        models.append((first, readout))
    network = Network((tasks * dimension, width, 1))
    ordered = [match_neurons(models[0], model) for model in models]
    x = torch.eye(tasks * dimension, dtype=torch.float64)
    summed = forward(network, tuple(sum(layer) for layer in zip(*ordered)), x)[:, 0].unflatten(0, (tasks, -1))
    for i, (own, at) in enumerate(zip(ordered, x.unflatten(0, (tasks, -1)))):
        moved = (summed[i] - tasks * forward(network, own, at)[:, 0]).abs()
        length = torch.linalg.vector_norm((own[0] @ at.mT).clamp_min(0.0), dim=0)
        apart = sum(np.linalg.norm(np.sort(readout[0]) - np.sort(own[1][0])) for _, readout in ordered)
        assert bool((moved <= length * apart + 1e-12).all())


@given(seed=st.integers(0, 10**6), activation=st.sampled_from(["relu", "linear", "leaky_relu"]))
def test_a_balanced_read_out_sums_to_zero_and_keeps_the_function(seed, activation):
    generator = torch.Generator().manual_seed(seed)
    network = Network((3, 12, 12, 1), activation)
    weights = initialise(network, members=(2,), generator=generator)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    balanced = balance_readout(weights)
    np.testing.assert_allclose(balanced[-1].sum(-1), 0.0, atol=1e-13)
    torch.testing.assert_close(forward(network, balanced, x), forward(network, weights, x), rtol=1e-11, atol=1e-13)


def test_centring_takes_the_mean_off_and_nothing_else(generator):
    weights = initialise(Network((3, 4, 1)), members=(2,), generator=generator)
    first, last = centre_readout(weights)
    assert torch.equal(first, weights[0])
    np.testing.assert_allclose(last, weights[1].numpy() - weights[1].numpy().mean(-1, keepdims=True), atol=1e-15)


def test_inputs_are_not_touched(generator):
    reference, weights = (initialise(Network((3, 4, 1)), generator=generator) for _ in range(2))
    copies = [w.clone() for w in (*reference, *weights)]
    match_neurons(reference, weights), balance_readout(weights), centre_readout(weights)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*reference, *weights)))


def test_misuse_is_named(generator):
    weights = initialise(Network((3, 4, 1)), generator=generator)
    wider = initialise(Network((3, 5, 1)), generator=generator)
    with pytest.raises(ValueError, match="permutations: expected 1, one for each hidden layer, got 0"):
        permute_neurons(weights, [])
    with pytest.raises(ValueError, match=r"permutations\[0\]: expected the numbers 0 to 3"):
        permute_neurons(weights, [torch.tensor([0, 0, 1, 2])])
    with pytest.raises(ValueError, match="weights: expected the shapes of reference"):
        match_neurons(weights, wider)
    with pytest.raises(ValueError, match="read-out with entries of both signs"):
        balance_readout((weights[0], weights[1].abs()))
    with pytest.raises(ValueError, match="one output"):
        centre_readout(initialise(Network((3, 4, 2)), generator=generator))
    with pytest.raises(ValueError, match=r"weights\[1\]: expected \(…, 4\)"):
        balance_readout((weights[0], wider[1]))
    with pytest.raises(TypeError, match="generator: expected a torch.Generator"):
        random_permutations(weights, generator=None)
