import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lowrank import (
    Network,
    Objective,
    Task,
    TrainingError,
    data_loss,
    gradient_descent,
    initialise,
    loss_gradients,
    norm_gaps,
    regularised_loss,
    teacher,
    trained,
)


def torch_twin(task, weights, *, step_size, weight_decay, steps, momentum=0.0):
    """The same training by nn.Sequential, softplus and torch.optim.SGD."""
    layers = []
    for w in weights:
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64)
        layer.weight.data = w.clone()
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.SGD(model.parameters(), lr=step_size, weight_decay=weight_decay, momentum=momentum)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.softplus(-task.y * model(task.x)[:, 0]).mean().backward()
        optimiser.step()
    return [layer.weight.detach() for layer in layers[::2]]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("widths", [(5, 7, 1), (5, 7, 6, 1)])
def test_descent_is_what_torch_does(widths, momentum, task, generator):
    network = Network(widths)
    weights = initialise(network, members=3, generator=generator)
    ours = gradient_descent(
        Objective(network, task, weight_decay=0.02), weights, step_size=0.3, steps=60, momentum=momentum
    )
    for member in range(3):
        twin = torch_twin(
            task, [w[member] for w in weights], step_size=0.3, weight_decay=0.02, steps=60, momentum=momentum
        )
        for a, b in zip(ours.weights, twin):
            torch.testing.assert_close(a[member], b, rtol=1e-10, atol=1e-12)


def test_members_with_their_own_rates_equal_members_alone(task, generator):
    network = Network((5, 6, 1))
    weights = initialise(network, members=(2, 3), generator=generator)
    decays = torch.tensor([[0.01], [0.05]], dtype=torch.float64)
    sizes = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    stack = gradient_descent(
        Objective(network, task, weight_decay=decays), weights, step_size=sizes, steps=40, window=20, save_every=15
    )
    assert stack.status.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = gradient_descent(
                Objective(network, task, weight_decay=float(decays[i, 0])), tuple(w[i, j] for w in weights),
                step_size=float(sizes[j]), steps=40, window=20, save_every=15,
            )  # fmt: skip
            assert alone.status.shape == () and str(alone.status) == stack.status[i, j]
            for a, b in zip(stack.weights, alone.weights):
                torch.testing.assert_close(a[i, j], b, rtol=1e-12, atol=1e-14)
            for a, b in zip(stack.saved, alone.saved):
                torch.testing.assert_close(a[:, i, j], b, rtol=1e-12, atol=1e-14)
            for a, b in zip(stack.window_mean.loss_gradients, alone.window_mean.loss_gradients):
                torch.testing.assert_close(a[i, j], b, rtol=1e-11, atol=1e-14)


def test_one_layer_reaches_ridge_logistic_regression(generator):
    task = teacher(40, 4, generator=generator)
    decay = 0.05
    found = gradient_descent(
        Objective(Network((4, 1)), task, weight_decay=decay), (torch.zeros(1, 4, dtype=torch.float64),),
        step_size=1.0, steps=4000, tolerance=1e-10,
    )  # fmt: skip
    assert str(found.status) == "converged"
    # scikit-learn minimises C Σℓ + ½‖w‖², so C = 1/(nλ).
    oracle = LogisticRegression(C=1 / (40 * decay), fit_intercept=False, tol=1e-12, max_iter=10_000)
    oracle.fit(task.x.numpy(), task.y.numpy())
    np.testing.assert_allclose(found.weights[0].numpy(), oracle.coef_, atol=1e-7)  # its tolerance over curvature λ


def test_saved_weights_are_those_of_shorter_runs(task, generator):
    network = Network((5, 4, 1))
    objective = Objective(network, task, weight_decay=0.1)
    weights = initialise(network, members=2, generator=generator)
    run = gradient_descent(objective, weights, step_size=0.2, steps=25, save_every=10)
    assert run.times.tolist() == [0, 10, 20, 25]
    for index, steps in ((1, 10), (2, 20), (3, 25)):
        shorter = gradient_descent(objective, weights, step_size=0.2, steps=steps)
        assert all(torch.equal(a[index], b) for a, b in zip(run.saved, shorter.weights))
    assert all(torch.equal(a[0], b) for a, b in zip(run.saved, weights))


