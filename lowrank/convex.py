"""The convex twin of two-layer ReLU training in few dimensions, and a certificate of its optimum that does not trust the
solver. Imports nothing of ours."""

from __future__ import annotations

import math
import numbers
import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import linprog

MAX_DIMENSION = 3
MAX_CONES = 1000  # ten to twenty seconds
_DEPENDENT = 1e-12  # sine below which a direction lies in a hyperplane
_CUTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # what may be 0 in an interior-point solution; the certificate chooses


@dataclass(frozen=True, eq=False)
class TwoLayerOptimum:
    """A global optimum of two-layer ReLU training: `value` ≥ min L_λ ≥ `dual_value`, up to a rounding of some nε.

    `value` is L_λ of `weights` (W_1 (m, d), W_2 (1, m), float64, |a_j| = ‖w_j‖), recomputed from them. `dual_value` is
    (1/n) Σ H(p_i), H(p) = −p log p − (1−p) log(1−p), of `slopes` p (n,), for which |(1/n) Σ p_i y_i relu(u·x_i)| ≤ λ for
    every unit u: a lower bound on L_λ of every network of every width. `arrangements` counts the cones.
    """

    value: float
    dual_value: float
    weights: tuple[torch.Tensor, torch.Tensor]
    slopes: np.ndarray
    arrangements: int

    @property
    def gap(self) -> float:
        """value − dual_value, 0 up to rounding where the optimum is certain."""
        return self.value - self.dual_value


def two_layer_relu_program(x, y, weight_decay: float) -> TwoLayerOptimum:
    """min over m, a, w of (1/n) Σ_i log(1 + e^{−y_i f(x_i)}) + (λ/2)(‖W_1‖² + ‖W_2‖²), f(x) = Σ_{j≤m} a_j relu(w_j·x).

    x (n, d) with d ≤ 3, y (n,) of −1 and +1, λ > 0. Solves the convex program over all hyperplane arrangements D_i,
    min L(Σ_i D_i X (v_i − u_i)) + λ Σ_i (‖v_i‖ + ‖u_i‖) with v_i, u_i in the cones (2D_i − I) X v ≥ 0, by Clarabel; reduces
    the solution to a vertex, sharpens it by Newton's method, and certifies what came out: read `gap`. Raises ValueError or
    TypeError, naming the argument, for other input, d > 3 or more than 1,000 cones (n > 32 in space), and RuntimeError
    where the solver finds nothing. Source: Pilanci & Ergen, ICML 2020, arXiv 2002.10553; vertex and certificate are ours.
    """
    x, y = _checked(x, y)
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, numbers.Real):
        raise TypeError(f"weight_decay: expected a number > 0, got {weight_decay!r}")
    if not (math.isfinite(weight_decay) and weight_decay > 0):
        raise ValueError(f"weight_decay: expected a number > 0, got {weight_decay!r}; without decay there is no minimum")
    decay = float(weight_decay)
    gates = arrangements(x)
    if len(gates) > MAX_CONES:
        raise ValueError(f"x: expected at most {MAX_CONES} cones, got {len(gates)} from {len(x)} inputs; take fewer")
    if two_layer_relu_threshold(x, y) <= decay:
        return _certified(x, y, decay, np.zeros((1, x.shape[1])), np.ones(1), gates)
    found = _nearly_optimal(x, y, decay, gates)
    once = [_sharpened(x, y, decay, *found, cut=cut) for cut in _CUTS]
    twice = [_sharpened(x, y, decay, *neurons, cut=cut) for neurons, cut in zip(once, _CUTS)]  # drops what went to 0
    candidates = [found, *once, *twice]
    certified = [_certified(x, y, decay, *candidate, gates) for candidate in candidates]
    return min(certified, key=lambda found: (max(found.gap, 1e-14), len(found.weights[0])))  # rounding decides nothing


def two_layer_relu_threshold(x, y) -> float:
    """max_{‖u‖=1} |(1/2n) Σ_i y_i relu(u·x_i)|: the λ from which on the zero network is a global optimum of L_λ.

    x (n, d) with d ≤ 3, y (n,) of −1 and +1, logistic loss, any width. Below it, zero is not even a local optimum. Raises
    ValueError for other input.
    """
    x, y = _checked(x, y)
    return two_layer_relu_correlation(x, y) / (2 * len(x))


