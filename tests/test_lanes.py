import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import Network, forward, initialise, merge
from lowrank.lanes import cancellation, lanes, merged_relu, overlaps, transfer_matrices

problems = st.fixed_dictionaries(
    {"seed": st.integers(0, 10**6), "depth": st.integers(2, 5), "width": st.integers(2, 9), "count": st.integers(1, 3)}
)


def with_lanes(generator, depth, width, *, slot=0, slots=1, members=(), equal=False, n=3):
    """A network made of two lanes on disjoint neurons, its parts, and the inputs (class +, class −) of its own coordinates."""
    m = [4 * slots, *[width] * (depth - 1), 1]
    columns, strengths = [], 1 + torch.rand(*members, depth, 2, generator=generator, dtype=torch.float64)
    if equal:
        strengths = torch.ones_like(strengths)
    u = torch.zeros(*members, 4 * slots, 2, dtype=torch.float64)
    u[..., 4 * slot : 4 * slot + 4, 0] = 0.5
    u[..., 4 * slot : 4 * slot + 4, 1] = -0.5
    columns.append(u)
    for _ in range(depth - 1):
        first = torch.arange(width) < 1 + int(torch.randint(width - 1, (), generator=generator))
        v = torch.rand(*members, width, 2, generator=generator, dtype=torch.float64) + 0.1
        v = v * torch.stack([first, ~first], -1)
        columns.append(v[..., torch.randperm(width, generator=generator), :])
        columns[-1] = columns[-1] / torch.linalg.vector_norm(columns[-1], dim=-2, keepdim=True)
    columns.append(torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand(*members, 1, 2))
    weights = tuple((columns[k + 1] * strengths[..., k, None, :]) @ columns[k].mT for k in range(depth))
    x = torch.zeros(2 * n, 4 * slots, dtype=torch.float64)
    x[:, 4 * slot : 4 * slot + 4] = torch.rand(2 * n, 4, generator=generator, dtype=torch.float64) + 0.1
    x[n:] *= -1
    return Network(tuple(m)), weights, (columns, strengths), x


@given(problems, st.sampled_from([(), (3,)]))
def test_lanes_are_found_again(problem, members):
    generator = torch.Generator().manual_seed(problem["seed"])
    _, weights, (columns, strengths), _ = with_lanes(generator, problem["depth"], problem["width"], members=members)
    found = lanes(weights)
    for got, expected in zip(found.directions, columns):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.strengths, strengths, rtol=1e-12, atol=0.0)
    assert (found.residual < 1e-14).all() and (found.shared == 0).all()
    assert found.depth == problem["depth"]


