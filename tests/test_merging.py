import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank import Network, average, forward, initialise, merge, sum_weights


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
    ],
)
def test_mismatches_are_named(models, error, message):
    with pytest.raises(error, match=message):
        merge(models)
