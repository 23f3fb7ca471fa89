import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lowrank import Task, coherence, digits, orthogonal_pair, radius, random_rotation, teacher


def test_teacher_inputs_are_unit_and_labels_signs(generator):
    task = teacher(200, 7, generator=generator)
    assert task.x.shape == (200, 7) and task.x.dtype == torch.float64
    np.testing.assert_allclose(np.linalg.norm(task.x.numpy(), axis=1), 1.0, rtol=1e-14)
    assert set(task.y.tolist()) == {-1.0, 1.0}


def test_teacher_margin_keeps_classes_apart(generator):
    # The teacher is Lipschitz with constant √(d/width)·√width = √d here, so classes are at least 2·margin/√d apart.
    task = teacher(150, 3, margin=0.2, generator=generator)
    distances = torch.cdist(task.x[task.y > 0], task.x[task.y < 0])
    assert distances.min() >= 2 * 0.2 / 3**0.5


def test_teacher_refuses_an_unreachable_margin(generator):
    with pytest.raises(ValueError, match="margin: .* got 50"):
        teacher(10, 3, margin=50.0, generator=generator)


def test_same_seed_same_task_and_another_seed_another():
    one, same, other = (teacher(9, 4, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one.x, same.x) and torch.equal(one.y, same.y) and not torch.equal(one.x, other.x)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.3])
def test_orthogonal_pair_has_exactly_the_coherence_asked_for(epsilon, generator):
    first, second = orthogonal_pair(20, 10, coherence=epsilon, generator=generator)
    products = np.abs(first.x.numpy() @ second.x.numpy().T)
    assert abs(products.max() - epsilon) <= 10 * np.finfo(float).eps  # sums of ten products of numbers below one
    np.testing.assert_allclose([radius(first), radius(second)], 1.0, rtol=1e-14)
    assert abs(float(coherence(first, second)) - products.max()) <= 10 * np.finfo(float).eps


def test_orthogonal_pair_uses_every_coordinate(generator):
    for task in orthogonal_pair(30, 8, generator=generator):
        assert (task.x.abs().amax(0) > 0.01).all()


def test_random_rotation_is_orthogonal_and_uniform():
    rotations = [random_rotation(3, generator=torch.Generator().manual_seed(s)) for s in range(2000)]
    for q in rotations[:20]:
        np.testing.assert_allclose(q @ q.T, np.eye(3), atol=1e-14)
    # Haar: each entry has mean 0 and variance 1/d; five standard errors of 2,000 draws.
    entries = torch.stack(rotations)
    assert entries.mean(0).abs().max() < 5 * (1 / 3) ** 0.5 / 2000**0.5
    assert ((entries**2).mean(0) - 1 / 3).abs().max() < 5 * 0.3 / 2000**0.5


def test_digits_are_the_real_images_up_to_a_rotation(generator):
    ((train, test), _) = digits(((3, 8), (4, 9)), n_train=60, generator=generator)
    images, numbers = load_digits(return_X_y=True)
    own = images[np.isin(numbers, (3, 8))]
    assert len(train.y) + len(test.y) == len(own)
    # A rotation, a shift and one common scale keep ratios of distances: compare sorted distances of all pairs.
    x = np.concatenate([train.x, test.x])
    ours, theirs = (
        np.sort(np.linalg.norm(a[:, None] - a[None], axis=-1).ravel()) for a in (x, own)
    )
    np.testing.assert_allclose(ours / ours[-1], theirs / theirs[-1], atol=1e-12)
    assert abs(float(radius(train)) - 1) < 1e-14
    np.testing.assert_allclose(train.x.mean(0), 0.0, atol=1e-15)


def test_digits_of_two_tasks_are_orthogonal_unless_asked_otherwise(generator):
    (a, a_test), (b, b_test) = digits(generator=generator)
    for first in (a, a_test):
        for second in (b, b_test):
            assert coherence(first, second) < 128 * np.finfo(float).eps * 4
    twins = [digits(orthogonal=o, generator=torch.Generator().manual_seed(1)) for o in (True, False)]
    assert torch.equal(twins[0][0][0].x, twins[1][0][0].x)  # task A is the same, split and rotation included
    assert torch.equal(twins[0][1][0].y, twins[1][1][0].y)
    assert coherence(twins[1][0][0], twins[1][1][0]) > 0.1


