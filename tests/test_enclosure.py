"""Enclosures: F′ against automatic differentiation, containment at random points, and what must not be proved."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flint import arb, arb_mat, ctx
from torch.func import jacfwd

from lowrank import Network, Objective, Task, initialise, kinks, layer_norms, polish, stable_rank
from lowrank import enclosure
from lowrank.enclosure import enclose
from lowrank.stationary import Polished

DECAYS = {1: 0.05, 2: 0.02, 3: 0.006, 4: 0.002}


def problem(depth, activation="relu", seed=0, members=(), loss="logistic", n=8, d=3, width=6):
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((n, d)), np.sign(generator.standard_normal(n))
    y[:2] = 1.0, -1.0
    network = Network((d, *[width] * (depth - 1), 1), activation)
    weights = initialise(network, members=members, scale=1.5, generator=torch.Generator().manual_seed(seed))
    return Objective(network, Task(x, y), weight_decay=DECAYS[depth], loss=loss), weights


@pytest.fixture(scope="module")
def kinked():
    """A two-layer ReLU network at rest on kinks."""
    objective, weights = problem(2, seed=2)
    found = polish(objective, weights)
    assert len(found.kinks[0]) >= 2
    return objective, found


def random_piece(objective, seed, share=0.2):
    """Any piece will do for F′: random weights, kinks and multipliers."""
    generator = torch.Generator().manual_seed(seed)
    weights = initialise(objective.network, generator=generator)
    piece = kinks.piece_at(objective, weights, -1.0)
    masks = tuple(torch.rand(m.shape, generator=generator) < share for m in piece.kinks)
    if objective.network.activation == "linear":
        masks = piece.kinks
    slopes = tuple(s.masked_fill(m, 0.0) for s, m in zip(piece.slopes, masks))
    multipliers = tuple(torch.randn(m.shape, generator=generator).double().masked_fill(~m, 0.0) for m in masks)
    return kinks.Piece(weights, masks, slopes, multipliers)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "linear"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_derivative_against_automatic_differentiation(depth, activation, loss):
    objective, _ = problem(depth, activation, loss=loss, n=4, d=2, width=3)
    piece = random_piece(objective, depth)
    evaluate = kinks.conditions(objective, piece)
    wide = 1e-3
    with ctx.workprec(80):
        point, box = (enclosure._System(objective, piece, radius) for radius in (0.0, wide))
        found, around, value = point.jacobian(), box.jacobian(), box.conditions()
        middle = np.array([[float(entry.mid()) for entry in row] for row in found.tolist()])
        np.testing.assert_allclose(middle, jacfwd(evaluate)(piece.unknowns).numpy(), rtol=1e-12, atol=1e-13)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            there = piece.unknowns + wide * (2 * torch.rand(len(piece.unknowns), generator=generator).double() - 1)
            shifted, slack = jacfwd(evaluate)(there).tolist(), arb(0, 1e-13)
            assert all((a + slack).contains(arb(v)) for row, values in zip(around.tolist(), shifted) for a, v in zip(row, values))
            at = evaluate(there).tolist()
            assert all((a + slack).contains(arb(v)) for a, v in zip(value.entries(), at))


def newton(objective, piece, steps=4):
    """The zero to 60 digits, by Newton's method in rational midpoints: no use of boxes."""
    with ctx.workprec(256):
        column = arb_mat([[arb(v)] for v in piece.unknowns.tolist()])
        shapes = [w.shape for w in piece.weights]
        for _ in range(steps):
            values = [entry.mid() for entry in column.entries()]
            system = evaluated(objective, piece, values, shapes)
            column = arb_mat([[v] for v in values]) - system.jacobian().solve(system.conditions())
        return [entry.mid() for entry in column.entries()]


