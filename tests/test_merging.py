import contextlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import (
    Network,
    Objective,
    Task,
    average,
    bounds,
    check,
    coherence,
    decision_distance,
    forward,
    gradient_descent,
    initialise,
    interference,
    layer_changes,
    merge,
    predicted_change,
    second_moments,
    sum_weights,
    task_arithmetic,
    ties,
)
from lowrank._numbers import EPS
from lowrank.networks import ACTIVATIONS


def pair(generator, members=()):
    network = Network((3, 4, 1))
    return network, [initialise(network, members=members, generator=generator) for _ in range(2)]


def test_sum_and_average_against_numpy(generator):
    _, models = pair(generator, members=(2,))
    for rule, expected in ((sum_weights, np.sum), (average, np.mean)):
        for k, w in enumerate(merge(models, rule)):
            np.testing.assert_allclose(w, expected([m[k].numpy() for m in models], axis=0), rtol=1e-15)


def test_a_base_is_taken_off_and_put_back(generator):
    _, (a, b) = pair(generator)
    base = tuple(torch.ones_like(w) for w in a)
    for k, w in enumerate(merge([a, b], base=base)):
        np.testing.assert_allclose(w, a[k] + b[k] - 1, rtol=1e-14, atol=1e-15)


def test_dicts_come_back_as_dicts(generator):
    _, (a, b) = pair(generator)
    merged = merge([{"in": a[0], "out": a[1]}, {"out": b[1], "in": b[0]}])
    assert list(merged) == ["in", "out"]
    assert torch.equal(merged["out"], a[1] + b[1])


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 4), count=st.integers(2, 5))
def test_average_is_the_sum_up_to_a_positive_factor(seed, depth, count):
    generator = torch.Generator().manual_seed(seed)
    network = Network((3, *[4] * (depth - 1), 1))
    models = [initialise(network, generator=generator) for _ in range(count)]
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    of_sum, of_average = (forward(network, merge(models, rule), x) for rule in (sum_weights, average))
    torch.testing.assert_close(of_average * count**depth, of_sum, rtol=1e-9, atol=1e-12)


def test_models_are_not_touched(generator):
    _, models = pair(generator)
    copies = [w.clone() for model in models for w in model]
    merge(models)
    assert all(torch.equal(a, b) for a, b in zip(copies, (w for model in models for w in model)))


def test_a_rule_of_the_wrong_shape_is_named(generator):
    _, models = pair(generator)
    with pytest.raises(ValueError, match=r"rule: expected a tensor \(4, 3\) for W_1, got \(2, 4, 3\)"):
        merge(models, lambda deltas: deltas)


@pytest.mark.parametrize(
    "models, error, message",
    [
        ([], ValueError, "models: expected at least two, got 0"),
        ([(torch.ones(2, 2),)], ValueError, "models: expected at least two, got 1"),
        ([(torch.ones(2, 2),), (torch.ones(2, 3),)], ValueError, r"models\[1\]\[W_1\]: expected \(2, 2\) .* got \(2, 3\)"),
        ([(torch.ones(2, 2),), (torch.ones(2, 2).double(),)], ValueError, "of torch.float32 as in .* of torch.float64"),
        ([(torch.ones(2, 2),), (torch.ones(2, 2),) * 2], ValueError, r"models\[1\]: expected the entries of models\[0\].* W_2"),
        ([{"a": torch.ones(1)}, {"b": torch.ones(1)}], ValueError, "difference in a, b"),
        ([(torch.ones(1),), (torch.tensor([torch.nan]),)], ValueError, r"models\[1\]\[W_1\]: expected finite"),
        ([(torch.ones(1),), ([1.0],)], TypeError, r"models\[1\]\[W_1\]: expected a tensor, got list"),
        ([(torch.ones(1),), {"W_1": torch.ones(1)}], TypeError, "models: expected all tuples or all dicts, got both"),
        ([(torch.ones(1),), 3], TypeError, r"models\[1\]: expected a tuple or dict of tensors, got int"),
        (torch.ones(2, 3), TypeError, r"models: expected a list of at least two networks, got Tensor; put the networks into one list, \[A, B\]"),
        ({"a": torch.ones(1)}, TypeError, r"models: expected a list of at least two networks, got dict; put the networks into one list"),
        ((torch.ones(2, 2), torch.ones(1, 2)), TypeError, r"models\[0\]: .* got Tensor; put the networks into one list, \[A, B\], each a tuple"),
        ([(torch.ones(2, 2),), (torch.ones(2, 2).half(),)], ValueError, r"models\[1\]\[W_1\]: .* got \(2, 2\) of torch.float16; convert it"),
        ([(torch.ones(2, 2).int(),)] * 2, TypeError, r"models\[0\]\[W_1\]: expected floating-point numbers, got torch.int32"),
        ([(), ()], ValueError, r"models\[0\]: expected at least one tensor, got none"),
        ([{}, {}], ValueError, r"models\[0\]: expected at least one tensor, got none"),
    ],
)
def test_mismatches_are_named(models, error, message):
    with pytest.raises(error, match=message):
        merge(models)