def test_no_single_coordinate_gives_a_digits_task_away(generator):
    (a, _), (b, _) = digits(n_train=150, generator=generator)
    # Before the rotation each coordinate had all of its variance in one task; after it each has a share of both.
    share = a.x.var(0) / (a.x.var(0) + b.x.var(0))
    assert share.min() > 0.1 and share.max() < 0.9


def test_digits_labels_say_which_digit_comes_first(generator):
    images, numbers = load_digits(return_X_y=True)
    ((train, test),) = digits(((0, 1),), generator=generator)
    assert int((train.y > 0).sum() + (test.y > 0).sum()) == int((numbers == 0).sum())


def test_four_tasks_some_of_several_classes(generator):
    classes = ((1, 3), (0, 2, 4), (5, 6, 7, 8, 9), (3, 1))
    tasks = digits(classes, n_train=70, generator=generator)
    images, numbers = load_digits(return_X_y=True)
    assert [train.kind for train, _ in tasks] == ["binary", "classes", "classes", "binary"]
    for entry, (train, test) in zip(classes, tasks):
        assert train.x.shape == (70, 256) and len(train.y) + len(test.y) == int(np.isin(numbers, entry).sum())
    for place, digit in enumerate(classes[2]):  # numbered in the order of the entry
        assert sum(int((task.y == place).sum()) for task in tasks[2]) == int((numbers == digit).sum())
    # digit 1 is +1 in one task and −1 in the other
    assert sum(int((task.y == 1).sum()) for task in tasks[0]) == sum(int((task.y == -1).sum()) for task in tasks[3])
    for i, (first, first_test) in enumerate(tasks):
        for second, second_test in tasks[i + 1 :]:
            assert max(coherence(a, b) for a in (first, first_test) for b in (second, second_test)) < 256 * np.finfo(float).eps * 4


def test_a_shuffled_entry_renumbers_the_same_images():
    one, other = (digits((entry,), generator=torch.Generator().manual_seed(3))[0][0] for entry in ((4, 7, 9), (9, 4, 7)))
    assert torch.equal(one.x, other.x)
    assert torch.equal(other.y, (one.y + 1) % 3)


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([[1.0, float("nan")]], [1.0], "x: expected finite numbers, got 1 of 2"),
        ([[1.0, 2.0]], [0.5], "y: expected labels -1 or \\+1 .* got 0.5"),
        ([[1.0, 2.0]], [1.0, -1.0], "y: expected shape \\(1,\\) for labels"),
        ([1.0, 2.0], [1.0, 1.0], "x: expected \\(\\*E, n, d\\)"),
        ([[1.0, 2.0]], [float("inf")], "y: expected finite"),
    ],
)
def test_bad_data_is_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        Task(x, y)


def test_text_is_refused_as_data():
    with pytest.raises(TypeError, match="x: expected an array of real numbers, got str"):
        Task("three", [1.0])


@pytest.mark.parametrize("y, kind", [([-1.0, 1.0], "binary"), ([-1, 1], "binary"), ([0, 2], "classes"), ([[0.1], [3.0]], "targets")])
def test_kind_of_task(y, kind):
    assert Task([[1.0], [2.0]], y).kind == kind


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda g: orthogonal_pair(5, 7, generator=g), ValueError, "d: expected an even number"),
        (lambda g: orthogonal_pair(5, 6, coherence=1.0, generator=g), ValueError, "coherence: expected at most"),
        (lambda g: teacher(5, 3, generator=None), TypeError, "generator: expected a torch.Generator"),
        (lambda g: teacher(0, 3, generator=g), ValueError, "n: expected a whole number >= 1, got 0"),
        (lambda g: digits(((3, 3),), generator=g), ValueError, "classes\\[0\\]: expected at least two different digits"),
        (lambda g: digits(((1, 2, 12),), generator=g), ValueError, "classes\\[0\\]: .* got \\(1, 2, 12\\)"),
        (lambda g: digits((4,), generator=g), ValueError, "classes\\[0\\]: .* got 4"),
        (lambda g: digits((), generator=g), ValueError, "classes: expected at least one"),
        (lambda g: digits(n_train=9999, generator=g), ValueError, "n_train: expected less than"),
    ],
)
def test_bad_arguments_are_named(call, error, message, generator):
    with pytest.raises(error, match=message):
        call(generator)
