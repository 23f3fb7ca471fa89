"""Exact stationary points: from where descent stands to where the (generalised) gradient vanishes, by second-order steps.

Gradient descent on a ReLU network ends in chatter across kinks, pre-activations that want to be exactly 0. `polish` goes
the rest of the way: it merges what is one neuron in several copies, follows a smoothed activation to its sharp limit,
reads off which pre-activations vanish, and solves the stationarity conditions with a multiplier for each of them.
Smooth and linear networks need the second-order steps only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad, jacfwd, jacrev

from . import _require, compaction, kinks
from .compaction import Compact
from .descent import Solution
from .kinks import Piece, flat, unflat
from .networks import ACTIVATIONS, Network, Weights, hidden_states
from .objective import LOSSES, Objective, check_members, split_objective
from .spectra import layer_norms

SHARPENING = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # widths of the smoothed kink, in units of the mean |pre-activation|
_ALIKE = 3e-2  # 1 − cos below which neurons of a run that has not settled count as one
_SAME = 1e-6  # and at the end
_ROUNDING = 1e-12  # share of a layer's largest pre-activation that counts as 0
_VANISHED = 1e-3  # a network whose largest weight has shrunk by this much goes to zero


@dataclass(frozen=True, eq=False)
class Polished(Solution):
    """Stationary points, one a member; what `polish` found, and how sure it is.

    As a Solution: `weights` at full width, `saved` the given ones and these, `times` the second-order steps taken.
    `status` per member: `converged`, `collapsed` (the point is 0, trivially stationary) or `max_steps`; `reason` (*E,)
    says why one is not converged, and what to try. `distance` (*E,) is ‖θ − θ_given‖/‖θ_given‖; `residual` (*E,) the
    largest entry of the stationarity conditions. Tuples over the members, in C order (one entry without members' axes):
    `compact`, the weights with merged neurons as one and vanished ones left out; `kinks`, int64 (a, 3) with columns
    layer (from 0), neuron of the compact network, sample, where the pre-activation is 0; `gates` (a,), the slope of σ
    that stationarity asks for at each; `multipliers` (a,), gate times back-propagated signal; `shares`, the matrices C_k
    (m_k, compact width) with orthonormal columns and W_k = C_k W_k^compact C_{k−1}ᵀ. `field` (*E,): "smooth" without
    kinks; "clarke" where the kinks' gradients are independent, so that every choice of gates is an element of Clarke's
    generalised gradient; "conservative" where they are dependent, other pre-activations are 0 as well or not all could be
    resolved, and only identities that hold for any gates are safe.
    """

    compact: tuple[Weights, ...] = ()
    kinks: tuple[Tensor, ...] = ()
    gates: tuple[Tensor, ...] = ()
    multipliers: tuple[Tensor, ...] = ()
    shares: tuple[Weights, ...] = ()
    field: np.ndarray | None = None
    reason: np.ndarray | None = None
    distance: Tensor | None = None
    residual: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Member(Compact):
    """One network on its way, and in the end its piece."""

    piece: Piece | None = None
    steps: int = 0
    field: str = "smooth"
    reason: str = ""


def polish(objective: Objective, weights: Weights, *, tolerance: float = 1e-12) -> Polished:
    """The stationary point that second-order steps reach from `weights`, for every member: ∇L + λW = 0, where ∇L is an
    element of the generalised gradient at kinks.

    Works for every activation. Neurons of a ReLU or leaky ReLU network that have become copies of one are treated as
    one, neurons that have all but vanished are set to 0, linear networks are reduced to the rank that they have; the
    result has full width again. It is *a* stationary point, not the limit of descent: `distance` says how far it is from
    the given weights. (Smoothed ReLU wakes neurons that are dead on all inputs, so that a saddle made of dead neurons
    may be left for a minimum.) Converged means that every entry of the conditions is below `tolerance` · (1 + λ max|W|),
    and, with kinks, that all gates lie between the slopes of σ and all other pre-activations on their side. Members that
    do not get there are reported, with a reason. Raises ValueError for λ = 0, under which there need be no stationary
    point at all, and for weights that are not finite.
    """
    _require.instance("objective", objective, Objective)
    check_members(objective, weights)
    weights = tuple(_require.tensor(f"W_{k}", w) for k, w in enumerate(weights, start=1))
    _require.number("tolerance", tolerance, above=0.0)
    if not bool((objective.weight_decay > 0).all()):
        raise ValueError("weight_decay: expected numbers > 0, since without decay no stationary point need exist, got 0")
    members = weights[0].shape[:-2]
    alone = split_objective(objective, members)
    found = [
        _polish_one(one, own, tolerance)
        for one, own in zip(alone, zip(*(w.reshape(-1, *w.shape[-2:]) for w in weights)))
    ]
    empty = torch.zeros(0, dtype=torch.float64)
    wide = tuple(
        torch.stack([m.lifted()[k] for m in found]).reshape(*members, *w.shape[-2:]) for k, w in enumerate(weights)
    )
    residual = torch.tensor([_residual(o, m) for o, m in zip(alone, found)], dtype=torch.float64)
    start, moved = layer_norms(weights), layer_norms(tuple(a - b for a, b in zip(wide, weights)))
    words = ["collapsed" if m.reason.startswith("collapsed") else "max_steps" if m.reason else "converged" for m in found]
    return Polished(
        objective=objective,
        weights=wide,
        times=torch.tensor([0, max(m.steps for m in found)]),
        saved=tuple(torch.stack([given, end]) for given, end in zip(weights, wide)),
        window_mean=None,
        status=np.array(words, dtype="<U9").reshape(members),
        stats={"method": "polish", "tolerance": tolerance, "steps": torch.tensor([m.steps for m in found]).reshape(members)},
        compact=tuple(m.weights for m in found),
        kinks=tuple(m.piece.listed() if m.piece else torch.zeros(0, 3, dtype=torch.int64) for m in found),
        gates=tuple(flat(kinks.gates(o, m.piece))[m.piece.mask] if m.piece else empty for o, m in zip(alone, found)),
        multipliers=tuple(flat(m.piece.multipliers)[m.piece.mask] if m.piece else empty for m in found),
        shares=tuple(m.shares for m in found),
        field=np.array([m.field for m in found]).reshape(members),
        reason=np.array([m.reason for m in found]).reshape(members),
        distance=torch.linalg.vector_norm(moved, dim=-1) / torch.linalg.vector_norm(start, dim=-1),
        residual=residual.reshape(members),
    )


def _polish_one(objective: Objective, weights: Weights, tolerance: float) -> _Member:
    network, activation = objective.network, ACTIVATIONS[objective.network.activation]
    if not all(bool(w.any()) for w in weights):
        return _collapsed(weights)
    small = compaction.reduced(network, weights)
    member = _Member(small.weights, small.shares)
    if activation.slopes is None or network.depth == 1:
        member = _minimised(objective, member, activation.value, tolerance=0.0)
        return _finished(objective, member, weights, tolerance)
    member = compaction.merged(member, _ALIKE)
    hidden = hidden_states(network, member.weights, objective.task.x)[0][:-1]
    scale = float(flat(hidden).abs().mean())
    for sharpness in SHARPENING:
        member = _followed(objective, member, scale, sharpness)
        if _largest(member.weights) < _VANISHED * _largest(weights):
            return _collapsed(weights)
    member = compaction.merged(member, _SAME)
    piece = _read_off(objective, member.weights, scale * SHARPENING[-1])
    # a smoothed stage that stopped early does not matter where the sharp conditions are met
    member = _resolved(objective, replace(member, piece=piece, reason=""))
    return _finished(objective, member, weights, tolerance)


def _collapsed(weights: Weights) -> _Member:
    zeros = tuple(torch.zeros_like(w) for w in weights)
    shares = tuple(torch.eye(size, dtype=torch.float64) for size in (weights[0].shape[1], *(len(w) for w in weights)))
    reason = "collapsed to 0, which is stationary and says nothing: take a smaller weight_decay or a larger start"
    return _Member(zeros, shares, reason=reason)


# ---- minimisation of a smooth objective --------------------------------------------------------------------------------


def _followed(objective: Objective, member: _Member, scale: float, sharpness: float) -> _Member:
    """The minimum near `member` with σ smoothed over sharpness · scale, merging copies on the way."""
    low, high = ACTIVATIONS[objective.network.activation].slopes
    width, tolerance = sharpness * scale, 1e-10 if sharpness == SHARPENING[-1] else 1e-5

    def activate(z: Tensor) -> Tensor:  # low·z + (high − low)·softplus; written so that two derivatives stay finite
        smooth = z.clamp_min(0.0) + width * torch.log1p(torch.exp(-(z / width).abs()))
        return low * z + (high - low) * smooth

    if sharpness == SHARPENING[0]:
        member = _descended(objective, member, activate)
    alike = min(1e-2, max(10 * sharpness, 1e-4))
    for _ in range(40):
        member = _minimised(objective, member, activate, tolerance=tolerance, steps=6)
        fewer = compaction.merged(member, alike)
        if [w.shape for w in fewer.weights] == [w.shape for w in member.weights] and not member.reason:
            return member
        member = fewer
    return member


def _loss(objective: Objective, shapes, activate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """L_λ as a function of the flat parameters, with `activate` for σ."""

    def loss(theta: Tensor) -> Tensor:
        h = objective.task.x.mT
        *hidden, last = unflat(theta, shapes)
        for w in hidden:
            h = activate(w @ h)
        value = LOSSES[objective.loss].value((last @ h).mT, objective.targets).mean()
        return value + objective.weight_decay / 2 * theta.square().sum()

    return loss


def _descended(objective: Objective, member: _Member, activate) -> _Member:
    """L-BFGS, cheap while there are many neurons: enough for copies to come together."""
    shapes = [w.shape for w in member.weights]
    loss = _loss(objective, shapes, activate)

    def value_and_gradient(point):
        theta = torch.tensor(point, requires_grad=True)
        value = loss(theta)
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient.numpy()

    end = minimize(
        value_and_gradient, flat(member.weights).numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 0.0}
    )
    return compaction.merged(replace(member, weights=unflat(torch.as_tensor(end.x), shapes)), _ALIKE)


def _minimised(objective: Objective, member: _Member, activate, *, tolerance: float, steps: int = 200) -> _Member:
    """Newton's method with decrease: eigenvalues of the Hessian in absolute value, so that it leaves saddles, and not below
    1e-12 of the largest, so that directions of symmetry do no harm. `reason` says if ‖gradient‖ stays above `tolerance`;
    0 asks for as far as rounding allows."""
    shapes = [w.shape for w in member.weights]
    loss = _loss(objective, shapes, activate)
    slope, curvature = grad(loss), jacrev(grad(loss))  # forward over reverse runs softplus in Python
    theta = flat(member.weights)
    value, gradient = loss(theta), slope(theta)
    taken = 0
    while gradient.norm() > tolerance and taken < steps:
        eigenvalues, vectors = torch.linalg.eigh(curvature(theta))
        size = eigenvalues.abs()
        step = vectors @ ((vectors.mT @ gradient) / size.clamp_min(1e-12 * size.max()))
        expected = gradient @ step
        # where the decrease is below what the loss can resolve, the gradient decides
        resolved = expected > 1e-12 * value.abs()
        for halvings in range(40):
            trial = theta - step / 2**halvings
            trial_value, trial_gradient = loss(trial), slope(trial)
            better = trial_value <= value - 1e-4 * expected / 2**halvings if resolved else trial_gradient.norm() < 0.9 * gradient.norm()
            if better or not resolved:
                break
        if not better:
            break
        theta, value, gradient, taken = trial, trial_value, trial_gradient, taken + 1
    reason = "" if gradient.norm() <= tolerance or tolerance == 0 else f"not converged: gradient {gradient.norm():.1e}"
    return replace(member, weights=unflat(theta, shapes), steps=member.steps + taken, reason=reason)


# ---- the sharp kinks ---------------------------------------------------------------------------------------------------


def _read_off(objective: Objective, weights: Weights, width: float) -> Piece:
    """The piece that a minimum smoothed over `width` lies next to: a slope off its limits by more than e^−30 is a kink."""
    low, high = ACTIVATIONS[objective.network.activation].slopes
    piece = kinks.piece_at(objective, weights, 30 * width)
    *before, output = hidden_states(objective.network, weights, objective.task.x)[0]
    softened = tuple(low + (high - low) * torch.sigmoid(z / width) for z in before)
    return kinks.with_gates(objective, piece, softened, output)


def _resolved(objective: Objective, member: _Member) -> _Member:
    """Newton on the conditions; kinks whose gate leaves the slopes of σ are let go, pre-activations that change side become
    kinks, and the conditions are solved again."""
    low, high = ACTIVATIONS[objective.network.activation].slopes
    for _ in range(30):
        member = _newton(objective, member)
        piece = member.piece
        *hidden, output = kinks.states(objective, piece)[0]
        gates, arriving = kinks.gates(objective, piece, output), kinks.signals(objective, piece, output)[1]
        released = [k & ((g < low) | (g > high)) for k, g in zip(piece.kinks, gates)]
        caught = [
            ~k & (torch.sign(z) != torch.sign(s - (low + high) / 2)) for k, z, s in zip(piece.kinks, hidden, piece.slopes)
        ]
        if not any(bool(changed.any()) for changed in (*released, *caught)):
            # zeros that the kinks imply, or a weight that is 0: their slopes are ends, not free choices
            implied = any(bool((~k & (z.abs() <= _ROUNDING * z.abs().max())).any()) for k, z in zip(piece.kinks, hidden))
            return replace(member, field="conservative") if implied else member
        now = tuple((k & ~r) | c for k, r, c in zip(piece.kinks, released, caught))
        # no slope s holds a released kink: γb − sb, which drives z up, has one sign for all of them
        slopes = tuple(
            torch.where(r, low + (high - low) * ((g > high) == (b > 0)).to(s.dtype), s).masked_fill(k, 0.0)
            for k, r, g, b, s in zip(now, released, gates, arriving, piece.slopes)
        )
        multipliers = tuple(m.masked_fill(~k, 0.0) for k, m in zip(now, piece.multipliers))
        member = replace(member, piece=Piece(piece.weights, now, slopes, multipliers))
    reason = "infeasible gate: no set of kinks was found whose gates all lie within the slopes of σ; start from a longer descent"
    return replace(member, reason=reason, field="conservative")


def _newton(objective: Objective, member: _Member) -> _Member:
    """As far down as rounding allows, with the field that the kinks' gradients ∂z_a/∂θ make."""
    evaluate = kinks.conditions(objective, member.piece)
    unknowns = member.piece.unknowns
    value, taken = evaluate(unknowns), 0
    for _ in range(30):
        step = torch.linalg.lstsq(jacfwd(evaluate)(unknowns), value[:, None], driver="gelsd").solution[:, 0]
        trial_value = evaluate(unknowns - step)
        if not trial_value.norm() < 0.9 * value.norm():
            break
        unknowns, value, taken = unknowns - step, trial_value, taken + 1
    piece = member.piece.at(unknowns)
    size = sum(w.numel() for w in piece.weights)
    slants = jacfwd(evaluate)(unknowns)[size:, :size]
    dependent = len(slants) and int(torch.linalg.matrix_rank(slants, rtol=1e-9)) < len(slants)
    field = "conservative" if dependent else "clarke" if len(slants) else "smooth"
    return replace(member, weights=piece.weights, piece=piece, field=field, steps=member.steps + taken)


def _finished(objective: Objective, member: _Member, given: Weights, tolerance: float) -> _Member:
    """`member` with a reason where it is not what was asked for."""
    if member.reason:
        return member
    largest = _largest(member.weights)
    if largest < _VANISHED * _largest(given):
        return _collapsed(given)
    residual, allowed = _residual(objective, member), tolerance * (1 + float(objective.weight_decay) * largest)
    if residual > allowed:
        reason = f"not converged: residual {residual:.1e}, above {allowed:.1e}; start from a longer descent"
        return replace(member, reason=reason)
    return member


def _largest(weights: Weights) -> float:
    return max(w.abs().max().item() for w in weights)


def _residual(objective: Objective, member: _Member) -> float:
    """Largest entry of the conditions."""
    if member.piece is not None:
        return kinks.conditions(objective, member.piece)(member.piece.unknowns).abs().max().item()
    loss = _loss(objective, [w.shape for w in member.weights], ACTIVATIONS[objective.network.activation].value)
    return grad(loss)(flat(member.weights)).abs().max().item()