def test_task_arithmetic_against_numpy(generator):
    _, (a, b) = pair(generator, members=(2,))
    base = tuple(torch.ones_like(w) for w in a)
    for k, w in enumerate(merge([a, b], task_arithmetic(scale=0.3), base=base)):
        np.testing.assert_allclose(w, 1 + 0.3 * (a[k].numpy() + b[k].numpy() - 2), rtol=1e-13, atol=1e-14)


def ties_by_hand(models, density):
    """Trim, elect, merge, one entry after another: models (T, p) as lists."""
    trimmed = []
    for vector in models:
        kept = sorted(range(len(vector)), key=lambda p: -abs(vector[p]))[: int(np.ceil(density * len(vector) - 1e-9))]
        trimmed.append([value if p in kept else 0.0 for p, value in enumerate(vector)])
    merged = []
    for entry in zip(*trimmed):
        elected = np.sign(sum(entry))
        agreeing = [value for value in entry if np.sign(value) == elected and value != 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return merged


@given(seed=st.integers(0, 10**6), count=st.integers(2, 5), density=st.sampled_from([0.05, 0.2, 0.4, 0.5, 1.0]))
def test_ties_against_loops(seed, count, density):
    deltas = torch.randn(count, 2, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    merged = ties(density=density)(deltas)
    for member in range(2):
        expected = ties_by_hand(deltas[:, member].flatten(1).tolist(), density)
        np.testing.assert_allclose(merged[member].flatten(), expected, rtol=1e-14, atol=1e-15)


def test_ties_on_one_entry_each():
    # kept by both and agreeing; kept by both, the larger wins; kept by one; equal and opposite: no sign is elected
    deltas = torch.tensor([[[4.0, 5.0, 3.0, 2.0]], [[2.0, -3.0, 1.0, -2.0]]]).double()
    assert ties(density=0.75)(deltas)[0].tolist() == [3.0, 5.0, 3.0, -2.0]  # 2.0 and 1.0 are trimmed away
    assert ties(density=1.0)(deltas)[0].tolist() == [3.0, 5.0, 2.0, 0.0]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ties(density=0.0), ValueError, "density: expected a finite number > 0 and <= 1, got 0.0"),
        (lambda: ties(density=20), ValueError, "density: .* got 20"),
        (lambda: ties(density="a fifth"), TypeError, "density: .* got 'a fifth'"),
        (lambda: task_arithmetic(scale=float("nan")), ValueError, "scale: expected a finite number, got nan"),
        (lambda: ties(0.2), TypeError, "positional"),
    ],
)
def test_options_of_rules_are_checked(call, error, message):
    with pytest.raises(error, match=message):
        call()


def numpy_forward(weights, x):
    h = x.numpy().T
    for w in weights[:-1]:
        h = np.maximum(w.numpy() @ h, 0)
    return (weights[-1].numpy() @ h).T


