"""Sums of deep linear networks: against direct products, brute-force averages over groups, and simulation."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import Network, exact, forward, initialise, merge, random_rotation, rotate_hidden


def rank_one_network(rng, widths, members=()):
    directions = [rng.standard_normal((*members, m)) for m in widths]
    directions = [u / np.linalg.norm(u, axis=-1, keepdims=True) for u in directions]
    strength = rng.uniform(0.5, 2.0)
    return tuple(strength * u[..., :, None] * v[..., None, :] for v, u in zip(directions, directions[1:])), directions, strength


@pytest.mark.parametrize("widths", [(5, 4, 1), (5, 4, 3, 1), (3, 6, 2, 4, 2)])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_transfer_gives_the_sum_of_rank_one_networks(widths, count):
    rng = np.random.default_rng(len(widths) + 10 * count)
    networks = [rank_one_network(rng, widths, (3,))[0] for _ in range(count)]
    x = rng.standard_normal((7, widths[0]))
    state = x.T
    for layers in zip(*networks):
        state = sum(layers) @ state
    np.testing.assert_allclose(exact.merged_deep_linear(networks, x), np.swapaxes(state, -1, -2), atol=1e-12)


def test_two_equal_tasks_are_inflated_by_their_overlaps():
    rng = np.random.default_rng(0)
    (_, u, strength), (_, v, _) = (rank_one_network(rng, (6, 5, 4, 1)) for _ in range(2))
    v[0] -= (v[0] @ u[0]) * u[0]  # what the second looks at is orthogonal to the input of the first
    u[3] = v[3] = np.ones(1)
    first, second = (tuple(strength * a[:, None] * b for b, a in zip(w, w[1:])) for w in (u, v))
    merged = exact.merged_deep_linear([first, second], u[0][None]).item()
    # strength³ is what the first says; the last layer adds both networks' hidden directions
    assert merged == pytest.approx(strength**3 * (1 + u[1] @ v[1]) * (1 + u[2] @ v[2]), rel=1e-12)


def test_transfer_names_bad_arguments():
    rng = np.random.default_rng(1)
    first, second = rank_one_network(rng, (3, 2, 1))[0], rank_one_network(rng, (3, 4, 1))[0]
    with pytest.raises(ValueError, match="solutions: expected one or more networks of one shape, got 2"):
        exact.merged_deep_linear([first, second], np.ones((1, 3)))
    with pytest.raises(ValueError, match="solutions: .* got 0"):
        exact.merged_deep_linear([], np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"x: expected \(n, 3\), got \(1, 2\)"):
        exact.merged_deep_linear([first], np.ones((1, 2)))


@pytest.mark.parametrize("widths", [(5, 1), (5, 4, 1), (3, 6, 2, 1)])
def test_directions_rebuild_a_network_of_rank_one_layers(widths):
    rng = np.random.default_rng(len(widths))
    layers, u, strength = rank_one_network(rng, widths, (3,))
    found = exact.hidden_directions(tuple(torch.tensor(w) for w in layers))
    assert [f.shape for f in found] == [(3, m) for m in widths[:-1]]
    ends = [*found, np.ones((3, 1))]
    for w, v, u in zip(layers, ends, ends[1:]):
        np.testing.assert_allclose(w, strength * u[..., :, None] * v[..., None, :], atol=1e-14)


def test_directions_name_what_they_cannot_read():
    with pytest.raises(ValueError, match="weights: expected one output, got 2"):
        exact.hidden_directions((np.ones((3, 2)), np.ones((2, 3))))
    with pytest.raises(ValueError, match="networks that are not zero"):
        exact.hidden_directions((np.ones((3, 2)), np.zeros((1, 3))))


@pytest.mark.parametrize("count, depth", [(2, 2), (2, 4), (3, 3), (5, 2)])
def test_ratios_are_those_of_the_sum(count, depth):
    rng = np.random.default_rng(10 * count + depth)
    widths = (count + 2, *[6] * (depth - 1), 1)
    inputs = np.linalg.qr(rng.standard_normal((widths[0], count)))[0].T  # one direction a task, orthogonal
    networks, directions = [], []
    for t in range(count):
        u = [inputs[t], *(rng.standard_normal(6) for _ in range(depth - 1)), np.ones(1)]
        u = [v / np.linalg.norm(v) for v in u]
        networks.append(tuple(0.7 * a[:, None] * b for b, a in zip(u, u[1:])))
        directions.append(u[1:-1])
    stacked = np.swapaxes(np.array(directions), 0, 1)  # (K-1, T, m)
    ratios = exact.merged_ratios(stacked @ np.swapaxes(stacked, -1, -2))
    merged = merge([tuple(torch.tensor(w) for w in network) for network in networks])
    outputs = forward(Network(widths, "linear"), merged, torch.tensor(inputs))[:, 0]
    np.testing.assert_allclose(outputs.numpy(), 0.7**depth * ratios, atol=1e-13)
    with pytest.raises(ValueError, match=r"overlaps: expected \(\*E, K-1, T, T\)"):
        exact.merged_ratios(np.ones((2, 3)))


GROUPS = {m: exact.signed_shifts(m) for m in (1, 2, 4, 8)}


@pytest.mark.parametrize("m", GROUPS)
def test_signed_shifts_are_a_group_with_the_moments_of_uniform_rotations(m):
    group = GROUPS[m]
    assert group.shape == (2 * m * m, m, m)
    np.testing.assert_array_equal(group @ np.swapaxes(group, 1, 2), np.broadcast_to(np.eye(m), group.shape))
    np.testing.assert_array_equal(group.sum(0), np.zeros((m, m)))
    second = np.einsum("gij,gkl->ijkl", group, group) / len(group)
    np.testing.assert_array_equal(second, np.einsum("ik,jl->ijkl", np.eye(m), np.eye(m)) / m)
    members = {o.tobytes() for o in group + 0.0}
    assert len(members) == len(group) and {(a @ b + 0.0).tobytes() for a in group for b in group} == members


@pytest.mark.parametrize("width", [0, 3, 6, 2.0, True])
def test_signed_shifts_need_a_power_of_two(width):
    with pytest.raises(ValueError, match="width: expected a power of 2"):
        exact.signed_shifts(width)


@pytest.mark.parametrize("widths, count", [((3, 4, 1), 2), ((3, 2, 4, 1), 2), ((2, 2, 2, 2, 1), 2), ((3, 2, 1), 3), ((3, 4, 2), 2), ((2, 1, 2, 1), 3)])
def test_second_moment_is_the_average_over_the_group(widths, count):
    generator = torch.Generator().manual_seed(sum(widths) + count)
    network = Network(widths, "linear")
    networks = [initialise(network, generator=generator) for _ in range(count)]
    x = torch.randn(5, widths[0], generator=generator, dtype=torch.float64)
    squares, outputs = [], []
    for choice in itertools.product(*[GROUPS[m] for m in widths[1:-1]] * (count - 1)):
        split = [choice[i : i + len(widths) - 2] for i in range(0, len(choice), len(widths) - 2)]
        turned = [rotate_hidden(w, o) for w, o in zip(networks[1:], split)]
        outputs.append(forward(network, merge([networks[0], *turned]), x))
        squares.append(outputs[-1] ** 2)
    np.testing.assert_allclose(torch.stack(outputs).mean(0), sum(forward(network, w, x) for w in networks), atol=1e-13)
    np.testing.assert_allclose(torch.stack(squares).mean(0), exact.merged_second_moment(networks, x), atol=1e-12)


def test_second_moment_takes_members():
    generator = torch.Generator().manual_seed(5)
    network = Network((3, 4, 5, 2), "linear")
    networks = [initialise(network, members=(2, 3), generator=generator) for _ in range(3)]
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    together = exact.merged_second_moment(networks, x)
    assert together.shape == (2, 3, 6, 2)
    alone = exact.merged_second_moment([tuple(w[1, 2] for w in one) for one in networks], x)
    np.testing.assert_allclose(together[1, 2], alone, rtol=1e-13)


@given(st.integers(2, 5), st.integers(1, 40), st.integers(1, 6), st.integers(0, 100))
def test_variance_is_the_second_moment_of_equal_rank_one_networks(depth, width, count, seed):
    rng = np.random.default_rng(seed)
    inputs = np.linalg.qr(rng.standard_normal((count + 1, count)))[0].T
    networks = []
    for t in range(count):
        u = [inputs[t], *(rng.standard_normal(width) for _ in range(depth - 1)), np.ones(1)]
        u = [v / np.linalg.norm(v) for v in u]
        networks.append(tuple(a[:, None] * b for b, a in zip(u, u[1:])))
    square = exact.merged_second_moment(networks, inputs[:1]).item()
    assert square - 1 == pytest.approx(float(exact.merged_variance(width, depth, count)), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_moments_of_two_tasks_by_quadrature(width, depth):
    # the density of c is proportional to (1 − c²)^{(m−3)/2}: c = sin φ, weight cos^{m−2} φ
    phi = np.linspace(-np.pi / 2, np.pi / 2, 20001)
    weight = np.cos(phi) ** (width - 2)
    weight = weight / np.trapezoid(weight, phi)
    powers = [np.trapezoid((1 + np.sin(phi)) ** p * weight, phi) ** (depth - 1) for p in range(5)]
    second = powers[2] - 2 * powers[1] + 1
    fourth = powers[4] - 4 * powers[3] + 6 * powers[2] - 4 * powers[1] + 1
    assert float(exact.merged_variance(width, depth)) == pytest.approx(second, rel=1e-6)
    assert float(exact.merged_fourth_moment(width, depth)) == pytest.approx(fourth, rel=1e-6)


@pytest.mark.parametrize("depth, width, count", [(2, 5, 2), (3, 4, 3), (4, 16, 4)])
def test_simulated_directions_have_the_predicted_moments(depth, width, count):
    draws = 40_000
    for overlaps in (
        exact.uniform_overlaps((draws, depth - 1), width, count, generator=np.random.default_rng(1)),
        _gaussian_overlaps(draws, depth, width, count),
    ):
        ratios = exact.merged_ratios(overlaps)[:, 0] - 1
        for sample, law in ((ratios, 0.0), (ratios**2, float(exact.merged_variance(width, depth, count)))):
            assert abs(sample.mean() - law) < 5 * sample.std() / draws**0.5


def _gaussian_overlaps(draws, depth, width, count):
    u = np.random.default_rng(2).standard_normal((draws, depth - 1, count, width))
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    return u @ np.swapaxes(u, -1, -2)


def test_simulated_overlaps_follow_the_law_of_gaussian_directions():
    # all of T = 3, m = 4, by the mean of products that a wrong number of degrees of freedom would move
    draws = 60_000
    mine = exact.uniform_overlaps((draws,), 4, 3, generator=np.random.default_rng(3))
    theirs = _gaussian_overlaps(draws, 2, 4, 3)[:, 0]
    for statistic in (lambda c: c[:, 0, 1] * c[:, 1, 2] * c[:, 0, 2], lambda c: c[:, 1, 2] ** 4, lambda c: c[:, 0, 1] ** 2 * c[:, 0, 2] ** 2):
        a, b = statistic(mine), statistic(theirs)
        assert abs(a.mean() - b.mean()) < 5 * np.hypot(a.std(), b.std()) / draws**0.5
    np.testing.assert_allclose(mine[:, [0, 1, 2], [0, 1, 2]], 1.0, rtol=1e-12)


def test_laws_name_bad_arguments():
    for call, words in (
        (lambda: exact.merged_variance(0, 2), "width: expected whole numbers >= 1"),
        (lambda: exact.merged_variance(4, 1), "depth: expected a whole number >= 2, got 1"),
        (lambda: exact.merged_variance(4, 2, 0.5), "tasks: expected numbers >= 1, got 0.5"),
        (lambda: exact.merged_fourth_moment(4, 2.0), "depth: expected a whole number >= 2"),
        (lambda: exact.uniform_overlaps((2,), 3, 4, generator=np.random.default_rng(0)), "tasks: expected at most width = 3, got 4"),
        (lambda: exact.merged_second_moment([], np.ones((1, 2))), "solutions: expected one or more networks"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_rotating_hidden_layers_keeps_a_linear_network_and_names_bad_rotations(generator):
    network = Network((3, 4, 5, 2), "linear")
    weights = initialise(network, members=2, generator=generator)
    rotations = [random_rotation(m, generator=generator) for m in (4, 5)]
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    turned = rotate_hidden(weights, rotations)
    np.testing.assert_allclose(forward(network, turned, x), forward(network, weights, x), atol=1e-13)
    np.testing.assert_allclose(turned[1], rotations[1] @ weights[1] @ rotations[0].mT, rtol=1e-13)
    with pytest.raises(ValueError, match="rotations: expected one for each of 2 hidden layers, got 1"):
        rotate_hidden(weights, rotations[:1])
    with pytest.raises(ValueError, match=r"O_2: expected \(\*E, 5, 5\), got \(4, 4\)"):
        rotate_hidden(weights, [rotations[0], rotations[0]])
