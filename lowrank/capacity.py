"""How many tasks a sum of weights carries: laws of the gain, f_sum/f_own, of networks merged by summing, and draws from
the laws of their parts. Laws are numbers in, numbers out; draws need a generator. Imports nothing of ours but checks of
arguments, so that it stays independent of what it checks."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import exp1, gammaln, jn_zeros, jv, ndtr, ndtri
from torch import Tensor

from . import _require

RECTIFIED_OVERLAP = 1 / np.pi  # of two rectified Gaussian vectors, independent and normalised, as their length grows
_READ_OUT = 2 - 5 / np.pi  # lim Var(Σp − Σn) of the two lanes of one Gaussian vector, each normalised


# ---- linear networks ---------------------------------------------------------------------------------------------------


def limiting_failure(variance):
    """Φ(−1/√V): probability that a Gaussian gain of mean 1 and variance V is below 0; 0 for V = 0."""
    variance = np.asarray(variance, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return ndtr(-1 / np.sqrt(variance))


def linear_failure(tasks: int, width: int) -> float:
    """½ − (1/π) ∫_0^∞ φ(s)^{T−1} sin(s)/s ds, φ(s) = Γ(m/2)(2/s)^ν J_ν(s), ν = m/2 − 1: the probability that the gain of
    one of T equal tasks is below 0, two linear layers, exactly (to quadrature, below 1e-10).

    φ is the characteristic function of a coordinate of a uniform unit vector of R^m, the integral Gil-Pelaez's inversion.
    Raises ValueError for T < 2 and m < 3, where the integrand falls off slowly.
    """
    others, width = _require.integer("tasks", tasks, minimum=2) - 1, _require.integer("width", width, minimum=3)
    if others == 1:
        return 0.0  # an overlap is above −1
    nu = width / 2 - 1
    # |φ|^{T−1} < 1e-16 beyond `far`; and before the first zero from `near` on, where φ ≤ e^{−s²/2m}
    far = 2 * np.exp((gammaln(nu + 1) + 16 * np.log(10) / others) / nu)
    near = np.sqrt(80 * width / others)
    end = near if max(near, far) < _first_zero(nu) else far
    nodes, weights = np.polynomial.legendre.leggauss(24)
    starts = np.pi * np.arange(min(np.ceil(end / np.pi), 2000))
    s = starts[:, None] + np.pi / 2 * (1 + nodes)
    values = _sphere_characteristic(s, width) ** others * np.sin(s) / s
    return max(float(0.5 - (values @ weights).sum() / 2), 0.0)


def _sphere_characteristic(s: np.ndarray, width: int) -> np.ndarray:
    """₀F₁(; m/2; −s²/4), (*S,): by its series where that cancels little, and by J_ν, which underflows there, elsewhere."""
    nu, square = width / 2 - 1, s**2 / 4
    small = square <= 10 * width
    term = total = np.ones_like(s)
    for j in range(1, 200):
        term = -term * np.where(small, square, 0.0) / (j * (nu + j))
        total = total + term
    beyond = np.where(small, nu + 1, s)
    return np.where(small, total, np.exp(gammaln(nu + 1) + nu * np.log(2 / beyond)) * jv(nu, beyond))


def linear_failure_error(tasks: int, width: int) -> float:
    """1/(π(T−1)(m+2)) + tails: bounds |`linear_failure` − Φ(−√(m/(T−1)))|; the tails are exponentially small in m.

    Derived in merging/many_tasks. At least 1 where ν(T−1) is so small that the tails do not converge. (T ≥ 2, m ≥ 4)
    """
    others, width = _require.integer("tasks", tasks, minimum=2) - 1, _require.integer("width", width, minimum=4)
    nu = width / 2 - 1
    first_zero = _first_zero(nu)
    cut = first_zero / np.sqrt(2)  # up to here −log(1−x) − x ≤ x² for every factor of φ
    gaussian_tail = exp1(others * cut**2 / (2 * width)) / 2
    # past the first zero |J_ν| ≤ 1 for ν ≥ 0
    past = np.exp(others * (gammaln(nu + 1) + nu * np.log(2 / first_zero))) / (nu * others)
    return float((1 / (others * (width + 2)) + gaussian_tail + past) / np.pi)


def _first_zero(nu: float) -> float:
    """j_{ν,1}, between ν and ν + 1.86ν^{1/3} + 3; scipy tabulates whole orders only."""
    if nu == int(nu):
        return float(jn_zeros(int(nu), 1)[0])
    low = float(jn_zeros(int(nu), 1)[0])  # zeros increase with the order
    return float(brentq(lambda s: jv(nu, s), low, low + 2.0))


def linear_capacity_share(depth, failure=0.05):
    """(1 + 1/z²)^{1/(K−1)} − 1, Φ(−z) = `failure`: (T−1)/m at which that share of the tasks fails, in the limit m → ∞;
    for one task in twenty .370, .170, .111 with K = 2, 3, 4."""
    z = ndtri(1 - np.asarray(failure))
    return (1 + z**-2) ** (1 / (np.asarray(depth) - 1)) - 1


# ---- ReLU networks of two lanes ----------------------------------------------------------------------------------------


def rectified_overlap(width: int) -> tuple[float, float]:
    """(E c₊₊, E(c₊₊ − c₊₋)²) of the lanes p = σ(ξ)/‖σ(ξ)‖, n = σ(−ξ)/‖σ(−ξ)‖ of two independent Gaussian vectors of m = `width`
    entries, exactly for each m; E c₊₋ = E c₊₊.

    Given their number k ~ Bin(m, ½), the k positive entries have a uniform direction in their orthant: with
    α_k = Γ(k/2)/(√π Γ((k+1)/2)), the mean of |u_1| there, E c₊₊ = (E kα_k)²/m, and with G = (m − 2 + 2^{1−m})/π,
    H = E k(m−k)α_kα_{m−k} the other is (2/m)(1 − 2^{−m})² + 2G(G − H)/(m(m−1)). Derived in merging/deep_relu.
    """
    m = _require.integer("width", width, minimum=2)
    k = np.arange(m + 1)
    share = np.exp(gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1) - m * np.log(2))
    mean = np.zeros(m + 1)
    mean[1:] = np.exp(gammaln(k[1:] / 2) - gammaln((k[1:] + 1) / 2)) / np.sqrt(np.pi)
    alike = (m - 2 + 2.0 ** (1 - m)) / np.pi
    apart = share @ (k * (m - k) * mean * mean[::-1])
    return float((share @ (k * mean)) ** 2 / m), float(2 / m * (1 - 2.0**-m) ** 2 + 2 * alike * (alike - apart) / (m * (m - 1)))


def relu_gain_variance(tasks: int, depth: int, *, centred: bool = False) -> float:
    """V_K(T) = lim m·Var(gain), m → ∞ with T fixed, of T equal balanced tasks: K layers of two rectified Gaussian lanes.

    V_2 = (2 − 5/π²)(T−1), and V_K is of exact order T^{2K−3}. `centred` takes the mean off the merged read-out. Derived in
    merging/many_tasks.
    """
    count = _require.integer("tasks", tasks, minimum=1)
    depth = _require.integer("depth", depth, minimum=2)
    own, opposite, other = 1.0, 0.0, 0.0  # mean coefficients of own lane, of the same task's other lane, of each other lane
    total = 0.0
    for layer in range(1, depth):
        total += _lane_noise(count, own, opposite, other, centred=centred and layer == depth - 1)
        common = 2 * (count - 1) * other / np.pi
        own, opposite, other = (
            own + common,
            opposite + common,
            other + (own + opposite + 2 * (count - 2) * other) / np.pi,
        )
    return total


def _lane_noise(count: int, own: float, opposite: float, other: float, *, centred: bool) -> float:
    """lim m·Var⟨Σ_t(p_t − n_t), Σ v_l ℓ_l⟩ over one layer's lanes ℓ, mean coefficients v."""
    everything = own + opposite + 2 * (count - 1) * other

    def from_one(first: tuple[float, float], others: int) -> float:
        """From one task's p − n against the lanes of other tasks: one task with coefficients `first`, `others` with v = other."""
        mass = sum(first) + 2 * others * other
        own_squares = first[0] ** 2 + first[1] ** 2 + 2 * others * other**2
        task_squares = sum(first) ** 2 + 4 * others * other**2
        length = own_squares + (mass**2 - task_squares) / np.pi
        taken = everything if centred else 0.0
        return 2 * (length - (2 * mass - taken) * taken / np.pi) - 5 / np.pi**2 * (mass - taken) ** 2

    return from_one((0.0, 0.0), count - 1) + (count - 1) * from_one((own, opposite), count - 2) if count > 1 else 0.0


