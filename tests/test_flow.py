"""Gradient flow against closed forms, against SciPy, and each member against itself alone."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from lowrank import (
    Network,
    Objective,
    Task,
    TrainingError,
    exact,
    gradient_descent,
    gradient_flow,
    imbalance,
    initialise,
    loss_gradients,
    norm_gaps,
    teacher,
    trained,
)
from lowrank.integrate import integrate


def test_one_linear_layer_is_a_matrix_exponential(generator):
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    objective = Objective(Network((3, 2), "linear"), Task(x, y), weight_decay=0.1, loss="squared")
    (w,) = start = initialise(objective.network, members=4, generator=generator)
    times = [0.5, 1.0, 7.0]
    run = gradient_flow(objective, start, time=7.0, save_at=times, rtol=1e-11, atol=1e-13)
    curvature = (x.mT @ x / 9 + 0.1 * torch.eye(3)).numpy()
    rest = np.linalg.solve(curvature, (x.mT @ y / 9).numpy()).T
    for index, t in enumerate(times):
        expected = rest + (w.numpy() - rest) @ expm(-t * curvature)
        np.testing.assert_allclose(run.saved[0][index].numpy(), expected, atol=1e-9)  # rtol over hundreds of steps
    assert run.times.dtype == torch.float64 and run.times.tolist() == times


def test_a_balanced_start_follows_its_closed_form(generator):
    values, first = torch.tensor([2.0, 1.0, 0.3]).double(), torch.tensor([1e-3, 0.1, 0.5]).double()
    left, inner, right = (torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0] for _ in range(3))
    task = Task(3**0.5 * torch.eye(3), 3**0.5 * (left * values @ right.mT).mT)  # inputs of covariance 1
    objective = Objective(Network((3, 3, 3), "linear"), task, weight_decay=0.0, loss="squared")
    start = (inner * first.sqrt() @ right.mT, left * first.sqrt() @ inner.mT)
    times = np.linspace(0, 6, 13)
    run = gradient_flow(objective, start, time=6.0, save_at=times)
    modes = (left.mT @ run.saved[1] @ run.saved[0] @ right).diagonal(dim1=-2, dim2=-1)
    np.testing.assert_allclose(modes.numpy(), exact.balanced_mode(times[:, None], values, first), atol=1e-7)


def test_gaps_decay_and_unseen_directions_are_forgotten(generator):
    task = teacher(4, 6, generator=generator)
    objective = Objective(Network((6, 5, 4, 1), "linear"), task, weight_decay=0.2)
    start = initialise(objective.network, members=(2, 3), generator=generator)
    run = gradient_flow(objective, start, time=5.0)
    for end, begin in zip(imbalance(run.weights), imbalance(start)):
        torch.testing.assert_close(end, begin * np.exp(-2 * 0.2 * 5), rtol=0, atol=1e-7)
    np.testing.assert_allclose(norm_gaps(run.weights), exact.norm_gap_decay(5.0, norm_gaps(start), 0.2), rtol=0, atol=1e-7)
    unseen = torch.eye(6, dtype=torch.float64) - torch.linalg.pinv(task.x) @ task.x
    torch.testing.assert_close(run.weights[0] @ unseen, np.exp(-0.2 * 5) * start[0] @ unseen, rtol=0, atol=1e-7)


@pytest.mark.parametrize("activation, loss", [("tanh", "logistic"), ("linear", "squared"), ("relu2", "logistic")])
def test_scipy_finds_the_same(activation, loss, task, generator):
    objective = Objective(Network((5, 4, 1), activation), task, weight_decay=0.05, loss=loss)
    start = initialise(objective.network, generator=generator)

    def field(_, y):
        w = (torch.tensor(y[:20]).reshape(4, 5), torch.tensor(y[20:]).reshape(1, 4))
        return np.concatenate([-(g + 0.05 * v).numpy().ravel() for g, v in zip(loss_gradients(objective, w), w)])

    twin = solve_ivp(field, (0, 8), np.concatenate([w.numpy().ravel() for w in start]), method="DOP853", rtol=1e-12, atol=1e-14)
    ours = gradient_flow(objective, start, time=8.0, rtol=1e-11)
    assert ours.status.shape == () and ours.weights[0].shape == (4, 5)
    np.testing.assert_allclose(np.concatenate([w.numpy().ravel() for w in ours.weights]), twin.y[:, -1], atol=1e-9)


def test_members_with_their_own_data_and_decay_equal_members_alone(generator):
    tasks = [teacher(12, 5, generator=generator) for _ in range(3)]
    together = Task(torch.stack([t.x for t in tasks]), torch.stack([t.y for t in tasks]))
    decays = torch.tensor([[0.01], [0.2]]).double()
    network = Network((5, 6, 1), "tanh")
    weights = initialise(network, members=(2, 3), generator=generator)
    stack = gradient_flow(Objective(network, together, weight_decay=decays), weights, time=10.0, save_at=[2.0, 5.0])
    assert stack.saved[0].shape == (2, 2, 3, 6, 5) and stack.status.shape == stack.stats["accepted_steps"].shape == (2, 3)
    for i in range(2):
        for j in range(3):
            objective = Objective(network, tasks[j], weight_decay=float(decays[i, 0]))
            alone = gradient_flow(objective, tuple(w[i, j] for w in weights), time=10.0, save_at=[2.0, 5.0])
            assert alone.stats["accepted_steps"] == stack.stats["accepted_steps"][i, j]
            for a, b in zip((*stack.weights, *(s.movedim(0, 2) for s in stack.saved)), (*alone.weights, *alone.saved)):
                torch.testing.assert_close(a[i, j], b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
def test_a_tolerance_ten_times_finer_at_least_halves_the_error(rtol, task, generator):
    objective = Objective(Network((5, 4, 4, 1), "tanh"), task, weight_decay=0.05)
    start = initialise(objective.network, members=3, generator=generator)
    coarse, fine, best = (
        gradient_flow(objective, start, time=20.0, rtol=r, atol=r / 1000).weights for r in (rtol, rtol / 10, 1e-12)
    )
    errors = [max(float((a - b).abs().max()) for a, b in zip(run, best)) for run in (coarse, fine)]
    assert 0 < errors[1] <= errors[0] / 2 and errors[0] <= 100 * rtol


def test_descent_approaches_the_flow_at_first_order(task, generator):
    objective = Objective(Network((5, 4, 1), "tanh"), task, weight_decay=0.05)
    start = initialise(objective.network, members=3, generator=generator)
    flow = gradient_flow(objective, start, time=8.0).weights
    errors = []
    for steps in (160, 320, 640):
        end = gradient_descent(objective, start, step_size=8.0 / steps, steps=steps).weights
        errors.append(sum((a - b).square().sum((-2, -1)) for a, b in zip(end, flow)).sqrt())
    slopes = [torch.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert ((slopes[1] - 1).abs() <= 0.05).all() and ((slopes[1] - 1).abs() < (slopes[0] - 1).abs()).all()


def test_status_and_outcome(generator):
    task = teacher(30, 4, generator=generator)
    network = Network((4, 5, 1), "linear")
    threshold = float((task.y[:, None] * task.x).mean(0).norm()) / 2  # 0 is stable exactly above
    decays = torch.tensor([0.7, 1.5]).double() * threshold
    start = initialise(network, members=2, generator=generator)
    run = gradient_flow(Objective(network, task, weight_decay=decays), start, time=1500.0)
    assert run.status.tolist() == ["converged", "collapsed"]
    with pytest.raises(TrainingError, match=r"1 collapsed, 1 converged, of 2, .* and time 1500; collapsed to zero: take"):
        trained(run)
    short = gradient_flow(Objective(network, task, weight_decay=decays), start, time=1.0)
    assert set(short.status) == {"max_steps"} and trained(short) is short


def test_members_that_are_given_up_leave_the_others_alone(generator):
    # weights of 1e120 overflow in the gradient, those of their neighbours do not
    task = Task([[1.0]], [[1.0]])
    objective = Objective(Network((1, 1, 1), "linear"), task, weight_decay=0.1, loss="squared")
    scales = torch.tensor([0.5, 1e120, 1.0], dtype=torch.float64)[:, None, None]
    start = (scales.clone(), scales.clone())
    run = gradient_flow(objective, start, time=3.0, save_at=[0.0, 1.0, 3.0])
    assert run.status.tolist() == ["max_steps", "diverged", "max_steps"]
    assert run.stats["given_up"].tolist() == ["", "not finite", ""]
    assert run.saved[0][0, 1] == 1e120 and run.saved[0][1:, 1].isnan().all()
    others = gradient_flow(objective, tuple(w[::2] for w in start), time=3.0, save_at=[0.0, 1.0, 3.0])
    assert all(torch.equal(a[:, ::2], b) for a, b in zip(run.saved, others.saved))
    with pytest.raises(TrainingError, match="numbers that are not finite: take smaller starting weights"):
        trained(run)


def test_a_relu_that_slides_along_a_kink_is_given_up(generator):
    objective = Objective(Network((20, 16, 1)), teacher(50, 20, generator=generator), weight_decay=0.01)
    run = gradient_flow(objective, initialise(objective.network, members=3, generator=generator), time=50.0, step_limit=300)
    assert set(run.status) == {"diverged"} and set(run.stats["given_up"]) == {"step limit"}
    with pytest.raises(TrainingError, match="3 diverged, of 3, .* gave up at its step limit: take a shorter time"):
        trained(run)


def test_integrate_gives_up_one_of_two_without_the_other():
    # y' = y² leaves every bound at t = 1/y(0)
    found = integrate(lambda _: torch.square, torch.tensor([[0.1], [2.0]], dtype=torch.float64), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64),
                      rtol=1e-10, atol=1e-12, step_limit=2000)  # fmt: skip
    np.testing.assert_allclose(found.values[0, :, 0], [0.1, 0.1 / 0.96, 0.1 / 0.9], rtol=1e-9)
    assert found.values[1, 1].item() == pytest.approx(10.0, rel=1e-8) and found.values[1, 2].isnan()
    assert found.given_up[0] == "" and found.given_up[1] in ("step limit", "not finite")


def test_inputs_are_not_touched(task, generator):
    network = Network((5, 4, 1))
    weights = initialise(network, members=2, generator=generator)
    times = torch.tensor([0.1, 0.2], dtype=torch.float64)
    copies = [t.clone() for t in (*weights, task.x, task.y, times)]
    gradient_flow(Objective(network, task, weight_decay=0.1), weights, time=0.2, save_at=times)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*weights, task.x, task.y, times)))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"time": 0.0}, ValueError, "time: expected a finite number > 0, got 0.0"),
        ({"time": float("inf")}, ValueError, "time: expected a finite number"),
        ({"time": "1"}, TypeError, "time: expected a finite number"),
        ({"rtol": 1e-15}, ValueError, "rtol: expected a finite number >= 1e-13"),
        ({"atol": 0.0}, ValueError, "atol: expected a finite number >= 1e-30"),
        ({"step_limit": 0}, ValueError, "step_limit: expected a whole number >= 1"),
        ({"save_at": []}, ValueError, "save_at: expected a list of times"),
        ({"save_at": [[0.0, 1.0]]}, ValueError, "save_at: expected a list of times, got shape"),
        ({"save_at": [0.0, 1.0, 1.0]}, ValueError, "save_at: expected increasing times within .* that do not increase"),
        ({"save_at": [-0.1, 1.0]}, ValueError, r"save_at: expected increasing times within \[0, 2\], got 2 from -0.1 to 1"),
        ({"save_at": [0.0, 2.5]}, ValueError, r"save_at: expected increasing times within \[0, 2\], got 2 from 0 to 2.5"),
        ({"save_at": [0.0, float("nan")]}, ValueError, "save_at: expected finite numbers"),
    ],
)
def test_bad_options_are_named(options, error, message, task, generator):
    objective = Objective(Network((5, 4, 1)), task, weight_decay=0.1)
    with pytest.raises(error, match=message):
        gradient_flow(objective, initialise(objective.network, generator=generator), **{"time": 2.0, **options})


def test_weights_and_decays_that_do_not_fit_are_named(task, generator):
    network = Network((5, 4, 1))
    first, second = initialise(network, members=2, generator=generator)
    objective = Objective(network, task, weight_decay=torch.full((3,), 0.1))
    with pytest.raises(ValueError, match=r"weight_decay: expected members' axes that broadcast to \(2,\)"):
        gradient_flow(objective, (first, second), time=1.0)
    second[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="W_2: expected finite numbers, got 1 of 8"):
        gradient_flow(Objective(network, task, weight_decay=0.1), (first, second), time=1.0)