@pytest.mark.parametrize("outputs", [1, 3])
def test_interference_of_solutions_tuples_and_state_dicts_against_numpy(generator, outputs):
    network = Network((3, 4, outputs))
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(6, generator=generator).sign() if outputs == 1 else torch.tensor([0, 1, 2, 0, 1, 2])
    task = Task(x, y)
    loss = "logistic" if outputs == 1 else "cross_entropy"
    solutions = [
        gradient_descent(
            Objective(network, task, weight_decay=0.1, loss=loss), initialise(network, generator=generator), step_size=0.1, steps=3
        )
        for _ in range(2)
    ]
    both = [s.weights for s in solutions]
    expected = [numpy_forward([v + w for v, w in zip(*both)], x) - numpy_forward(own, x) for own in both]
    expected = np.stack(expected)[..., 0] if outputs == 1 else np.stack(expected)
    modules = [torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.ReLU(), torch.nn.Linear(4, outputs, bias=False)) for _ in both]
    for module, weights in zip(modules, both):
        module.double().load_state_dict(dict(zip(("0.weight", "2.weight"), weights)))
    for models in (solutions, both, [module.state_dict() for module in modules]):
        np.testing.assert_allclose(interference(models, task), expected, rtol=1e-12, atol=1e-14)
    halved = interference(both, task, rule=average)
    np.testing.assert_allclose(halved, interference([tuple(w / 2 for w in own) for own in both], task).numpy() + np.stack(
        [(numpy_forward([w / 2 for w in own], x) - numpy_forward(own, x)).squeeze(-1 if outputs == 1 else ()) for own in both]
    ), rtol=1e-12, atol=1e-14)  # fmt: skip


def test_interference_keeps_members_and_takes_a_base_and_an_activation(generator):
    network, models = pair(generator, members=(2,))
    base = tuple(torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in models[0])
    task = Task(torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.ones(5))
    change = interference(models, task, rule=task_arithmetic(scale=0.5), base=base)
    assert change.shape == (2, 2, 5)
    alone = interference([tuple(w[1] for w in m) for m in models], task, rule=task_arithmetic(scale=0.5), base=tuple(w[1] for w in base))
    torch.testing.assert_close(change[:, 1], alone, rtol=1e-12, atol=1e-14)
    linear = interference(models, task, network=Network((3, 4, 1), "linear"))
    a, b = models
    product = (a[1] + b[1]) @ (a[0] + b[0]) - a[1] @ a[0]
    np.testing.assert_allclose(linear[0], (product @ task.x.mT)[:, 0], rtol=1e-12, atol=1e-14)


def solution(activation="relu", widths=(3, 4, 1), seed=0):
    network, g = Network(widths, activation), torch.Generator().manual_seed(seed)
    task = Task(torch.randn(5, widths[0], generator=g, dtype=torch.float64), torch.ones(5))
    return gradient_descent(Objective(network, task, weight_decay=0.1), initialise(network, generator=g), step_size=0.1, steps=2)


ANY = Task(torch.ones(2, 3), torch.ones(2))
WITH_BIAS = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)).double().state_dict()