def relu_capacity(width, depth: int, *, failure: float = 0.05, centred: bool = False) -> np.ndarray:
    """T at which Φ(−√(m/V_K(T))) = `failure`, linear between whole T; shaped like `width`. Heuristic where T grows with m."""
    targets = np.atleast_1d(np.asarray(width, dtype=np.float64)) / ndtri(1 - failure) ** 2
    tasks, values = [1], [0.0]
    while values[-1] < targets.max():
        tasks.append(tasks[-1] + 1)
        values.append(relu_gain_variance(tasks[-1], depth, centred=centred))
    return np.interp(targets, values, tasks).reshape(np.shape(width))


def minority_flip(ratio, overlap=RECTIFIED_OVERLAP):
    """1 + r/(c(1−r)), r = s₋/s₊ < 1: number of tasks from which on the mean gain of the weaker class is below 0, two ReLU
    layers, c = `overlap` of lanes of different networks; inf for r = 1."""
    ratio = np.asarray(ratio, dtype=np.float64)
    if not ((ratio > 0) & (ratio <= 1)).all():
        raise ValueError(f"ratio: expected s₋/s₊ in (0, 1], the weaker over the stronger, got {ratio.min():g} to {ratio.max():g}")
    with np.errstate(divide="ignore"):
        return 1 + ratio / (np.asarray(overlap) * (1 - ratio))


