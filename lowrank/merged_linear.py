"""Sums of deep linear networks in closed form: outputs by transfer matrices, and the laws of the sum over rotations of the
hidden layers. Imports nothing of ours; the chapters take it from `exact`."""

from __future__ import annotations

import numpy as np


def merged_deep_linear(solutions, x) -> np.ndarray:
    """Outputs of the sum of T deep linear networks with layers of rank one, W_k = s_k u_k v_kᵀ, by transfer of T numbers a
    layer: a_1[t] = s_1^t⟨v_1^t, x⟩, a_k[t] = s_k^t Σ_t' ⟨v_k^t, u_{k−1}^t'⟩ a_{k−1}[t'], f(x) = Σ_t u_K^t a_K[t]; (*E, n, c).

    `solutions` are solutions or tuples of weights (*E, m_k, m_{k−1}), all of one shape; x (n, d). Of each layer the top
    singular triple is taken: exact where layers have rank one, as at a stationary point with one output. For two networks
    of equal strength with f_B(x) = 0 this is f_A(x)·Π_k(1 + ⟨u_k^A, u_k^B⟩) over the hidden layers. Our derivation. Raises
    ValueError for fewer than one network, unequal shapes, or inputs that do not fit.
    """
    networks, x = _read(solutions, x)
    carried = None
    for layer in zip(*networks):
        triples = [np.linalg.svd(w, full_matrices=False) for w in layer]
        left = np.stack([u[..., :, 0] for u, _, _ in triples], axis=-1)  # (*E, m_k, T)
        right = np.stack([s[..., :1] * vh[..., 0, :] for _, s, vh in triples], axis=-2)  # (*E, T, m_{k−1})
        carried = right @ x.T if carried is None else (right @ before) @ carried
        before = left
    return np.swapaxes(before @ carried, -1, -2)


def hidden_directions(weights) -> tuple[np.ndarray, ...]:
    """u_k = q_k/‖q_k‖ with q_k = (W_K…W_{k+1})ᵀ, k = 0 … K−1, each (*E, m_k): what layer k passes on to the output.

    One output, weights (*E, m_k, m_{k−1}). At a stationary point W_k = s u_k u_{k−1}ᵀ with u_K = 1, without a choice of signs.
    Raises ValueError for several outputs and for a network that is zero.
    """
    layers = [np.asarray(w, dtype=np.float64) for w in getattr(weights, "weights", weights)]
    if layers[-1].shape[-2] != 1:
        raise ValueError(f"weights: expected one output, got {layers[-1].shape[-2]}")
    found, signal = [], np.ones((*layers[-1].shape[:-2], 1))
    for w in reversed(layers):
        signal = (signal[..., None, :] @ w)[..., 0, :]
        length = np.linalg.norm(signal, axis=-1, keepdims=True)
        if not (length > 0).all():
            raise ValueError("weights: expected networks that are not zero; leave out collapsed members")
        signal = signal / length
        found.append(signal)
    return tuple(reversed(found))


def merged_ratios(overlaps) -> np.ndarray:
    """f_{1+…+T}(x_t)/f_t(x_t) = (1ᵀC_{K−1}…C_1)_t, (*E, T) from C_k[t, t'] = ⟨u_k^t, u_k^t'⟩, (*E, K−1, T, T).

    For T deep linear networks at rest with layers of equal strength, and x_t orthogonal to the training inputs of all tasks
    but t. T = 2: Π_k(1 + c_k) for both. Raises ValueError for another shape.
    """
    overlaps = np.asarray(overlaps, dtype=np.float64)
    if overlaps.ndim < 3 or overlaps.shape[-1] != overlaps.shape[-2]:
        raise ValueError(f"overlaps: expected (*E, K-1, T, T), got {overlaps.shape}")
    row = np.ones((*overlaps.shape[:-3], 1, overlaps.shape[-1]))
    for k in reversed(range(overlaps.shape[-3])):
        row = row @ overlaps[..., k, :, :]
    return row[..., 0, :]


def merged_variance(width, depth: int, tasks=2):
    """E[(r−1)²] = (1 + (T−1)/m)^{K−1} − 1 for the ratio r of `merged_ratios`, whose directions are independent and uniform;
    E[r] = 1. K = `depth` >= 2, hidden layers of m neurons. Our derivation. Raises ValueError for numbers out of range."""
    width, tasks = _counts("width", width), np.asarray(tasks, dtype=np.float64)
    if not (tasks >= 1).all():
        raise ValueError(f"tasks: expected numbers >= 1, got {tasks.min():g}")
    return np.expm1(_hidden_layers(depth) * np.log1p((tasks - 1) / width))


def merged_fourth_moment(width, depth: int):
    """E[(r−1)⁴] = M_4 − 4M_3 + 6M_2 − 3 for two tasks, M_p = (E[(1+c)^p])^{K−1}: with c = ⟨u, v⟩ of independent uniform
    directions E[c²] = 1/m, E[c⁴] = 3/(m(m+2)) and odd moments vanish. Raises ValueError like `merged_variance`."""
    width, layers = _counts("width", width), _hidden_layers(depth)
    second, fourth = 1 / width, 3 / (width * (width + 2))
    m2, m3, m4 = 1 + second, 1 + 3 * second, 1 + 6 * second + fourth
    return m4**layers - 4 * m3**layers + 6 * m2**layers - 3