def two_layer_relu_correlation(x, v, *, gates: np.ndarray | None = None) -> float:
    """max_{‖u‖=1} |Σ_i v_i relu(u·x_i)|, from x (n, d) with d ≤ 3 and v (n,).

    The sum is linear in u on each cone of the arrangement, so a maximiser in the relative interior of a face is the
    projection of that linear function onto the span of the face, up to length: for every cone and every span all these
    points are tried, in the sum itself. `gates` are the arrangements, if at hand. Raises ValueError for other input.
    """
    gates = arrangements(x) if gates is None else gates
    x, v = np.asarray(x, dtype=np.float64), np.asarray(v, dtype=np.float64)
    if v.shape != x.shape[:1] or not np.isfinite(v).all():
        raise ValueError(f"v: expected {len(x)} finite numbers, got shape {v.shape}")
    slopes = (gates * v) @ x  # of the linear pieces, (cones, d)
    normals = _directions(x)
    spans = [np.eye(x.shape[1])]
    if x.shape[1] > 1:
        spans += [np.eye(x.shape[1]) - np.outer(u, u) for u in normals]
    if x.shape[1] > 2:
        spans += [np.outer(ray, ray) for ray in _rays(normals)]
    points = np.concatenate([slopes @ span for span in spans])
    points = np.concatenate([points, -points])
    lengths = np.linalg.norm(points, axis=1)
    kept = lengths > 0
    if not kept.any():
        return 0.0
    points = points[kept] / lengths[kept, None]
    return float(np.abs(np.maximum(points @ x.T, 0.0) @ v).max())