@pytest.mark.parametrize(
    "models, error, message",
    [
        ([], ValueError, "models: expected at least two, got 0"),
        ([solution()], ValueError, "models: expected at least two, got 1"),
        ([solution(), solution("tanh")], ValueError, r"models\[1\]: expected a solution for .*relu.* got one for .*tanh"),
        ([solution(), solution(widths=(3, 5, 1))], ValueError, r"models\[1\]: expected a solution for .*3, 4, 1.* got one for .*3, 5, 1"),
        ([solution().weights, solution(widths=(3, 5, 1)).weights], ValueError, r"models\[1\]\[W_1\]: expected \(4, 3\) .* got \(5, 3\)"),
        ([solution().weights, solution(widths=(3, 4, 4, 1)).weights], ValueError, r"models\[1\]: .*difference in W_3"),
        ([WITH_BIAS, WITH_BIAS], ValueError, r"models\[0\]\[0.bias\]: expected weight matrices only, got shape \(4,\); a bias"),
        ([{"0.weight": torch.ones(3, 3).double(), "0.bias": torch.ones(1, 3).double()}] * 2, ValueError, r"models\[0\]\[0.bias\]: .* a bias"),
        ([(torch.ones(4, 3).double(), torch.ones(4).double())] * 2, ValueError, r"models\[0\]\[W_2\]: expected weight matrices only"),
        ([tuple(w.float() for w in solution().weights)] * 2, TypeError, "W_1: expected a float64 tensor, got torch.float32"),
        ([solution().weights, tuple(w.float() for w in solution().weights)], ValueError, r"models\[1\]\[W_1\]: .*got .*float32"),
        ([solution().weights[::-1]] * 2, ValueError, r"models\[0\]: expected matrices in the order of the layers.* W_2 takes 3 and gets 1"),
        ([(), ()], ValueError, r"models\[0\]: expected at least one tensor"),
        (None, TypeError, "models: expected a list of at least two networks, got NoneType"),
        (solution(), TypeError, "models: expected a list of at least two networks, got Solution"),
        ([solution().weights, "weights"], TypeError, r"models\[1\]: expected a tuple or dict of tensors, got str"),
    ],
)
def test_interference_refuses_what_the_theorems_are_not_about(models, error, message):
    with pytest.raises(error, match=message):
        interference(models, ANY)


def test_interference_names_inputs_and_networks_that_do_not_fit():
    models = [solution(seed=s) for s in range(2)]
    with pytest.raises(ValueError, match=r"x: expected \(\*E, n, 3\), got \(2, 5\)"):
        interference(models, Task(torch.ones(2, 5), torch.ones(2)))
    with pytest.raises(ValueError, match=r"models\[0\]: expected a solution for .*linear"):
        interference(models, ANY, network=Network((3, 4, 1), "linear"))
    with pytest.raises(TypeError, match="task: expected a Task, got Tensor"):
        interference(models, ANY.x)
    with pytest.raises(TypeError, match="got Solution; pass its .weights"):
        merge(models)


def test_merge_takes_biases_as_tensors_like_others():
    merged = merge([WITH_BIAS, WITH_BIAS])
    assert torch.equal(merged["0.bias"], 2 * WITH_BIAS["0.bias"])


def test_tasks_that_overlap_leave_premises_unmet(generator):
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    orthogonal = check("inputs orthogonal", coherence(Task(x, torch.ones(4)), Task(x, torch.ones(4))), "<=", 1e-12)
    assert check("a theorem on orthogonal tasks", 2.0, "<=", 1.0, premises=[orthogonal]).verdict == "premises unmet"


def test_second_moments_against_numpy(generator):
    network = Network((3, 4, 5, 1))
    weights = initialise(network, members=2, generator=generator)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    moments = second_moments(network, weights, x)
    assert [tuple(m.shape) for m in moments] == [(3, 3), (2, 4, 4), (2, 5, 5)]
    h = np.maximum(x.numpy() @ weights[0][1].numpy().T, 0)
    np.testing.assert_allclose(moments[1][1], h.T @ h / 7, rtol=1e-13)
    h = np.maximum(h @ weights[1][1].numpy().T, 0)
    np.testing.assert_allclose(moments[2][1], sum(np.outer(row, row) for row in h) / 7, rtol=1e-13)