def test_window_mean_against_a_loop(task, generator):
    network = Network((5, 4, 1))
    objective = Objective(network, task, weight_decay=0.1)
    weights = initialise(network, members=2, generator=generator)
    run = gradient_descent(objective, weights, step_size=0.2, steps=12, save_every=1, window=5)
    visited = [tuple(w[t] for w in run.saved) for t in range(7, 12)]
    gradients = [loss_gradients(objective, point) for point in visited]
    mean = run.window_mean
    assert mean.steps == 5 and all(torch.equal(a, b) for a, b in zip(mean.start, visited[0]))
    for k in range(2):
        torch.testing.assert_close(mean.weights[k], torch.stack([p[k] for p in visited]).mean(0), rtol=1e-14, atol=0)
        torch.testing.assert_close(mean.loss_gradients[k], torch.stack([g[k] for g in gradients]).mean(0), rtol=1e-13, atol=1e-17)
        norms = torch.stack([torch.linalg.matrix_norm(g[k]) for g in gradients]).mean(0)
        torch.testing.assert_close(mean.gradient_norms[:, k], norms, rtol=1e-13, atol=0)


def test_batches_are_drawn_from_the_generator(generator):
    task = teacher(10, 3, generator=generator)
    network = Network((3, 4, 1))
    weights = initialise(network, generator=generator)
    objective = Objective(network, task, weight_decay=0.1)
    run = gradient_descent(
        objective, weights, step_size=0.2, steps=3, batch_size=4, generator=torch.Generator().manual_seed(5)
    )
    draws, by_hand = torch.Generator().manual_seed(5), weights
    for _ in range(3):
        chosen = torch.randperm(10, generator=draws)[:4]
        part = Objective(network, Task(task.x[chosen], task.y[chosen]), weight_decay=0.1)
        by_hand = tuple(w - 0.2 * (g + 0.1 * w) for w, g in zip(by_hand, loss_gradients(part, by_hand)))
    for a, b in zip(run.weights, by_hand):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_status_names_divergence_collapse_convergence(generator):
    task = teacher(30, 4, generator=generator)
    network = Network((4, 5, 1), "linear")
    # For two linear layers 0 is stable exactly where λ ≥ ½‖(1/n)Σ y_i x_i‖.
    threshold = float((task.y[:, None] * task.x).mean(0).norm()) / 2
    decays = torch.tensor([0.7 * threshold, 1.5 * threshold, 0.7 * threshold], dtype=torch.float64)
    sizes = torch.tensor([0.5, 0.5, 1000.0], dtype=torch.float64)
    weights = initialise(network, members=3, generator=generator)
    run = gradient_descent(Objective(network, task, weight_decay=decays), weights, step_size=sizes, steps=4000)
    assert run.status.tolist() == ["converged", "collapsed", "diverged"]
    assert run.outcome == "1 collapsed, 1 converged, 1 diverged"
    with pytest.raises(TrainingError, match="1 diverged, of 3, .* take a smaller step_size; collapsed to zero: take a smaller weight_decay"):
        trained(run)
    fine = gradient_descent(Objective(network, task, weight_decay=0.7 * threshold), weights, step_size=0.5, steps=10)
    assert trained(fine) is fine
    assert str(gradient_descent(Objective(network, task, weight_decay=0.01), weights, step_size=0.1, steps=1).status[0]) == "max_steps"


def test_divergence_of_one_member_leaves_the_others_alone(task, generator):
    network = Network((5, 4, 1))
    weights = initialise(network, members=2, generator=generator)
    objective = Objective(network, task, weight_decay=0.01)
    both = gradient_descent(objective, weights, step_size=torch.tensor([0.1, 1e6], dtype=torch.float64), steps=300)
    alone = gradient_descent(objective, tuple(w[0] for w in weights), step_size=0.1, steps=300)
    assert both.status[1] == "diverged" and torch.isfinite(both.weights[0][0]).all()
    torch.testing.assert_close(both.weights[0][0], alone.weights[0], rtol=1e-11, atol=1e-13)


def test_a_batch_run_on_pure_noise_has_not_diverged():
    g = torch.Generator().manual_seed(1)
    task = Task(torch.randn(200, 3, generator=g), torch.randn(200, generator=g).sign())
    objective = Objective(Network((3, 1)), task, weight_decay=1e-3)
    weights = initialise(objective.network, members=5, scale=1e-3, generator=g)
    run = gradient_descent(objective, weights, step_size=0.1, steps=100, batch_size=2, generator=g)
    assert "diverged" not in run.outcome


