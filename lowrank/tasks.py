"""What is learned: inputs and labels, as a frozen `Task`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import _require


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs `x` (*E, n, d) with what is to be said of them, `y`.

    `y` is one of: labels −1 and +1, (*E, n), floats or whole numbers with a −1 among them; class numbers 0, 1, …,
    (*E, n) int64; targets, (*E, n, c) floats. Arrays are copied. Leading axes `*E`, if any, hold one data set per member. Raises TypeError or ValueError, naming the
    argument, for NaN, for shapes that do not match and for labels that are neither kind.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self):
        x = _require.tensor("x", self.x)
        if x.ndim < 2 or x.shape[-2] == 0 or x.shape[-1] == 0:
            raise ValueError(f"x: expected (*E, n, d) with n, d >= 1, got shape {tuple(x.shape)}")
        y = _require.tensor("y", self.y)
        whole = not self.y.is_floating_point() if isinstance(self.y, Tensor) else np.asarray(self.y).dtype.kind in "iub"
        if y.shape == x.shape[:-1] and whole and not bool((y == -1).any()):
            if bool((y < 0).any()):
                raise ValueError(f"y: expected classes >= 0 or labels -1 and +1, got {y.min().item():g}")
            y = y.to(torch.int64)
        if y.shape == x.shape[:-1]:
            if y.is_floating_point() and not bool((y.abs() == 1).all()):
                wrong = y[y.abs() != 1].flatten()[0].item()
                raise ValueError(f"y: expected labels -1 or +1 (or int64 classes >= 0), got {wrong:g}")
        elif y.shape[:-1] != x.shape[:-1] or y.shape[-1] == 0:
            raise ValueError(
                f"y: expected shape {tuple(x.shape[:-1])} for labels or {(*x.shape[:-1], 'c')} for targets, "
                f"got {tuple(y.shape)}"
            )
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    @property
    def kind(self) -> str:
        """`binary` (labels ±1), `classes` (int64) or `targets` (real vectors)."""
        if self.y.ndim == self.x.ndim:
            return "targets"
        return "binary" if self.y.is_floating_point() else "classes"

    def __repr__(self):
        return f"Task(x={tuple(self.x.shape)}, y={tuple(self.y.shape)}, kind={self.kind!r})"


def radius(task: Task) -> Tensor:
    """R = max_i ‖x_i‖, (*E,)."""
    return torch.linalg.vector_norm(task.x, dim=-1).amax(-1)


def coherence(first: Task, second: Task) -> Tensor:
    """max_{i,j} |⟨x_i, x'_j⟩| over the inputs of two tasks, (*E,): 0 when the tasks are orthogonal."""
    if first.x.shape[-1] != second.x.shape[-1]:
        raise ValueError(f"second: expected inputs of dimension {first.x.shape[-1]}, got {second.x.shape[-1]}")
    return (first.x @ second.x.mT).abs().amax((-2, -1))