def test_layer_changes_against_numpy(generator):
    network = Network((3, 4, 5, 2))
    own, merged = (initialise(network, members=2, generator=generator) for _ in range(2))
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    moments = second_moments(network, own, x)
    changes, norms = layer_changes(network, own, merged, moments)
    assert changes.shape == norms.shape == (2, 3)
    h = np.maximum(x.numpy() @ own[0][1].numpy().T, 0)
    expected = np.sqrt(np.mean(np.sum((h @ (merged[1] - own[1])[1].numpy().T) ** 2, 1)))
    np.testing.assert_allclose(changes[1, 1], expected, rtol=1e-13)
    np.testing.assert_allclose(norms[1, 2], np.linalg.norm(merged[2][1].numpy(), 2), rtol=1e-13)
    coarse = layer_changes(network, own, merged, moments[:1])[0]
    size = np.sqrt(np.mean(np.sum((x.numpy() @ own[0][1].numpy().T) ** 2, 1)))
    np.testing.assert_allclose(coarse[1, 1], size * np.linalg.norm((merged[1] - own[1])[1].numpy(), 2), rtol=1e-13)
    size *= np.linalg.norm(own[1][1].numpy(), 2)
    np.testing.assert_allclose(coarse[1, 2], size * np.linalg.norm((merged[2] - own[2])[1].numpy(), 2), rtol=1e-13)
    assert (coarse >= changes * (1 - 1e-12)).all()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"network": Network((3, 4, 1), "relu2")}, ValueError, "network: expected a 1-Lipschitz activation .* got relu2"),
        ({"moments": ()}, TypeError, r"moments: expected a tuple \(M_0, …\)"),
        ({"moments": torch.eye(3)}, TypeError, r"moments: expected a tuple \(M_0, …\)"),
        ({"moments": (torch.eye(4),)}, ValueError, r"moments\[0\]: expected \(\*E, 3, 3\), got \(4, 4\)"),
        ({"moments": (torch.eye(3), torch.eye(4), torch.eye(1))}, ValueError, "moments: expected 1 to 2, .* got 3"),
        ({"merged": (torch.ones(4, 3).double(),)}, ValueError, "weights: expected a tuple of 2 tensors, got 1"),
        ({"moments": (-torch.eye(3),)}, ValueError, r"moments\[0\]: expected a symmetric positive semidefinite matrix"),
        ({"moments": (torch.eye(3) + torch.ones(3, 3).triu(1) / 2,)}, ValueError, r"moments\[0\]: expected a symmetric positive semidef"),
        ({"own": (torch.full((4, 3), torch.nan).double(), torch.ones(1, 4).double())}, ValueError, r"own\[0\]: expected finite numbers"),
        ({"merged": (torch.ones(4, 3).double(), torch.full((1, 4), torch.inf).double())}, ValueError, r"merged\[1\]: expected finite"),
        (
            {"own": initialise(Network((3, 4, 1)), members=2, generator=torch.Generator().manual_seed(0)),
             "merged": initialise(Network((3, 4, 1)), members=3, generator=torch.Generator().manual_seed(0))},
            ValueError, r"merged: expected members' axes that broadcast .* got \(2,\), \(3,\), \(\)",
        ),  # fmt: skip
    ],
)
def test_layer_changes_refuses_what_its_bound_is_not_about(generator, change, error, message):
    network, (own, merged) = pair(generator)
    given_ = {"network": network, "own": own, "merged": merged, "moments": (torch.eye(3),), **change}
    with pytest.raises(error, match=message):
        layer_changes(**given_)


def test_second_moments_want_inputs_and_finite_weights(generator):
    network, (own, _) = pair(generator)
    with pytest.raises(ValueError, match="x: expected at least one input, got none"):
        second_moments(network, own, torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"weights\[1\]: expected finite numbers"):
        second_moments(network, (own[0], own[1] * torch.nan), torch.ones(2, 3))


def test_predicted_change_names_its_own_argument(generator):
    network, (own, merged) = pair(generator)
    with pytest.raises(ValueError, match=r"^moment: expected \(\*E, 3, 3\), got \(4, 4\)"):
        predicted_change(network, own, merged, torch.eye(4))
    with pytest.raises(ValueError, match="^moment: expected a symmetric positive semidefinite"):
        predicted_change(network, own, merged, -torch.eye(3))


def test_outputs_without_an_axis_of_outputs_are_refused():
    with pytest.raises(ValueError, match=r"outputs: expected \(\*E, n, c\), c = 1 for one output, got \(5,\)"):
        decision_distance(torch.ones(5))
    with pytest.raises(ValueError, match=r"outputs: expected \(\*E, n, c\), c = 1 for one output, got \(5, 0\)"):
        decision_distance(torch.ones(5, 0))