def evaluated(objective, piece, values, shapes):
    """_System at a point of more digits than a double has."""
    values = iter(values)
    weights = [arb_mat([[next(values) for _ in range(c)] for _ in range(r)]) for r, c in shapes]
    multipliers = [
        arb_mat([[next(values) if kink else arb(0) for kink in row] for row in mask.tolist()]) for mask in piece.kinks
    ]
    boxes, former = iter([*weights, *multipliers]), enclosure._box
    enclosure._box = lambda *_, **__: next(boxes)
    try:
        return enclosure._System(objective, piece, 0.0)
    finally:
        enclosure._box = former


@pytest.mark.parametrize(
    "depth, activation, seed", [(1, "linear", 0), (2, "linear", 0), (3, "linear", 0), (2, "relu", 0), (3, "relu", 2), (3, "leaky_relu", 2)]
)
def test_proofs_and_what_they_enclose(depth, activation, seed):
    objective, weights = problem(depth, activation, seed, width=4 if depth == 3 else 6)
    found = polish(objective, weights)
    proof = enclose(objective, found)
    assert proof.exists.shape == proof.radius.shape == () and proof.exists and proof.reason == ""
    assert proof.radius <= 1e-8 and proof.contraction < 1
    assert proof.norms.shape == proof.angles.shape == proof.stable_ranks.shape == (depth, 2)
    norms, ranks = layer_norms(found.compact[0]), torch.stack([stable_rank(w) for w in found.compact[0]])
    slack = 1e-14 * norms
    assert ((proof.norms[:, 0] - slack <= norms) & (norms <= proof.norms[:, 1] + slack)).all()
    assert ((proof.stable_ranks[:, 0] - 1e-13 <= ranks) & (ranks <= proof.stable_ranks[:, 1] + 1e-13)).all()
    assert (proof.norms[:, 1] - proof.norms[:, 0] <= 1e-7).all() and (proof.stable_ranks[:, 1] - proof.stable_ranks[:, 0] <= 1e-6).all()
    assert (proof.angles[:, 0] == 0).all() and (proof.angles[:, 1] < 1e-6).all() and (proof.angles[:, 1] > 0).all()
    # the zero to 60 digits lies in the box, its norms between the ends
    piece = enclosure._piece(objective, found, 0)
    zero = newton(objective, piece)
    with ctx.workprec(256):
        off = max(abs(z - arb(v)) for z, v in zip(zero, piece.unknowns.tolist()))
        assert off < float(proof.radius)
        place = 0
        for k, w in enumerate(found.compact[0]):
            squares = sum((z * z for z in zero[place : place + w.numel()]), arb(0))
            place += w.numel()
            assert arb(float(proof.norms[k, 0])) < squares.sqrt() < arb(float(proof.norms[k, 1]))


def test_the_box_is_mapped_into_itself_at_random_points(kinked):
    objective, found = kinked
    proof, piece = enclose(objective, found), enclosure._piece(objective, found, 0)
    evaluate, centre = kinks.conditions(objective, piece), piece.unknowns
    inverse = torch.linalg.inv(jacfwd(evaluate)(centre))
    generator = torch.Generator().manual_seed(0)
    for radius in (float(proof.radius), 1e-7):
        for _ in range(20):
            there = centre + radius * (2 * torch.rand(len(centre), generator=generator).double() - 1)
            image = there - inverse @ evaluate(there)
            assert (image - centre).abs().max() < max(radius, 1e-14)


def test_members_are_proved_one_by_one():
    objective, weights = problem(2, members=(2, 2), n=5, d=2, width=3)
    objective = Objective(objective.network, objective.task, weight_decay=torch.tensor([[0.02], [20.0]]).double())
    found = polish(objective, weights)
    proof = enclose(objective, found)
    assert proof.exists.tolist() == [[True, True], [False, False]] and proof.norms.shape == (2, 2, 2, 2)
    assert torch.isnan(proof.radius[1]).all() and torch.isnan(proof.norms[1]).all()
    assert all("not polished: collapsed" in reason for reason in proof.reason[1])