def test_a_dead_network_that_has_hardly_moved_has_not_collapsed():
    dead = (torch.full((2, 1), -3.0, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    objective = Objective(Network((1, 2, 1)), Task([[1.0]], [1.0]), weight_decay=1e-8)
    assert str(gradient_descent(objective, dead, step_size=0.1, steps=10).status) == "max_steps"


def test_a_deep_network_on_its_way_to_zero_is_called_collapsed(generator):
    objective = Objective(Network((3, 8, 8, 1)), teacher(50, 3, generator=generator), weight_decay=0.3)
    weights = initialise(objective.network, members=4, generator=generator)
    assert set(gradient_descent(objective, weights, step_size=0.2, steps=200).status) == {"collapsed"}


def test_a_large_start_that_forgets_has_not_collapsed(generator):
    objective = Objective(Network((5, 20, 1)), teacher(30, 5, generator=generator), weight_decay=0.02)
    weights = initialise(objective.network, members=4, scale=12.0, generator=generator)
    assert set(gradient_descent(objective, weights, step_size=0.5, steps=1000).status) <= {"max_steps", "converged"}


def test_a_large_start_under_a_frozen_read_out_that_forgets_has_not_collapsed(generator):
    objective = Objective(Network((20, 40, 1)), teacher(60, 20, generator=generator), weight_decay=0.015)
    weights = (20 * torch.randn(4, 40, 20, generator=generator, dtype=torch.float64) / 20**0.5, initialise(objective.network, members=4, generator=generator)[1])
    run = gradient_descent(objective, weights, step_size=4.0, steps=100, frozen=(2,))
    assert (data_loss(objective, run.weights) < 0.6).all()  # log 2 = 0.69 at zero
    assert set(run.status) <= {"max_steps", "converged"}


def test_a_large_start_that_passes_the_loss_of_zero_on_its_way_down_has_not_collapsed(generator):
    objective = Objective(Network((20, 40, 1)), teacher(60, 20, generator=generator), weight_decay=0.02)
    hidden = 20 * torch.randn(2, 40, 20, generator=generator, dtype=torch.float64) / 20**0.5
    start = (hidden, initialise(objective.network, members=2, generator=generator)[1])
    run = gradient_descent(objective, start, step_size=0.1, steps=2000, save_every=1, frozen=(2,))
    height = regularised_loss(objective, run.saved) - regularised_loss(objective, (0 * start[0], start[1]))
    small = height.abs() < 1e-3 * np.log(2)
    for member in range(2):
        near = small[:, member].nonzero()[:, 0]
        for steps in (int(near[0]), int(near[-1])):  # a little above the loss of zero, and a little below
            passing = gradient_descent(objective, tuple(w[member] for w in start), step_size=0.1, steps=steps, frozen=(2,))
            assert passing.weights[0].square().sum() < 1e-2 * hidden[member].square().sum()
            assert str(passing.status) == "max_steps"
        assert height[near[0], member] > 0 > height[near[-1], member] > height[-1, member]


@pytest.mark.parametrize("name, decay, rate", [("weight_decay", (3,), ()), ("step_size", (), (3,)), ("weight_decay", (2, 4), ())])
def test_rates_that_do_not_fit_the_members_are_named(name, decay, rate, task, generator):
    objective = Objective(Network((5, 4, 1)), task, weight_decay=torch.full(decay, 0.1))
    weights = initialise(objective.network, members=4, generator=generator)
    with pytest.raises(ValueError, match=rf"{name}: expected members' axes that broadcast to \(4,\)"):
        gradient_descent(objective, weights, step_size=torch.full(rate, 0.1), steps=1)


def test_inputs_are_not_touched(task, generator):
    network = Network((5, 4, 1))
    weights = initialise(network, members=2, generator=generator)
    copies = [t.clone() for t in (*weights, task.x, task.y)]
    gradient_descent(Objective(network, task, weight_decay=0.1), weights, step_size=0.2, steps=5, window=5, momentum=0.5)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*weights, task.x, task.y)))