def merged_second_moment(solutions, x) -> np.ndarray:
    """E[f(x)²], (*E, n, c), of the sum of T deep linear networks whose hidden layers are rotated, W_k^t → O_k^t W_k^t O_{k−1}^tᵀ,
    by independent O_k^t with E[O] = 0 and E[O_ij O_kl] = δ_ik δ_jl/m; E[f(x)] = Σ_t f_t(x). Any weights, at rest or not.

    With h = W_1x and R_1^t = h^t h^tᵀ: R_{k+1}^t = W_{k+1}^t (R_k^t + (1/m_k) Σ_{s≠t} tr R_k^s · I) W_{k+1}^tᵀ, and
    E[f²] = Σ_t R_K^t + Π_k(1 + 1/m_k) Σ_{s≠t} f_s f_t over the hidden layers. Our derivation. `solutions` and `x` as in
    `merged_deep_linear`; raises like it.
    """
    networks, x = _read(solutions, x)
    states = [network[0] @ x.T for network in networks]  # (*E, m_1, n)
    moments = [np.einsum("...in,...jn->...nij", h, h) for h in states]
    growth = 1.0
    for layer in list(zip(*networks))[1:]:
        m = layer[0].shape[-1]
        growth *= 1 + 1 / m
        traces = [np.trace(moment, axis1=-2, axis2=-1)[..., None, None] for moment in moments]
        total, lifted = sum(traces), [w[..., None, :, :] for w in layer]
        moments = [
            w @ (moment + (total - own) / m * np.eye(m)) @ np.swapaxes(w, -1, -2)
            for w, moment, own in zip(lifted, moments, traces)
        ]
        states = [w @ h for w, h in zip(layer, states)]
    alone = sum(np.diagonal(moment, axis1=-2, axis2=-1) for moment in moments)
    crossed = sum(states) ** 2 - sum(h**2 for h in states)
    return alone + growth * np.swapaxes(crossed, -1, -2)


def signed_shifts(width: int) -> np.ndarray:
    """The 2m² matrices ±X^aZ^b, (2m², m, m): X^a sends coordinate j to j XOR a, Z^b has the signs (−1)^{b·j}, m a power of 2.

    A group of orthogonal matrices with E[O] = 0 and E[O_ij O_kl] = δ_ik δ_jl/m, as for uniform ones: an average over it is
    exact where one over random rotations would be an estimate. Raises ValueError for another width.
    """
    if isinstance(width, bool) or not isinstance(width, (int, np.integer)) or width < 1 or width & (width - 1):
        raise ValueError(f"width: expected a power of 2, got {width!r}")
    at = np.arange(width)
    shifts = np.eye(width)[at[:, None] ^ at]  # [a, j] is the unit vector j XOR a: the transpose of X^a, which equals it
    parity = np.array([[bin(b & j).count("1") % 2 for j in at] for b in at])
    matrices = (shifts[:, None] * (1.0 - 2 * parity)[None, :, None, :]).reshape(-1, width, width)
    return np.concatenate([matrices, -matrices])


def uniform_overlaps(shape, width: int, tasks: int, *, generator: np.random.Generator) -> np.ndarray:
    """⟨u^t, u^t'⟩ of T independent uniform directions in m dimensions, (*shape, T, T), as many times as `shape` says.

    By Bartlett's decomposition: a T × m Gaussian matrix, turned so that it is lower triangular, has independent entries,
    normal below and χ with m, m−1, … degrees of freedom on the diagonal. Raises ValueError for more tasks than dimensions.
    """
    tasks = int(_counts("tasks", tasks))
    if not tasks <= width:
        raise ValueError(f"tasks: expected at most width = {width}, got {tasks}")
    lower = np.tril(generator.standard_normal((*shape, tasks, tasks)), -1)
    at = np.arange(tasks)
    lower[..., at, at] = np.sqrt(generator.chisquare(width - at, (*shape, tasks)))
    lower /= np.linalg.norm(lower, axis=-1, keepdims=True)
    return lower @ np.swapaxes(lower, -1, -2)


def _read(solutions, x):
    networks = [[np.asarray(w, dtype=np.float64) for w in getattr(one, "weights", one)] for one in solutions]
    shapes = {tuple(w.shape for w in network) for network in networks}
    if len(shapes) != 1:
        raise ValueError(f"solutions: expected one or more networks of one shape, got {len(shapes)} shapes")
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != networks[0][0].shape[-1]:
        raise ValueError(f"x: expected (n, {networks[0][0].shape[-1]}), got {x.shape}")
    return networks, x


def _counts(name: str, value) -> np.ndarray:
    value = np.asarray(value, dtype=np.float64)
    if not ((value >= 1) & (value == np.round(value)) & np.isfinite(value)).all():
        raise ValueError(f"{name}: expected whole numbers >= 1, got {value!r:.60}")
    return value


def _hidden_layers(depth) -> int:
    if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)) or depth < 2:
        raise ValueError(f"depth: expected a whole number >= 2, got {depth!r}")
    return int(depth) - 1