def test_interference_does_not_mix_up_layers_of_dicts_in_another_order(generator):
    layers = [{str(k): torch.randn(3, 3, generator=generator, dtype=torch.float64) for k in range(2)} for _ in range(2)]
    turned = {"1": layers[1]["1"], "0": layers[1]["0"]}
    network = Network((3, 3, 3))
    interference(layers, Task(torch.ones(2, 3), torch.ones(2, 3)), network=network)
    with pytest.raises(ValueError, match=r"models\[1\]: expected the entries of models\[0\] in their order, \['0', '1'\], got \['1', '0'\]"):
        interference([layers[0], turned], Task(torch.ones(2, 3), torch.ones(2, 3)), network=network)
    merged = merge([layers[0], turned])
    assert torch.equal(merged["0"], layers[0]["0"] + layers[1]["0"])


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (None, TypeError, "rule: expected a function of stacked matrices, such as sum_weights, got None"),
        (ties, TypeError, r"rule: expected ties\(…\) with its number, got ties itself"),
        (task_arithmetic, TypeError, r"rule: expected task_arithmetic\(…\) with its number"),
        (lambda deltas: deltas.sum(0) * torch.nan, ValueError, "rule: expected finite numbers for W_1, got NaN"),
    ],
)
def test_a_rule_that_is_none_is_named(generator, rule, error, message):
    with pytest.raises(error, match=message):
        merge(pair(generator)[1], rule)


def test_a_pair_in_place_of_a_list_is_named(generator):
    _, (a, b) = pair(generator)
    for other in (b, list(b), {"in": b[0]}, solution()):
        with pytest.raises(TypeError, match=rf"rule: .* got a {type(other).__name__}; put the networks into one list, \[A, B\]"):
            merge(a, other)
    with pytest.raises(TypeError, match="rule: expected a function of stacked matrices, such as sum_weights, got Tensor$"):
        merge([a, b], b[0])


def test_what_overflows_is_named_and_not_returned():
    huge = (torch.full((2, 2), 1e308, dtype=torch.float64),)
    for rule in (sum_weights, average, task_arithmetic(scale=0.1), ties(density=1.0)):
        assert torch.isinf(rule(torch.stack([huge[0]] * 2))).all()
        with pytest.raises(ValueError, match="rule: expected finite numbers for W_1, got NaN or infinity; where sums overflow, convert"):
            merge([huge, huge], rule)
    opposite = (-huge[0],)
    with pytest.raises(ValueError, match=r"base\[W_1\]: expected differences to the models within torch.float64, got infinity; where"):
        merge([huge, huge], average, base=opposite)
    with pytest.raises(ValueError, match="rule: expected finite numbers for W_1"):  # base + rule(…) overflows, neither alone
        merge([(huge[0] * 0 + 1e308,), (huge[0] * 0 + 1e308,)], lambda deltas: deltas[0] * 0 + 1e308, base=(huge[0],))
    half = (torch.full((2, 2), 6e4, dtype=torch.float16),)
    with pytest.raises(ValueError, match="rule: expected finite numbers for W_1"):
        merge([half, half])
    assert torch.equal(merge([tuple(w.float() for w in half)] * 2)[0], torch.full((2, 2), 1.2e5))
    # a sum that overflows for a moment is refused too: 1 + 1 − 1 of the largest numbers
    with pytest.raises(ValueError, match="rule: expected finite numbers for W_1"):
        merge([huge, huge, opposite])


@pytest.mark.parametrize("rows, columns", [(3, 5), (20, 30), (100, 200)])
def test_spectral_norms_are_rounded_up_by_little(generator, rows, columns):
    network = Network((columns, rows), "linear")
    for _ in range(20):  # ‖u vᵀ‖² = |u|²|v|², a whole number here
        u, v = (torch.randint(1, 10, (side,), generator=generator).double() for side in (rows, columns))
        matrix = (torch.outer(u, v),)
        norm = Fraction(float(layer_changes(network, matrix, matrix, [torch.eye(columns)])[1]))
        exactly = int(u @ u) * int(v @ v)
        assert exactly <= norm**2 <= exactly * (1 + 10 * (rows + columns) * Fraction(EPS))