def test_gd_departs_from_the_flows_gap_law_at_first_order(generator):
    # Over a fixed time the gap law of the flow, e^{−2λt}, is missed by O(η): the slope in log–log is 1.
    task = teacher(20, 4, generator=generator)
    network = Network((4, 6, 1), "linear")
    weights = initialise(network, generator=generator)
    objective = Objective(network, task, weight_decay=0.1)
    sizes = 0.4 / 2.0 ** np.arange(6)
    errors = []
    for eta in sizes:
        end = gradient_descent(objective, weights, step_size=float(eta), steps=round(4 / eta)).weights
        errors.append(abs(float(norm_gaps(end)[0]) - float(norm_gaps(weights)[0]) * np.exp(-2 * 0.1 * 4)))
    slope = np.polyfit(np.log(sizes[2:]), np.log(errors[2:]), 1)[0]
    assert abs(slope - 1) < 0.1


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"step_size": 0.0}, ValueError, "step_size: expected numbers > 0, got 0"),
        ({"step_size": float("nan")}, ValueError, "step_size: expected finite numbers"),
        ({"steps": 0}, ValueError, "steps: expected a whole number >= 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps: expected a whole number >= 1, got 2.5"),
        ({"window": 11}, ValueError, "window: expected at most steps = 10, got 11"),
        ({"save_every": 0}, ValueError, "save_every: expected a whole number >= 1"),
        ({"momentum": -1.0}, ValueError, "momentum: expected a finite number >= 0 and <= 1, got -1.0"),
        ({"frozen": (3,)}, ValueError, "frozen: expected a whole number >= 1 and <= 2, got 3"),
        ({"frozen": (1, 2)}, ValueError, "frozen: expected at least one of 2 layers to learn, got all of them"),
        ({"frozen": 2}, TypeError, r"frozen: expected numbers of layers such as \(2,\), got 2"),
        ({"batch_size": 3}, TypeError, "generator: expected a torch.Generator"),
        ({"batch_size": 99, "generator": torch.Generator()}, ValueError, "batch_size: expected at most n = 12, got 99"),
    ],
)
def test_bad_options_are_named(options, error, message, task, generator):
    network = Network((5, 4, 1))
    objective = Objective(network, task, weight_decay=0.1)
    with pytest.raises(error, match=message):
        gradient_descent(objective, initialise(network, generator=generator), **{"step_size": 0.1, "steps": 10, **options})


def test_weights_that_are_not_finite_are_named(task, generator):
    network = Network((5, 4, 1))
    first, second = initialise(network, generator=generator)
    second[0, 0] = float("nan")
    with pytest.raises(ValueError, match="W_2: expected finite numbers, got 1 of 4"):
        gradient_descent(Objective(network, task, weight_decay=0.1), (first, second), step_size=0.1, steps=1)


def test_frozen_layers_stay_and_the_others_learn_as_in_torch(task, generator):
    network = Network((5, 7, 6, 1))
    weights = initialise(network, members=2, generator=generator)
    for frozen, momentum in (((3,), 0.0), ((1, 3), 0.9)):
        run = gradient_descent(
            Objective(network, task, weight_decay=0.02), weights, step_size=0.3, steps=40, momentum=momentum, frozen=frozen
        )
        for member in range(2):
            layers = [torch.nn.Linear(w.shape[-1], w.shape[-2], bias=False, dtype=torch.float64) for w in weights]
            for layer, w in zip(layers, weights):
                layer.weight.data = w[member].clone()
            learning = [layer.weight for k, layer in enumerate(layers, start=1) if k not in frozen]
            optimiser = torch.optim.SGD(learning, lr=0.3, weight_decay=0.02, momentum=momentum)
            for _ in range(40):
                optimiser.zero_grad()
                hidden = layers[1](layers[0](task.x).relu()).relu()
                torch.nn.functional.softplus(-task.y * layers[2](hidden)[:, 0]).mean().backward()
                optimiser.step()
            for k, (layer, w) in enumerate(zip(layers, weights), start=1):
                torch.testing.assert_close(run.weights[k - 1][member], layer.weight.detach(), rtol=1e-10, atol=1e-12)
                assert torch.equal(run.weights[k - 1], w) == (k in frozen)


def test_the_status_is_that_of_the_layers_that_learn(generator):
    # One input and a linear layer on top of a frozen one: convex, so that descent comes to rest.
    objective = Objective(Network((1, 1, 1), "linear"), Task([[1.0]], [1.0]), weight_decay=0.1)
    start = (torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64))
    run = gradient_descent(objective, start, step_size=0.5, steps=400, frozen=(1,))
    assert str(run.status) == "converged" and run.stats["frozen"] == (1,)
    w = float(run.weights[1])  # 0.1 w = 2/(1 + e^{2w}) at rest
    assert 0.1 * w == pytest.approx(2 / (1 + np.exp(2 * w)), abs=1e-6)
    # A frozen layer of 0 makes the other one go to zero, though the frozen one does not.
    dead = gradient_descent(objective, (start[0], 0 * start[1]), step_size=0.5, steps=400, frozen=(2,))
    assert str(dead.status) == "collapsed"