@pytest.mark.parametrize("factor", [1.01, 1 + 1e-5])
def test_another_decay_is_turned_down(kinked, factor):
    objective, found = kinked
    other = Objective(objective.network, objective.task, weight_decay=float(objective.weight_decay) * factor)
    proof = enclose(other, found)
    assert not proof.exists and "no contraction" in str(proof.reason)


@pytest.mark.parametrize("size", [1e-2, 1e-6])
def test_other_data_are_turned_down_or_proved_further_off(kinked, size):
    objective, found = kinked
    noise = torch.randn(objective.task.x.shape, generator=torch.Generator().manual_seed(0)).double()
    other = Objective(objective.network, Task(objective.task.x + size * noise, objective.task.y), weight_decay=objective.weight_decay)
    proof = enclose(other, found)
    assert not proof.exists or float(proof.radius) > 1e2 * float(enclose(objective, found).radius)
    assert size < 1e-3 or "no contraction" in str(proof.reason)


def altered(found, **changes) -> Polished:
    return replace(found, **{name: (value,) for name, value in changes.items()})


def test_a_dropped_kink_a_wrong_gate_and_an_unfinished_point_are_turned_down(kinked):
    objective, found = kinked
    spots, multipliers = found.kinks[0], found.multipliers[0]
    for a in range(len(spots)):
        left = torch.arange(len(spots)) != a
        assert not enclose(objective, altered(found, kinks=spots[left], multipliers=multipliers[left])).exists
        wrong = multipliers.clone()
        wrong[a] = -wrong[a]
        assert not enclose(objective, altered(found, multipliers=wrong)).exists
    rough = replace(found, status=np.array("max_steps"), reason=np.array("not converged"))
    assert "not polished" in str(enclose(objective, rough).reason)


def test_a_zero_whose_gate_is_outside_is_no_stationary_point():
    # inputs e₁ and e₁ + e₂, targets 1 and −3, held at z₂ = 0 (see test_stationary): with the second target at +5 instead,
    # the balance on the kink needs a slope below 0
    x, network = [[1.0, 0.0], [1.0, 1.0]], Network((2, 1, 1))
    start = (torch.tensor([[1.0, -0.8]]).double(), torch.tensor([[1.0]]).double())
    right = Objective(network, Task(x, [[1.0], [-3.0]]), weight_decay=0.1, loss="squared")
    found = polish(right, start)
    assert enclose(right, found).exists
    # on the kink f₂ = 0 and μ is fixed by λ alone: only the gate γ = μ/b, b = v(f₂ − y₂)/2, knows about y₂
    for target, inside in ((-3.0, True), (-0.05, False), (5.0, False)):
        other = Objective(network, Task(x, [[1.0], [target]]), weight_decay=0.1, loss="squared")
        proof = enclose(other, found)
        assert bool(proof.exists) == inside
        assert inside or "gate not inside" in str(proof.reason)


def test_the_sign_of_a_preactivation_must_be_that_of_its_slope(kinked):
    objective, found = kinked
    piece = enclosure._piece(objective, found, 0)
    with ctx.workprec(80):
        enclosure._check_sides(enclosure._System(objective, piece, 1e-14))
        flipped = replace(piece, slopes=tuple((1.0 - s).masked_fill(k, 0.0) for s, k in zip(piece.slopes, piece.kinks)))
        with pytest.raises(enclosure._NoProof, match="undecided sign"):
            enclosure._check_sides(enclosure._System(objective, flipped, 1e-14))


def test_a_kink_of_a_linear_network_is_turned_down():
    objective, weights = problem(2, "linear")
    found = polish(objective, weights)
    assert not enclose(objective, altered(found, kinks=torch.tensor([[0, 0, 0]]), multipliers=torch.tensor([0.1]).double())).exists