@pytest.mark.parametrize("density, entries, kept", [(1e-300, 4, 1), (1e-12, 4, 1), (0.1, 30, 3), (0.07, 100, 7), (0.2, 5, 1), (0.3, 10, 3), (0.7, 10, 7), (0.25 + 1e-10, 4, 2), (1.0, 7, 7)])
def test_ties_keeps_one_entry_at_least_and_no_more_for_rounding(density, entries, kept):
    deltas = torch.arange(1.0, entries + 1, dtype=torch.float64).reshape(1, 1, -1).repeat(2, 1, 1)
    assert int((ties(density=density)(deltas) != 0).sum()) == kept


def test_moments_in_single_precision_pass_and_others_do_not(generator):
    network, (own, merged) = pair(generator)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)  # rank two of three
    exact_moment = x.mT @ x / 2
    expected = layer_changes(network, own, merged, [exact_moment])[0]
    torch.testing.assert_close(layer_changes(network, own, merged, [exact_moment.float()])[0], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer_changes(network, own, merged, [torch.zeros(3, 3)])[0], torch.zeros(2).double())
    diagonal, corner = torch.diag(torch.tensor([1.0, 0.5, 0.0]).double()), torch.zeros(3, 3).double()
    corner[2, 2] = 1.0
    skew = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).double()
    for wrong in (-corner, skew):
        layer_changes(network, own, merged, [diagonal + 1e-7 * wrong])  # single precision has a unit of 1.2e-7
        with pytest.raises(ValueError, match=r"moments\[0\]: expected a symmetric positive semidefinite"):
            layer_changes(network, own, merged, [diagonal + 1e-5 * wrong])


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_layer_changes_knows_which_activations_are_lipschitz(activation):
    z = torch.linspace(-5, 5, 10_001, dtype=torch.float64, requires_grad=True)
    function = ACTIVATIONS[activation]
    (slopes,) = torch.autograd.grad(function.value(z).sum(), z)
    lipschitz = float(slopes.abs().max()) <= 1 and float(function.value(torch.zeros(()))) == 0
    network, weights = Network((2, 2, 1), activation), (torch.eye(2).double(), torch.ones(1, 2).double())
    with contextlib.nullcontext() if lipschitz else pytest.raises(ValueError, match=f"1-Lipschitz activation .* got {activation}"):
        layer_changes(network, weights, weights, [torch.eye(2)])


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 6), columns=st.integers(1, 6), rank=st.integers(1, 3), scale=st.sampled_from([1e-150, 1.0, 1e150]))
def test_layer_changes_are_rounded_up(seed, rows, columns, rank, scale):
    generator = torch.Generator().manual_seed(seed)
    network = Network((columns, rows), "linear")
    x = torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    own, merged = ((torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale,) for _ in range(2))
    if seed % 2:  # what changes is orthogonal to all inputs: the trace is all cancellation
        off = torch.eye(columns, dtype=torch.float64) - torch.linalg.pinv(x) @ x
        merged = (own[0] + merged[0] @ off,)
    moment = x.mT @ x / rank
    change, norm = (float(values[0]) for values in layer_changes(network, own, merged, [moment]))
    delta, m = (np.asarray(w, dtype=np.longdouble) for w in (merged[0] - own[0], moment))
    exactly = np.sqrt(max(np.trace(delta @ m @ delta.T), np.longdouble(0)))
    size = np.sqrt((delta**2).sum() * np.trace(m))
    if 1e-140 < size < 1e140:  # squares are in range
        assert change >= exactly and change - exactly <= 1e-6 * size
        assert change <= exactly * (1 + 1e-9) or exactly < 1e-3 * size
    largest = np.linalg.svd(merged[0].numpy() / scale, compute_uv=False)[0] * scale
    assert largest * (1 - 1e-13) <= norm <= largest * (1 + 1e-12)


