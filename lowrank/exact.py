"""Closed forms and exactly solvable cases: arrays in, numbers out. Imports nothing of ours, so that it stays independent of
what it checks."""

from __future__ import annotations

import numpy as np


def linear_collapse_threshold(x, y) -> float:
    """½‖(1/n) Σ_i y_i x_i‖: from this λ on, 0 is the only stationary point of a two-layer linear network with logistic
    loss, and its minimiser; below, 0 is not even a local minimum. x (n, d), y (n,) of −1 and +1."""
    x, y = _labelled(x, y)
    return float(np.linalg.norm(y @ x / len(y)) / 2)


def relu_collapse_threshold(x, y) -> float:
    """½ max_{‖u‖=1} |(1/n) Σ_i y_i relu(⟨u, x_i⟩)|: the same λ for a two-layer ReLU network of any width, on the line and in
    the plane, x (n, 1) or (n, 2).

    Between neighbouring directions at right angles to an input the sum is ⟨u, v⟩ with a constant v, largest at u = v/‖v‖ or
    at an end: all of these are tried. Raises ValueError for d ≥ 3: there take `relu_collapse_bracket`.
    """
    x, y = _labelled(x, y)
    if x.shape[1] > 2:
        raise ValueError(f"x: expected inputs of dimension 1 or 2, got {x.shape[1]}; take relu_collapse_bracket")
    if x.shape[1] == 1:
        candidates = np.array([[1.0], [-1.0]])
    else:
        crossings = np.arctan2(x[:, 1], x[:, 0])[:, None] + np.pi / 2 * np.array([1, -1])
        ends = np.sort(np.unique(np.mod(crossings, 2 * np.pi)))
        middles = (ends + np.append(ends[1:], ends[0] + 2 * np.pi)) / 2
        interior = _active_sum(_directions(middles), x, y)
        candidates = np.concatenate([_directions(ends), interior, -interior])
    return float(np.abs(_mean_output(_normalised(candidates), x, y)).max() / 2)


def relu_collapse_bracket(x, y, *, rng: np.random.Generator, starts: int = 200, steps: int = 200) -> tuple[float, float]:
    """(lower, upper) limits on ½ max_{‖u‖=1} |(1/n) Σ_i y_i relu(⟨u, x_i⟩)| in any dimension; x (n, d).

    The maximum is not concave. Lower: the best point of projected subgradient ascent from `starts` random directions. Upper:
    only one class counts, and (1/n) Σ relu(⟨u, x_i⟩) ≤ √n_c ‖X_c‖₂/n over its n_c inputs.
    """
    x, y = _labelled(x, y)
    best = 0.0
    for sign in (1.0, -1.0):
        u = _normalised(rng.standard_normal((starts, x.shape[1])))
        for step in range(steps):
            slope = _active_sum(u, x, sign * y)
            size = np.linalg.norm(slope, axis=1, keepdims=True)
            u = _normalised(u + slope / np.where(size > 0, size, 1.0) / (1 + step) ** 0.5)
            best = max(best, float((sign * _mean_output(u, x, y)).max()))
    upper = max(len(part) ** 0.5 * np.linalg.norm(part, 2) if len(part) else 0.0 for part in (x[y > 0], x[y < 0]))
    return best / 2, float(upper) / len(y) / 2


def _mean_output(u, x, y):
    """(1/n) Σ_i y_i relu(⟨u, x_i⟩) for every row u."""
    return np.maximum(u @ x.T, 0.0) @ y / len(y)


def _active_sum(u, x, y):
    """(1/n) Σ_{i: ⟨u, x_i⟩ > 0} y_i x_i for every row u: the gradient of the above."""
    return ((u @ x.T > 0) * y) @ x / len(y)


def _directions(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _normalised(rows):
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[size[:, 0] > 0] / size[size[:, 0] > 0][:, :1]


def _labelled(x, y):
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
        raise ValueError(f"x: expected (n, d) with labels y (n,), got {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x: expected finite numbers, got nan or infinity")
    if not (np.abs(y) == 1).all():
        raise ValueError(f"y: expected labels -1 or +1, got {y[np.abs(y) != 1].flat[0]:g}")
    return x, y
