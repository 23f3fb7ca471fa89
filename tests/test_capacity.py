"""Laws of capacity against elementary integrals, against brute force over permutations, and against direct sums of weights."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from lowrank import Network, forward, merge
from lowrank.capacity import (
    draw_linear_gains,
    draw_relu_gains,
    limiting_failure,
    linear_capacity_share,
    linear_failure,
    linear_failure_error,
    minority_flip,
    permuted_cross_talk,
    rectified_overlap,
    relu_capacity,
    relu_gain_variance,
)
from lowrank.exact import merged_ratios, merged_variance, uniform_overlaps


def test_failure_in_space_is_that_of_sums_of_uniform_numbers():
    # a coordinate of a unit vector of R³ is uniform on [−1, 1]: the Irwin–Hall law
    assert linear_failure(2, 3) == 0.0
    assert linear_failure(3, 3) == pytest.approx(1 / 8, abs=1e-10)
    assert linear_failure(4, 3) == pytest.approx(1 / 6, abs=1e-10)  # P(u_1 + u_2 + u_3 ≤ 1)


@pytest.mark.parametrize("width", [4, 5, 9, 40])
def test_failure_with_two_others_is_a_convolution(width):
    coordinate = stats.beta((width - 1) / 2, (width - 1) / 2, loc=-1, scale=2)
    expected = quad(lambda c: coordinate.pdf(c) * coordinate.cdf(-1 - c), -1, 0, epsabs=1e-13)[0]
    assert linear_failure(3, width) == pytest.approx(expected, abs=1e-9)


@given(width=st.integers(4, 300), tasks=st.integers(2, 200))
def test_failure_is_near_the_limit_as_bounded(width, tasks):
    exact, limit = linear_failure(tasks, width), limiting_failure(merged_variance(width, 2, tasks))
    assert abs(exact - limit) <= linear_failure_error(tasks, width) + 1e-10
    assert 0 <= exact < 0.5


def test_the_bound_on_the_limit_falls_as_the_inverse_product():
    assert linear_failure_error(101, 400) == pytest.approx(1 / (np.pi * 100 * 402), rel=1e-3)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_linear_capacity_is_where_the_limit_fails_that_often(depth):
    for failure in (0.05, 0.2):
        share = linear_capacity_share(depth, failure)
        assert limiting_failure(merged_variance(1.0, depth, 1 + share)) == pytest.approx(failure, rel=1e-12)


def test_no_variance_no_failure():
    assert limiting_failure(0.0) == 0.0


def normal_band(samples, level=1e-6):
    """Half width of a two-sided band for the mean of independent samples."""
    return stats.t.ppf(1 - level / 2, len(samples) - 1) * samples.std() / len(samples) ** 0.5


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_linear_draws_have_mean_one_and_the_variance(depth, generator):
    gains = draw_linear_gains(6, 16, depth, members=2000, generator=generator)
    for samples, expected in ((gains, 1.0), ((gains - 1) ** 2, merged_variance(16, depth, 6))):
        mean = samples.mean(1)
        assert abs(mean.mean() - expected) <= normal_band(mean)


@pytest.mark.parametrize("depth", [2, 3])
def test_linear_draws_have_the_law_of_overlaps_drawn_another_way(depth, generator):
    gains = draw_linear_gains(4, 5, depth, members=2000, generator=generator)[:, 0]
    ratios = merged_ratios(uniform_overlaps((2000, depth - 1), 5, 4, generator=np.random.default_rng(1)))[:, 0]
    assert stats.ks_2samp(gains.numpy(), ratios).pvalue > 1e-6


def test_linear_gains_are_those_of_summed_networks(generator):
    tasks, width = 3, 4
    state = generator.get_state()
    gains = draw_linear_gains(tasks, width, 3, members=1, generator=generator)[0]
    generator.set_state(state)
    last, middle = (torch.randn(width, tasks, generator=generator, dtype=torch.float64) for _ in range(2))
    last, middle = (u / u.norm(dim=0) for u in (last, middle))
    inputs = torch.eye(tasks, dtype=torch.float64)
    models = [
        (torch.outer(middle[:, t], inputs[t]), torch.outer(last[:, t], middle[:, t]), last[:, t][None]) for t in range(tasks)
    ]
    network = Network((tasks, width, width, 1), "linear")
    np.testing.assert_allclose(forward(network, merge(models), inputs)[:, 0], gains, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("centred", [False, True])
def test_relu_gains_are_those_of_summed_networks(depth, centred, generator):
    tasks, width, ratio = 3, 7, 0.6
    state = generator.get_state()
    gains = draw_relu_gains(tasks, width, depth, members=1, generator=generator, ratio=ratio, centred=centred)[0]
    generator.set_state(state)
    layers = [torch.randn(1, width, tasks, generator=generator, dtype=torch.float64)[0] for _ in range(depth - 1)][::-1]
    layers = [[g.clamp_min(0), (-g).clamp_min(0)] for g in layers]
    layers = [[lane / lane.norm(dim=0) for lane in pair] for pair in layers]
    inputs = torch.eye(tasks, dtype=torch.float64)
    models = []
    for t in range(tasks):
        p, n = ([lane[:, t] for lane in lanes] for lanes in zip(*layers))
        first = torch.outer(p[0], inputs[t]) - ratio * torch.outer(n[0], inputs[t])
        hidden = [torch.outer(p[k], p[k - 1]) + ratio * torch.outer(n[k], n[k - 1]) for k in range(1, depth - 1)]
        models.append((first, *hidden, (p[-1] - ratio * n[-1])[None]))
    network = Network((tasks, *[width] * (depth - 1), 1))
    merged = merge(models)
    if centred:
        merged = (*merged[:-1], merged[-1] - merged[-1].mean())
    own = torch.tensor([1.0, -(ratio**depth)], dtype=torch.float64)
    outputs = torch.stack([forward(network, merged, sign * inputs)[:, 0] for sign in (1, -1)], dim=-1) / own
    np.testing.assert_allclose(gains, outputs, rtol=1e-11, atol=1e-12)


def test_two_relu_layers_have_a_closed_variance():
    for tasks in (1, 2, 9):
        assert relu_gain_variance(tasks, 2) == pytest.approx((2 - 5 / np.pi**2) * (tasks - 1))


@pytest.mark.parametrize("depth", [3, 4])
def test_the_relu_variance_grows_with_the_heuristic_power(depth):
    slope = np.log(relu_gain_variance(4000, depth) / relu_gain_variance(2000, depth)) / np.log(2)
    assert slope == pytest.approx(2 * depth - 3, abs=0.01)
    slope = np.log(relu_gain_variance(4000, depth, centred=True) / relu_gain_variance(2000, depth, centred=True)) / np.log(2)
    assert slope == pytest.approx(2 * depth - 4, abs=0.01)


@pytest.mark.parametrize("tasks, depth, centred", [(2, 2, False), (5, 2, True), (4, 3, False), (4, 3, True), (3, 4, False), (3, 4, True)])
def test_relu_draws_have_the_limiting_variance(tasks, depth, centred, generator):
    width = 1000
    gains = draw_relu_gains(tasks, width, depth, members=400, generator=generator, centred=centred)
    squares = (width * (gains - 1) ** 2).mean((1, 2))
    expected = relu_gain_variance(tasks, depth, centred=centred)
    assert abs(squares.mean() - expected) <= normal_band(squares) + 20 * expected / width  # corrections of order 1/m


def test_relu_capacity_inverts_the_variance():
    width = np.array([30.0, 300.0])
    for depth in (2, 3):
        tasks = relu_capacity(width, depth)
        for one, t in zip(width, tasks):
            low, high = (limiting_failure(relu_gain_variance(int(edge), depth) / one) for edge in (np.floor(t), np.floor(t) + 1))
            assert low <= 0.05 + 1e-12 and high >= 0.05 - 1e-12
    assert relu_capacity(100.0, 2) == pytest.approx(1 + 100 / 1.6448536269514722**2 / (2 - 5 / np.pi**2))


def test_minority_flips_where_its_mean_gain_vanishes(generator):
    ratio = 0.75
    tasks = minority_flip(ratio)
    assert tasks == pytest.approx(1 + 3 * np.pi)
    around = [draw_relu_gains(int(t), 2000, 2, members=40, generator=generator, ratio=ratio)[..., 1].mean() for t in (tasks, tasks + 1)]
    assert around[0] > 0 > around[1]
    assert minority_flip(1.0) == np.inf


@given(seed=st.integers(0, 10**6), size=st.integers(2, 5))
def test_cross_talk_over_all_permutations(seed, size):
    rng = np.random.default_rng(seed)
    a, h = rng.standard_normal((2, size))
    values = [a[list(order)] @ h for order in permutations(range(size))]
    mean, variance = permuted_cross_talk(torch.as_tensor(a), torch.as_tensor(h))
    np.testing.assert_allclose([mean, variance], [np.mean(values), np.var(values)], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda g: linear_failure(1, 8), ValueError, "tasks: expected a whole number >= 2, got 1"),
        (lambda g: linear_failure(3, 2), ValueError, "width: expected a whole number >= 3"),
        (lambda g: linear_failure_error(3, 3), ValueError, "width: expected a whole number >= 4"),
        (lambda g: relu_gain_variance(2, 1), ValueError, "depth: expected a whole number >= 2"),
        (lambda g: minority_flip(1.2), ValueError, "the weaker over the stronger"),
        (lambda g: draw_linear_gains(2, 2, 2, members=1, generator=None), TypeError, "generator"),
        (lambda g: draw_linear_gains(2, 2, 1, members=1, generator=g), ValueError, "depth: expected"),
        (lambda g: draw_relu_gains(2, 2, 2, members=1, generator=g, ratio=0.0), ValueError, "ratio: expected a finite number > 0"),
    ],
)
def test_misuse_is_named(call, error, message, generator):
    with pytest.raises(error, match=message):
        call(generator)


@pytest.mark.parametrize("m", [2, 3, 8])
def test_overlaps_of_rectified_gaussians_against_draws(m):
    first, second = np.random.default_rng(m).standard_normal((2, 400_000, m))

    def lane(values):
        part = np.maximum(values, 0)
        length = np.linalg.norm(part, axis=-1, keepdims=True)
        return part / np.where(length > 0, length, 1)

    alike, crossed = ((lane(first) * lane(sign * second)).sum(-1) for sign in (1, -1))
    for found, expected in zip((alike, crossed, (alike - crossed) ** 2), [rectified_overlap(m)[i] for i in (0, 0, 1)]):
        assert found.mean() == pytest.approx(expected, abs=5 * found.std() / 400_000**0.5)


def test_overlaps_of_two_neurons_by_hand():
    # k = 1 with probability ½, k = 2 with ¼: E kα_k = ½ + ¼·2·(2/π); products of p: only k = 2, where E u_1u_2 = 1/π
    mean = (0.5 + 1 / np.pi) ** 2 / 2
    assert rectified_overlap(2)[0] == pytest.approx(mean, rel=1e-13)
    alike, apart = 2 * 0.25 / np.pi, 2 * 0.25  # E p_1p_2 and E p_1n_2, twice: k = 2; and one positive, one negative
    assert rectified_overlap(2)[1] == pytest.approx(2 * 0.75**2 / 2 + alike**2 - alike * apart, rel=1e-13)


def test_overlaps_of_wide_vectors_have_the_limits():
    mean, square = rectified_overlap(4096)
    assert np.pi * mean == pytest.approx(1 + 3 / (4 * 4096), abs=1e-6)  # the next term is of order 1/m²
    assert 4096 * square == pytest.approx(2 - 5 / np.pi**2, rel=1e-4)
    with pytest.raises(ValueError, match="width: expected a whole number >= 2, got 1"):
        rectified_overlap(1)