def test_interference_of_other_activations_and_shapes_that_no_network_has(generator):
    network, models = pair(generator)
    task = Task(torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.ones(5))
    smooth = interference(models, task, network=Network((3, 4, 1), "tanh"))
    a, b = models
    expected = (a[1] + b[1]) @ torch.tanh((a[0] + b[0]) @ task.x.mT) - a[1] @ torch.tanh(a[0] @ task.x.mT)
    np.testing.assert_allclose(smooth[0], expected[0], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=r"W_1: expected \(5, 3\), got \(4, 3\)"):
        interference(models, task, network=Network((3, 5, 1)))
    with pytest.raises(TypeError, match="network: expected a Network, got str"):
        interference(models, task, network="tanh")
    with pytest.raises(TypeError, match=r"models\[0\]: .* got Tensor; put the networks into one list"):
        interference(a, task)
    with pytest.raises(TypeError, match=r"rule: .* got a tuple; put the networks into one list"):
        interference([a, b], task, rule=b)


def test_ties_takes_matrices_only():
    with pytest.raises(ValueError, match=r"deltas: expected matrices \(T, \*E, m, n\), got \(2, 4\); give a bias a last axis"):
        merge([WITH_BIAS, WITH_BIAS], ties(density=0.5))
    column = {"bias": torch.tensor([[1.0], [-3.0], [2.0], [0.5]])}
    assert merge([column, column], ties(density=0.5))["bias"].flatten().tolist() == [0.0, -3.0, 2.0, 0.0]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "linear"])
def test_predicted_change_is_exact_for_two_layers_and_gaussian_inputs(generator, activation):
    network = Network((3, 6, 2), activation)
    own, merged = (initialise(network, generator=generator) for _ in range(2))
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    squares = []
    for _ in range(20):
        x = torch.randn(20_000, 3, generator=generator, dtype=torch.float64) @ root.mT
        squares.append((forward(network, merged, x) - forward(network, own, x)).square().sum(-1).mean())
    squares = torch.stack(squares)
    predicted = predicted_change(network, own, merged, root @ root.mT) ** 2
    assert abs(predicted - squares.mean()) < 6 * squares.std() / 20**0.5


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 4))
def test_predicted_change_of_linear_networks_is_exact_for_any_inputs(seed, depth):
    generator = torch.Generator().manual_seed(seed)
    network = Network((3, *[4] * (depth - 1), 2), "linear")
    own, merged = (initialise(network, members=3, generator=generator) for _ in range(2))
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    measured = (forward(network, merged, x) - forward(network, own, x)).square().sum(-1).mean(-1)
    predicted = predicted_change(network, own, merged, second_moments(network, own, x)[0])
    # the second moment is a difference of four terms of this size
    size = sum(forward(network, w, x).square().sum(-1).mean(-1) for w in (own, merged))
    assert ((predicted**2 - measured).abs() <= 1e-9 * (size + 1e-3)).all()


def test_predicted_change_refuses_other_activations(generator):
    network, (own, merged) = pair(generator)
    with pytest.raises(ValueError, match="network: expected relu, leaky_relu or linear, got tanh"):
        predicted_change(Network((3, 4, 1), "tanh"), own, merged, torch.eye(3))


@given(seed=st.integers(0, 10**6), outputs=st.integers(2, 6))
def test_decision_distance_is_the_least_change_that_alters_a_label(seed, outputs):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(4, outputs, generator=generator, dtype=torch.float64)
    distance = decision_distance(f)
    for row, d in zip(f, distance):
        # the least-norm change that makes output j equal the top one moves both by half of their difference
        top = int(row.argmax())
        ways = [abs(float(row[top] - row[j])) / 2 * 2**0.5 for j in range(outputs) if j != top]
        assert float(d) == pytest.approx(min(ways), rel=1e-12)
        step = torch.randn(outputs, generator=generator, dtype=torch.float64)
        assert int((row + step / step.norm() * d * 0.999).argmax()) == top
    assert torch.equal(decision_distance(torch.tensor([[-2.0], [0.5]])), torch.tensor([2.0, 0.5]).double())