def test_a_free_direction_is_singular():
    # two copies of one neuron: weight moves from one to the other at no cost
    objective = Objective(Network((2, 2, 1)), Task([[1.0, 0.0], [1.0, 1.0]], [1.0, 1.0]), weight_decay=0.1)
    found = polish(objective, (torch.ones(2, 2).double(), torch.ones(1, 2).double()))
    whole = altered(found, compact=tuple(found.weights))
    assert enclose(objective, found).exists
    assert "singular" in str(enclose(objective, whole).reason)


@pytest.mark.parametrize("value", [1 / 3, -1 / 3, 1e-300, 12345.678])
def test_ends_are_outside(value):
    with ctx.workprec(200):
        exact = arb(value) * (1 + arb(2) ** -60)
        low, high = enclosure._ends(exact)
        assert arb(low) < exact < arb(high) and abs(high - low) <= 4 * np.spacing(abs(value))


def test_spectral_norms_of_matrices_with_known_ones():
    with ctx.workprec(80):
        for w, expected in (([[3.0, 4.0]], 25), ([[1.0, 0.0], [0.0, 1.0]], 1), ([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 4)):
            found = enclosure._spectral_square(arb_mat(w))
            assert found.contains(expected) and float(found.rad()) < 1e-12
        equal = enclosure._spectral_square(arb_mat([[arb(1, 0.1), arb(0, 0.1)], [arb(0, 0.1), arb(1, 0.1)]]))
        assert equal.contains(arb(1.4399))  # of [[1.1, 0.1], [0.1, 1.1]] it is 1.44
        wide = enclosure._spectral_square(arb_mat([[arb(2, 0.1), arb(0, 0.1)], [arb(0, 0.1), arb(1, 0.1)]]))
        generator = np.random.default_rng(0)
        for _ in range(50):
            w = np.diag([2.0, 1.0]) + 0.1 * generator.uniform(-1, 1, (2, 2))
            assert wide.contains(arb(float(np.linalg.norm(w, 2) ** 2)))


def test_near_a_fold_the_box_must_contract():
    # w² = log(1/λ − 1) is small for λ near 1/2, and a step of Newton from t away lands about t²/w off
    square = 4e-12
    objective = Objective(Network((1, 1, 1), "linear"), Task([[1.0]], [1.0]), weight_decay=1 / (1 + np.exp(square)))
    one = torch.ones(1, 1).double()
    found = polish(Objective(objective.network, objective.task, weight_decay=0.1), (one, one))
    assert found.status == "converged"
    near, far = (altered(found, compact=((square**0.5 + t) * one, (square**0.5 + t) * one)) for t in (0.0, 2.2e-7))
    assert enclose(objective, near).exists
    assert "no contraction" in str(enclose(objective, far).reason)


def test_misuse_is_named(kinked):
    objective, found = kinked
    task, decay = objective.task, objective.weight_decay
    with pytest.raises(ValueError, match="objective: expected one for"):
        enclose(Objective(Network((3, 5, 1)), task, weight_decay=decay), found)
    with pytest.raises(TypeError, match="polished"):
        enclose(objective, found.weights)
    with pytest.raises(ValueError, match="members"):
        enclose(Objective(objective.network, task, weight_decay=torch.tensor([0.1, 0.2]).double()), found)
    with pytest.raises(ValueError, match="samples"):
        enclose(Objective(objective.network, Task(task.x[:1], task.y[:1]), weight_decay=decay), found)
    with pytest.raises(ValueError, match="multiplier for each"):
        enclose(objective, altered(found, multipliers=found.multipliers[0][1:]))
    smooth = Objective(Network((3, 2, 1), "relu2"), task, weight_decay=0.01)
    weights = initialise(smooth.network, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="expected relu, leaky_relu or linear"):
        enclose(smooth, polish(smooth, weights))
    several = Objective(Network((3, 2, 2)), Task(task.x, np.ones((8, 2))), weight_decay=0.01, loss="squared")
    weights = initialise(several.network, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="expected one output"):
        enclose(several, polish(several, weights))