def permuted_cross_talk(readout: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """(Σa)(Σh)/m and ‖a−ā‖²‖h−h̄‖²/(m−1): mean and variance of ⟨Pa, h⟩ over uniform permutations P, (*E,) from (*E, m)."""
    centred = [v - v.mean(-1, keepdim=True) for v in (readout, hidden)]
    mean = readout.sum(-1) * hidden.sum(-1) / readout.shape[-1]
    return mean, centred[0].square().sum(-1) * centred[1].square().sum(-1) / (readout.shape[-1] - 1)


# ---- draws -------------------------------------------------------------------------------------------------------------


def draw_linear_gains(tasks: int, width: int, depth: int, *, members: int, generator: torch.Generator) -> Tensor:
    """Gains C_1 … C_{K−1} 1 of T orthogonal tasks of equal strength, (members, T): C_k the inner products of T independent
    uniform unit vectors of R^m. That is the law of deep linear networks at rest; nothing is trained. The law of
    `exact.merged_ratios` of `exact.uniform_overlaps`, drawn without the T × T matrices, and for T > m too."""
    directions = _drawn(tasks, width, depth, members, generator)
    gains = torch.ones(members, tasks, 1, dtype=torch.float64)
    for _ in range(depth - 1):
        units = next(directions)
        units = units / torch.linalg.vector_norm(units, dim=-2, keepdim=True)
        gains = units.mT @ (units @ gains)
    return gains[..., 0]


def draw_relu_gains(
    tasks: int,
    width: int,
    depth: int,
    *,
    members: int,
    generator: torch.Generator,
    ratio: float = 1.0,
    centred: bool = False,
) -> Tensor:
    """Gains of both classes of T equal orthogonal tasks, (members, T, 2), first of the stronger: lanes p = relu(g)/‖·‖ and
    n = relu(−g)/‖·‖ of independent Gaussian g ∈ R^m for each task and layer, strengths 1 and `ratio` in every layer.

    `centred` takes the mean off the merged read-out. That the lanes of trained networks are of this kind is checked
    elsewhere; nothing is trained.
    """
    _require.number("ratio", ratio, above=0.0)
    gaussians = _drawn(tasks, width, depth, members, generator)
    strengths = torch.tensor([1.0, ratio], dtype=torch.float64).repeat(tasks)[:, None]
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(tasks)[:, None]
    values = signs.expand(members, -1, -1)
    for layer in range(depth - 1):
        gaussian = next(gaussians)
        lanes = torch.stack([gaussian.clamp_min(0.0), (-gaussian).clamp_min(0.0)], dim=-1)
        lanes = (lanes / torch.linalg.vector_norm(lanes, dim=-3, keepdim=True)).flatten(-2)
        carried = lanes @ (strengths * values)
        if centred and layer == 0:  # the first of this backward pass is the last of the network
            carried = carried - carried.mean(-2, keepdim=True)
        values = lanes.mT @ carried
    gains = signs * values * strengths ** (1 - depth)
    return gains[..., 0].unflatten(-1, (tasks, 2))


def _drawn(tasks, width, depth, members, generator):
    """K−1 Gaussian (members, m, T), checked before the first is drawn."""
    for name, value, least in (("tasks", tasks, 1), ("width", width, 1), ("depth", depth, 2), ("members", members, 1)):
        _require.integer(name, value, minimum=least)
    _require.generator(generator)
    return (torch.randn(members, width, tasks, generator=generator, dtype=torch.float64) for _ in range(depth - 1))