def random_rotation(d: int, *, generator: torch.Generator) -> Tensor:
    """A rotation drawn uniformly (Haar) from the orthogonal group, (d, d)."""
    _require.integer("d", d, minimum=1)
    gaussian = torch.randn(d, d, generator=_require.generator(generator), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()  # without the signs, Q of a QR is not uniform


def teacher(
    n: int, d: int, *, generator: torch.Generator, width: int = 4, margin: float = 0.0
) -> Task:
    """n inputs, uniform on the unit sphere of R^d, labelled by a random two-layer ReLU network.

    The teacher is t(x) = Σ_j ± relu(⟨w_j, x⟩)·√(d/width), j < `width`, with unit w_j and signs in turn; points with
    |t(x)| < `margin` are drawn again. Raises ValueError for d < 2, where the sphere is two points, and when fewer than
    one point in a thousand is kept.
    """
    _require.integer("n", n, minimum=1)
    _require.integer("d", d, minimum=2)
    _require.integer("width", width, minimum=1)
    _require.number("margin", margin, minimum=0.0)
    hidden = _unit_rows(width, d, generator=_require.generator(generator))
    signs = torch.ones(width, dtype=torch.float64)
    signs[1::2] = -1.0

    kept, drawn = [], 0
    while sum(map(len, kept)) < n:
        x = _unit_rows(n, d, generator=generator)
        value = (x @ hidden.mT).clamp_min(0.0) @ signs * (d / width) ** 0.5
        kept.append(torch.cat([x, value[:, None]], dim=-1)[(value.abs() >= margin) & (value != 0)])
        drawn += n
        if drawn >= 1000 * n and sum(map(len, kept)) < max(drawn // 1000, 1):
            raise ValueError(
                f"margin: expected a value that the teacher exceeds, got {margin:g}, which it does not reach at "
                f"{drawn} random points; take a smaller margin"
            )
    points = torch.cat(kept)[:n]
    return Task(points[:, :-1], points[:, -1].sign())


def orthogonal_pair(
    n: int, d: int, *, coherence: float = 0.0, generator: torch.Generator
) -> tuple[Task, Task]:
    """Two `teacher` tasks of n unit inputs in R^d whose inputs are orthogonal up to `coherence`.

    Each lives in half of the dimensions, and one common random rotation hides which. For `coherence` ε > 0 the
    second task's inputs are tilted, x' = √(1−s²) b + s Jb with an isometry J into the first half and s such that
    max |⟨x_i, x'_j⟩| = ε exactly. Raises ValueError for odd d and for an ε that no tilt reaches.
    """
    _require.integer("d", d, minimum=4)
    if d % 2:
        raise ValueError(f"d: expected an even number, so that each task gets half, got {d}")
    epsilon = _require.number("coherence", coherence, minimum=0.0, maximum=1.0)
    first, second = (teacher(n, d // 2, generator=generator) for _ in range(2))
    largest = (first.x @ second.x.mT).abs().max().item()
    if epsilon > largest:
        raise ValueError(f"coherence: expected at most {largest:.4f} for this draw, got {epsilon:g}")
    tilt = epsilon / largest
    zeros = torch.zeros_like(first.x)
    rotation = random_rotation(d, generator=generator)
    x = torch.cat([first.x, zeros], dim=-1) @ rotation.mT
    x_tilted = torch.cat([tilt * second.x, (1 - tilt**2) ** 0.5 * second.x], dim=-1) @ rotation.mT
    return Task(x, first.y), Task(x_tilted, second.y)


def digits(
    classes: Sequence[Sequence[int]] = ((3, 8), (4, 9)),
    *,
    n_train: int = 120,
    orthogonal: bool = True,
    generator: torch.Generator,
) -> tuple[tuple[Task, Task], ...]:
    """Tasks on real handwritten digits, one pair (training, test) of tasks for each entry of `classes`.

    An entry of two digits is a binary task, label +1 for the first; one of more is a task of classes, numbered in the
    order of the entry. Digits may occur in several tasks. The images are the 1,797 of 8×8 pixels that scikit-learn
    carries (Alpaydin & Kaynak 1998), less the mean of the training images and scaled so that the largest training image
    has norm 1. With `orthogonal`, task t has its own 64 of the 64·T coordinates; one common random rotation follows, so
    that no single coordinate gives a task away, and inputs of different tasks have inner product 0 up to rounding.
    Without, all tasks share the first 64 coordinates; everything else, split and rotation too, is then as with it, from
    the same generator. `n_train` images of each task are for training, drawn at random; all the others are for the
    test. Raises ValueError for an entry that is not at least two different digits.
    """
    _require.integer("n_train", n_train, minimum=2)
    _require.generator(generator)
    if not classes:
        raise ValueError("classes: expected at least one pair of digits, got none")
    images, numbers = (torch.as_tensor(part) for part in _scans())
    pixels = images.shape[1]
    chosen = []
    for t, entry in enumerate(classes):
        if not isinstance(entry, (tuple, list)) or len(entry) < 2 or len(set(entry)) != len(entry) or not set(entry) <= set(range(10)):
            raise ValueError(f"classes[{t}]: expected at least two different digits from 0 to 9, got {entry!r}")
        own = torch.nonzero(torch.isin(numbers, torch.tensor(entry))).flatten()
        if n_train >= len(own):
            raise ValueError(f"n_train: expected less than the {len(own)} images of {entry}, got {n_train}")
        chosen.append(own[torch.randperm(len(own), generator=generator)])
    rotation = random_rotation(pixels * len(classes), generator=generator)

    pairs = []
    for t, (entry, own) in enumerate(zip(classes, chosen)):
        x = images[own] - images[own[:n_train]].mean(0)
        x = x / torch.linalg.vector_norm(x[:n_train], dim=-1).max()
        slot = t if orthogonal else 0
        x = x @ rotation[:, pixels * slot : pixels * (slot + 1)].mT
        place = (numbers[own, None] == torch.tensor(entry)).to(torch.int64).argmax(-1)
        y = 1.0 - 2.0 * place.to(torch.float64) if len(entry) == 2 else place
        pairs.append((Task(x[:n_train], y[:n_train]), Task(x[n_train:], y[n_train:])))
    return tuple(pairs)


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    return load_digits(return_X_y=True)


def _unit_rows(n: int, d: int, *, generator: torch.Generator) -> Tensor:
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