@given(problems)
def test_transfer_is_what_the_summed_network_computes(problem):
    generator = torch.Generator().manual_seed(problem["seed"])
    count = problem["count"]
    made = [
        with_lanes(generator, problem["depth"], problem["width"], slot=t, slots=count, members=(2,)) for t in range(count)
    ]
    network, models = made[0][0], [weights for _, weights, _, _ in made]
    summed = merge(models) if count > 1 else models[0]
    parts = [lanes(weights) for weights in models]
    for t, (_, weights, _, x) in enumerate(made):
        brute = forward(network, summed, x)
        torch.testing.assert_close(merged_relu(parts, x), brute, rtol=1e-12, atol=1e-12)
        own = forward(network, weights, x)
        ratio = (brute / own)[..., 0]
        bound = cancellation([parts[t], *parts[:t], *parts[t + 1 :]]).repeat_interleave(len(x) // 2, -1)
        assert ((ratio - 1).abs() <= bound + 1e-11).all()
        if problem["depth"] == 2:
            torch.testing.assert_close((ratio - 1).abs(), bound, rtol=1e-10, atol=1e-12)


def test_overlaps_that_agree_cancel_though_they_are_large(generator):
    # Lanes of A on neurons 1, 2 against 3, 4, of B on 1, 3 against 2, 4: every overlap is ½.
    half = 0.5**0.5
    a = torch.tensor([[half, 0], [half, 0], [0, half], [0, half]], dtype=torch.float64)
    b = torch.tensor([[half, 0], [0, half], [half, 0], [0, half]], dtype=torch.float64)
    inputs = torch.eye(4, dtype=torch.float64)
    outputs = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    models = [(v @ inputs[:, 2 * t : 2 * t + 2].mT, v @ v.mT, outputs @ v.mT) for t, v in enumerate((a, b))]
    parts = [lanes(model) for model in models]
    torch.testing.assert_close(overlaps(*parts), torch.full((2, 2, 2), 0.5, dtype=torch.float64))
    assert (cancellation(parts) < 1e-14).all()
    expected = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    torch.testing.assert_close(forward(Network((4, 4, 4, 1)), merge(models), inputs), expected)
    unequal = (models[1][0], models[1][1], 2 * models[1][2] + 0.5 * a[:, 0])  # strengths of B no longer agree
    assert (cancellation([parts[0], lanes(unequal)]) > 0.1).all()


def test_overlaps_against_loops(generator):
    made = [with_lanes(generator, 4, 7, slot=t, slots=2) for t in range(2)]
    got = overlaps(*(lanes(weights) for _, weights, _, _ in made))
    for k in range(3):
        for i in range(2):
            for j in range(2):
                a, b = (columns[k + 1] for _, _, (columns, _), _ in made)
                assert got[k, i, j] == pytest.approx(float(a[:, i] @ b[:, j]), abs=1e-14)


def test_transfer_matrices_against_the_layers(generator):
    made = [with_lanes(generator, 3, 6, slot=t, slots=2) for t in range(2)]
    summed = merge([m[1] for m in made])[1]
    columns = [np.hstack([m[2][0][k] for m in made]) for k in (1, 2)]
    transfer = transfer_matrices([lanes(m[1]) for m in made])
    assert len(transfer) == 2
    carried = np.array([0.3, 0.0, 1.1, 0.2])
    np.testing.assert_allclose(columns[1] @ (transfer[0].numpy() @ carried), summed.numpy() @ columns[0] @ carried, rtol=1e-12)


def test_what_is_not_lanes_has_a_residual(generator):
    network = Network((5, 6, 6, 1))
    random = lanes(initialise(network, members=4, generator=generator))
    assert (random.residual[:, 0] > 0.3).all() and (random.residual[:, 1] > 0.3).all()
    assert (random.residual[:, 2] < 1e-14).all()  # one output: the read-out always splits into two lanes
    _, weights, _, _ = with_lanes(generator, 3, 6)
    bent = lanes((weights[0], weights[1] - 0.1 * (weights[1] == 0), weights[2]))
    assert 1e-2 < float(bent.residual[1]) < 1


def test_a_lane_that_is_not_there_is_zero(generator):
    weights = (torch.randn(3, 2, generator=generator, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64))
    found = lanes(weights)
    assert (found.directions[1][:, 1] == 0).all() and (found.strengths[:, 1] == 0).all()


def test_a_member_alone_gives_the_same(generator):
    network = Network((4, 5, 5, 1))
    stack = initialise(network, members=3, generator=generator)
    alone, together = lanes(tuple(w[1] for w in stack)), lanes(stack)
    for field in ("strengths", "residual", "shared"):
        torch.testing.assert_close(getattr(alone, field), getattr(together, field)[1], rtol=1e-13, atol=1e-15)


def test_what_is_refused(generator):
    w = initialise(Network((3, 4, 1)), generator=generator)
    with pytest.raises(ValueError, match="weights: expected at least two layers, got 1"):
        lanes(w[:1])
    with pytest.raises(ValueError, match=r"W_2: expected one output \(\*E, 1, m\), got \(2, 4\)"):
        lanes((w[0], torch.ones(2, 4)))
    one, other = lanes(w), lanes(initialise(Network((3, 5, 1)), generator=generator))
    for call in (overlaps, lambda a, b: transfer_matrices([a, b]), lambda a, b: cancellation([a, b])):
        with pytest.raises(ValueError, match="parts: expected one or more networks of one shape, got 2 shapes"):
            call(one, other)
    with pytest.raises(ValueError, match=r"x: expected \(n, 3\), got \(2, 4\)"):
        merged_relu([one], torch.ones(2, 4))
    with pytest.raises(TypeError, match=r"parts\[1\]"):
        transfer_matrices([one, w])