def arrangements(x) -> np.ndarray:
    """{1[Xu > 0] : u with x_i·u ≠ 0 for all x_i ≠ 0}, bool (cones, n) in a fixed order, from x (n, d), d ≤ 3.

    All of them, by recursion: every cone of an arrangement of full rank has an extreme ray, which is the intersection of
    hyperplanes; around it the cones are those of the hyperplanes through it. In general position there are
    2 Σ_{k<d} C(n−1, k) (Cover 1965). Hyperplanes meet in one ray if they do within 1e-12. Raises ValueError for d > 3.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape or not np.isfinite(x).all():
        raise ValueError(f"x: expected finite numbers (n, d), n, d >= 1, got shape {x.shape}")
    if x.shape[1] > MAX_DIMENSION:
        raise ValueError(f"x: expected at most {MAX_DIMENSION} dimensions, got {x.shape[1]}; cones are n^(d−1)")
    norms = np.linalg.norm(x, axis=1)
    there = norms > 0
    gates = np.zeros((1, len(x)), dtype=bool)
    if there.any():
        cones = _cones(x[there] / norms[there, None])
        gates = np.zeros((len(cones), len(x)), dtype=bool)
        gates[:, there] = np.array(sorted(cones)) > 0
    return gates


def _cones(normals: np.ndarray) -> set[tuple[int, ...]]:
    """Signs (±1, …) of the cones into which hyperplanes with these unit normals cut the space."""
    _, sigma, basis = np.linalg.svd(normals, full_matrices=False)
    normals = normals @ basis[sigma > _DEPENDENT * sigma[0]].T  # in their own span
    if normals.shape[1] == 1:
        side = tuple(int(s) for s in np.sign(normals[:, 0]))
        return {side, tuple(-s for s in side)}
    cones = set()
    for ray in _rays(_directions(normals)) if normals.shape[1] > 2 else _across(_directions(normals)):
        for direction in (ray, -ray):
            heights = normals @ direction
            through = np.abs(heights) <= _DEPENDENT
            signs = np.sign(heights).astype(int)
            for around in _cones(normals[through]):
                signs[through] = around
                cones.add(tuple(int(s) for s in signs))
    return cones


def _directions(x: np.ndarray) -> np.ndarray:
    """Unit vectors along the rows, each line once."""
    norms = np.linalg.norm(x, axis=1)
    units = x[norms > 0] / norms[norms > 0, None]
    kept = []
    for u in units:
        if all(min(np.linalg.norm(u - w), np.linalg.norm(u + w)) > _DEPENDENT for w in kept):
            kept.append(u)
    return np.array(kept).reshape(-1, x.shape[1])


def _across(normals: np.ndarray) -> np.ndarray:
    return normals[:, ::-1] * [1.0, -1.0]


def _rays(normals: np.ndarray) -> np.ndarray:
    """Unit vectors along which two planes of R³ meet."""
    crossed = [np.cross(u, w) for u, w in combinations(normals, 2)]
    return np.array([ray / np.linalg.norm(ray) for ray in crossed]).reshape(-1, 3)


def _nearly_optimal(x, y, decay, gates):
    """Solution of the convex program as neurons a_j w_j ~ sign_j·v_j, v (m, d), m = 2·cones: Clarabel, to its accuracy."""
    import cvxpy  # a second, and only needed here

    signs = np.repeat([1.0, -1.0], len(gates))
    both = np.concatenate([gates, gates]).astype(float)
    cone, wall = np.nonzero(np.tile(_walls(x, gates), (2, 1)))
    inward = (2 * both - 1)[cone, wall, None] * x[wall] / np.linalg.norm(x[wall], axis=1, keepdims=True)
    v = cvxpy.Variable((len(signs), x.shape[1]))
    margins = cvxpy.multiply(y, signs @ cvxpy.multiply(both, v @ x.T))
    # over λ, so that solutions and dual variables are of size one
    objective = cvxpy.sum(cvxpy.logistic(-margins)) / (decay * len(x)) + cvxpy.sum(cvxpy.norm(v, axis=1))
    problem = cvxpy.Problem(cvxpy.Minimize(objective), [cvxpy.sum(cvxpy.multiply(inward, v[cone]), axis=1) >= 0])
    for tolerance in (1e-11, 1e-9, 1e-7):  # the certificate, not the solver, says how good the answer is
        tight = {name: tolerance for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            try:
                problem.solve(solver=cvxpy.CLARABEL, **tight)
            except cvxpy.SolverError:
                continue
        if v.value is not None:
            return v.value, signs
    raise RuntimeError(f"Clarabel finds no solution of the convex program for weight_decay {decay:g}; take a larger one")


def _walls(x, gates):
    """Whether hyperplane i bounds cone c, bool (cones, n), each hyperplane once: beyond a wall lies another cone."""
    units = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    cones, walls = {tuple(row) for row in gates.tolist()}, np.zeros_like(gates)
    there = np.linalg.norm(x, axis=1) > 0
    for direction in _directions(x):
        same = there & (np.minimum(*(np.linalg.norm(units - s * direction, axis=1) for s in (1, -1))) <= _DEPENDENT)
        walls[:, np.argmax(same)] = [tuple(row) in cones for row in (gates ^ same).tolist()]
    return walls


def _sharpened(x, y, decay, neurons, signs, *, cut):
    """Newton's method on min L + λ Σ‖v_j‖ over at most n neurons, each v_j in the span of the face on which it was found.

    Neurons shorter than `cut` times the longest are dropped, and heights x_i·v_j below `cut` count as 0.
    """
    lengths = np.linalg.norm(neurons, axis=1)
    faces = {}
    for v, sign, length in zip(neurons, signs, lengths):
        if length > cut * lengths.max() + 1e-9:
            heights = x @ v
            heights[np.abs(heights) <= cut * length * np.linalg.norm(x, axis=1)] = 0.0
            key = (sign, *np.sign(heights))
            faces[key] = faces.get(key, 0.0) + v
    if not faces:
        return np.zeros((1, x.shape[1])), np.ones(1)
    keys, starts = np.array(list(faces)), np.array(list(faces.values()))
    kept = _few(np.maximum(x @ starts.T, 0.0) * keys[:, 0], np.linalg.norm(starts, axis=1))
    keys, starts = keys[kept > 0], starts[kept > 0] * kept[kept > 0, None]
    signs, sides = keys[:, 0], keys[:, 1:]
    bases = [_null_space(x[side == 0], cut) for side in sides]
    features = [sign * ((side > 0)[:, None] * x) @ basis for sign, side, basis in zip(signs, sides, bases)]
    ends = np.cumsum([0, *(basis.shape[1] for basis in bases)])
    parts = [slice(a, b) for a, b in zip(ends, ends[1:])]
    matrix = np.concatenate(features, axis=1) * y[:, None]  # of the margins
    z = np.concatenate([basis.T @ start for basis, start in zip(bases, starts)])
    z = _newton(matrix, decay, z, parts)
    return np.array([basis @ z[part] for basis, part in zip(bases, parts)]), signs


def _few(outputs, lengths):
    """c ≥ 0 with the least Σ c_j‖v_j‖ and the same Σ c_j outputs_j, (m,) from (n, m): a vertex, at most n positive c_j."""
    found = linprog(lengths, A_eq=outputs, b_eq=outputs.sum(1), bounds=(0, None), method="highs-ds")
    return found.x if found.status == 0 else np.ones(len(lengths))


def _newton(matrix, decay, z, parts):
    """argmin of the convex (1/n) Σ log(1 + e^{−(matrix z)_i}) + λ Σ‖z_part‖ near z, where no part vanishes."""

    def objective(z):
        return np.logaddexp(0.0, -matrix @ z).mean() + decay * sum(np.linalg.norm(z[part]) for part in parts)

    for _ in range(50):
        slopes = _logistic_slopes(matrix @ z)
        gradient = -matrix.T @ slopes / len(matrix)
        hessian = (matrix.T * (slopes * (1 - slopes))) @ matrix / len(matrix)
        for part in parts:
            length = np.linalg.norm(z[part])
            unit = z[part] / length
            gradient[part] += decay * unit
            hessian[part, part] += decay / length * (np.eye(len(unit)) - np.outer(unit, unit))
        step = np.linalg.lstsq(hessian, gradient, rcond=1e-14)[0]
        size = 1.0
        while size > 1e-6 and not objective(z - size * step) <= objective(z) + 1e-15:
            size /= 2
        if size <= 1e-6 or not all(np.linalg.norm((z - size * step)[part]) > 0 for part in parts):
            break
        z = z - size * step
    return z


def _null_space(rows, cut):
    _, sigma, basis = np.linalg.svd(rows, full_matrices=True)
    return basis[int((sigma > 10 * cut * sigma.max(initial=0.0)).sum()) :].T


def _certified(x, y, decay, neurons, signs, gates):
    """The balanced network of Σ_j sign_j relu(v_j·x), its L_λ, and the lower bound from its own slopes."""
    lengths = np.linalg.norm(neurons, axis=1)
    margins = y * (np.maximum(x @ neurons.T, 0.0) @ signs)
    value = float(np.logaddexp(0.0, -margins).mean() + decay * lengths.sum())
    slopes = _logistic_slopes(margins)
    largest = two_layer_relu_correlation(x, y * slopes, gates=gates) / len(x)
    slopes = slopes * (decay / max(largest, decay))
    roots = np.sqrt(lengths)
    rows = neurons / np.where(roots > 0, roots, 1.0)[:, None]
    weights = torch.tensor(rows), torch.tensor(signs * roots)[None]
    return TwoLayerOptimum(value, float(_entropy(slopes).mean()), weights, slopes, len(gates))


def _logistic_slopes(margins):
    return np.exp(-np.logaddexp(0.0, margins))  # 1/(1+e^m) without overflow


def _entropy(p):
    """−p log p − (1−p) log(1−p), with 0 log 0 = 0."""
    q = 1 - p
    return -p * np.log(np.where(p > 0, p, 1.0)) - q * np.log(np.where(q > 0, q, 1.0))


def _checked(x, y):
    x, y = (np.array(a.numpy(force=True) if isinstance(a, torch.Tensor) else a, dtype=np.float64) for a in (x, y))
    if x.ndim != 2 or 0 in x.shape or not np.isfinite(x).all():
        raise ValueError(f"x: expected finite numbers (n, d), n, d >= 1, got shape {x.shape}")
    if y.shape != x.shape[:1] or not (np.abs(y) == 1).all():
        raise ValueError(f"y: expected {len(x)} labels -1 or +1, got shape {y.shape} with values {np.unique(y)[:4]}")
    return x, y
