"""Proof by interval arithmetic that an exact stationary point lies next to a polished one.

What is proved, for a member with `exists`. Let F(θ, μ) = 0 be the stationarity conditions of `kinks` for the compact
network, in real arithmetic, with the stored data and λ taken as the exact numbers that they are; x̄ the polished
unknowns, X the box of half-width r around them, R any matrix. With outward rounding throughout,

    max_i |R F(x̄)|_i + r · max_i Σ_j |I − R J|_ij < r      for an interval matrix J that contains F′(x) for all x in X.

Then x ↦ x − R F(x) maps X into itself (mean value theorem, row by row) and contracts it, R is regular, and so X contains
exactly one zero of F (Krawczyk 1969; Rump 2010, §13). On all of X, further, every pre-activation off the kinks keeps its
sign, and every gate μ_a/b_a lies strictly between the slopes of σ. So the zero is a point of the network itself at which
0 belongs to ∇L + λθ with those gates at the kinks. Since F′ is regular there, the kinks' gradients are independent, every
choice of gates is a limit of gradients nearby or a convex combination of such, and the point is stationary in Clarke's
sense. What is not proved: that it is a minimum, or where descent would go.

The interval arithmetic is that of Arb (python-flint); F′ is written out below, since it must be evaluated on intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from flint import arb, arb_mat, ctx
from torch import Tensor
from torch.func import jacfwd

from . import _require, kinks
from .kinks import Piece
from .networks import ACTIVATIONS
from .objective import Objective, check_members, split_objective
from .stationary import Polished

PRECISION = 80  # bits: rounding stays far below that of the stored numbers
LARGEST_RADIUS = 1e-6  # a box as wide as this is no longer the point that was polished

# ℓ′ and ℓ″ of one output f with label or target y, on intervals
_SLOPES = {
    "logistic": (
        lambda f, y: -y / (1 + (y * f).exp()),
        lambda f, y: 1 / ((1 + (f).exp()) * (1 + (-f).exp())),
    ),
    "squared": (lambda f, y: f - y, lambda f, y: arb(1)),
}


@dataclass(frozen=True, eq=False)
class Enclosure:
    """`exists` (*E,): an exact stationary point is proved within `radius` (*E,), in every weight and multiplier of the
    compact network; nan and a `reason` (*E,) where none is. Of that point, (*E, K, 2), lower and upper end: `norms`
    ‖W_k‖_F, `stable_ranks` ‖W_k‖_F²/‖W_k‖₂² and `angles` ∠(W_k, −∇_{W_k}L) in radians. `contraction` (*E,) is
    max_i Σ_j |I − RJ|_ij, by which the Krawczyk image of the box is smaller than the box, apart from rounding."""

    exists: np.ndarray
    radius: Tensor
    contraction: Tensor
    norms: Tensor
    angles: Tensor
    stable_ranks: Tensor
    reason: np.ndarray


class _NoProof(Exception):
    """Why there is none."""


def enclose(objective: Objective, polished: Polished) -> Enclosure:
    """Proof, for each member, that `objective` has an exact stationary point within a tiny box around the polished one.

    For ReLU, leaky ReLU and linear networks with one output, logistic or squared loss. No proof is no error: `reason`
    says what failed (not polished, singular system, no contraction, undecided sign, gate not inside), so that other data,
    another λ or a missing kink are turned down. Raises ValueError for networks of another kind and for an objective that
    does not fit the polished point.
    """
    network = _require.instance("objective", objective, Objective).network
    _require.instance("polished", polished, Polished)
    if network != polished.objective.network:
        raise ValueError(f"objective: expected one for {polished.objective.network}, got {network}")
    if ACTIVATIONS[network.activation].slopes is None and network.activation != "linear":
        raise ValueError(f"objective: expected relu, leaky_relu or linear, whose pieces are linear, got {network.activation}")
    if objective.loss not in _SLOPES or network.widths[-1] != 1:
        raise ValueError(f"objective: expected one output with logistic or squared loss, got {network.widths[-1]} with {objective.loss}")
    check_members(objective, polished.weights)
    samples = polished.objective.task.x.shape[-2]
    if objective.task.x.shape[-2] != samples:
        raise ValueError(f"objective: expected {samples} samples, as polished, got {objective.task.x.shape[-2]}")
    members = polished.weights[0].shape[:-2]
    alone = split_objective(objective, members)
    rows = []
    with ctx.workprec(PRECISION):
        for index, one in enumerate(alone):
            try:
                if polished.status.reshape(-1)[index] != "converged":
                    raise _NoProof(f"not polished: {polished.reason.reshape(-1)[index]}")
                rows.append(_prove(one, _piece(one, polished, index)))
            except _NoProof as reason:
                rows.append((False, np.nan, np.nan, *[np.full((network.depth, 2), np.nan)] * 3, str(reason)))
    exists, radius, contraction, norms, angles, ranks, reasons = zip(*rows)

    def shaped(values) -> Tensor:
        stacked = torch.tensor(np.array(values), dtype=torch.float64)
        return stacked.reshape(members + stacked.shape[1:])

    return Enclosure(
        exists=np.array(exists).reshape(members),
        radius=shaped(radius),
        contraction=shaped(contraction),
        norms=shaped(norms),
        angles=shaped(angles),
        stable_ranks=shaped(ranks),
        reason=np.array(reasons).reshape(members),
    )


def _piece(objective: Objective, polished: Polished, index: int) -> Piece:
    """The polished piece, from its weights, kinks and multipliers; slopes off the kinks by the signs there."""
    weights = polished.compact[index]
    piece = kinks.piece_at(objective, weights, -1.0)
    masks = [torch.zeros_like(k) for k in piece.kinks]
    for layer, neuron, sample in polished.kinks[index].tolist():
        masks[layer][neuron, sample] = True
    slopes = tuple(s.masked_fill(mask, 0.0) for s, mask in zip(piece.slopes, masks))
    piece = Piece(weights, tuple(masks), slopes, piece.multipliers)
    if len(polished.kinks[index]) != len(polished.multipliers[index]):
        raise ValueError(
            f"polished: expected a multiplier for each of {len(polished.kinks[index])} kinks, got {len(polished.multipliers[index])}"
        )
    return Piece(weights, tuple(masks), slopes, piece.spread(polished.multipliers[index]))


def _prove(objective: Objective, piece: Piece):
    unknowns = piece.unknowns
    jacobian = jacfwd(kinks.conditions(objective, piece))(unknowns)
    if not torch.linalg.cond(jacobian) < 1e14:
        raise _NoProof("singular system: kinks are dependent, or a symmetry leaves the point free to move")
    inverse = arb_mat(torch.linalg.inv(jacobian).tolist())
    defect = _largest_row(inverse * _System(objective, piece, 0.0).conditions())
    radius = max(4 * defect, 1e-15 * float(unknowns.abs().max()))
    while radius <= LARGEST_RADIUS:
        system = _System(objective, piece, radius)
        contraction = _largest_row(_identity(len(unknowns)) - inverse * system.jacobian())
        if _up(arb(defect) + arb(radius) * arb(contraction)) < radius:
            _check_sides(system)
            return True, radius, contraction, *_quantities(system), ""
        radius *= 8
    raise _NoProof(f"no contraction: no box of half-width up to {LARGEST_RADIUS:g} is mapped into itself; the polished point is not one of this objective")


class _System:
    """The conditions and all that they are made of, for every point of a box around the piece's unknowns."""

    def __init__(self, objective: Objective, piece: Piece, radius: float):
        self.piece, self.decay = piece, arb(float(objective.weight_decay))
        self.samples = objective.task.x.shape[-2]
        self.range = kinks.slope_range(objective)
        first, second = _SLOPES[objective.loss]
        labels = [arb(float(y)) for y in objective.task.y.flatten()]
        self.weights = [_box(w, radius) for w in piece.weights]
        self.slopes = [arb_mat(s.tolist()) for s in piece.slopes]
        multipliers = [_box(m, radius, where=k) for m, k in zip(piece.multipliers, piece.kinks)]
        self.before, self.after = [], [arb_mat(objective.task.x.mT.tolist())]
        for w, slope in zip(self.weights, (*self.slopes, None)):
            self.before.append(w * self.after[-1])
            if slope is not None:
                self.after.append(_times(slope, self.before[-1]))
        outputs = self.before[-1].entries()
        self.curvature = [second(f, y) / self.samples for f, y in zip(outputs, labels)]
        signals = [arb_mat([[first(f, y) / self.samples for f, y in zip(outputs, labels)]])]
        self.arriving = []
        for w, slope, multiplier in zip(self.weights[:0:-1], self.slopes[::-1], multipliers[::-1]):
            self.arriving.append(w.transpose() * signals[-1])
            signals.append(_times(slope, self.arriving[-1]) + multiplier)
        self.signals, self.arriving = signals[::-1], self.arriving[::-1]
        self.multipliers = multipliers

    def conditions(self) -> arb_mat:
        """F, as a column."""
        forces = [p * h.transpose() + self.decay * w for p, h, w in zip(self.signals, self.after, self.weights)]
        column = [entry for force in forces for entry in force.entries()]
        column += [z[a, i] for z, mask in zip(self.before, self.piece.kinks) for a, i in torch.nonzero(mask).tolist()]
        return arb_mat([[entry] for entry in column])

    def jacobian(self) -> arb_mat:
        """F′ = [[∂²(L + (λ/2)‖θ‖² + Σμz), (∂z_a)ᵀ], [∂z_a, 0]], symmetric."""
        depth, samples = len(self.weights), self.samples
        # reach[k][l][i] = ∂z_l/∂z_k at sample i, (m_l, m_k)
        reach = [{k: [_identity(self.weights[k].nrows())] * samples} for k in range(depth)]
        for k in range(depth):
            for l in range(k + 1, depth):
                reach[k][l] = [self.weights[l] * self._after_slope(l - 1, i, reach[k][l - 1][i]) for i in range(samples)]
        starts = np.cumsum([0, *(w.nrows() * w.ncols() for w in self.weights)]).tolist()
        size = starts[-1]

        def gradient(layer: int, neuron: int, sample: int) -> list:
            """∂z_layer[neuron, sample]/∂θ, flat."""
            row = []
            for k, w in enumerate(self.weights):
                if k > layer:
                    row += [arb(0)] * (w.nrows() * w.ncols())
                    continue
                inputs = [self.after[k][e, sample] for e in range(w.ncols())]
                for c in range(w.nrows()):
                    factor = reach[k][layer][sample][neuron, c]
                    row += [arb(0)] * w.ncols() if factor == 0 else [factor * h for h in inputs]
            return row

        slants = [
            gradient(k, a, i) for k, mask in enumerate(self.piece.kinks) for a, i in torch.nonzero(mask).tolist()
        ]
        outputs = arb_mat([gradient(depth - 1, 0, i) for i in range(samples)])
        weighted = arb_mat([[c * entry for entry in row] for c, row in zip(self.curvature, outputs.tolist())])
        hessian = (outputs.transpose() * weighted).tolist()
        for index in range(size):
            hessian[index][index] += self.decay
        for l in range(1, depth):  # signals meet what lower weights do to the state below: Σ_i P_l[a,i] ∂h_{l−1}[b,i]/∂W_k[c,e]
            for k in range(l):
                for b in range(self.weights[l].ncols()):
                    for c in range(self.weights[k].nrows()):
                        factors = [self.slopes[l - 1][b, i] * reach[k][l - 1][i][b, c] for i in range(samples)]
                        if all(f == 0 for f in factors):
                            continue
                        scaled = arb_mat([[p * f for p, f in zip(row, factors)] for row in self.signals[l].tolist()])
                        block = scaled * self.after[k].transpose()
                        for a in range(block.nrows()):
                            one = starts[l] + a * self.weights[l].ncols() + b
                            for e in range(block.ncols()):
                                other = starts[k] + c * self.weights[k].ncols() + e
                                hessian[one][other] += block[a, e]
                                hessian[other][one] += block[a, e]
        corner = [arb(0)] * len(slants)
        rows = [row + [slant[index] for slant in slants] for index, row in enumerate(hessian)]
        return arb_mat(rows + [slant + corner for slant in slants])

    def _after_slope(self, layer: int, sample: int, matrix: arb_mat) -> arb_mat:
        slopes = [self.slopes[layer][a, sample] for a in range(matrix.nrows())]
        return arb_mat([[s * entry for entry in row] for s, row in zip(slopes, matrix.tolist())])


def _check_sides(system: _System) -> None:
    """Off the kinks pre-activations keep the side of their slope, and on them gates lie inside, for the whole box."""
    low, high = system.range
    layers = zip(system.before, system.arriving, system.multipliers, system.piece.kinks, system.piece.slopes)
    for z, b, m, mask, slopes in layers:
        for a, row in enumerate(mask.tolist()):
            for i, kink in enumerate(row):
                if kink:
                    gate = m[a, i] / b[a, i]
                    if not (gate > low and gate < high):
                        raise _NoProof(f"gate not inside: {gate.str(5)} at a kink, expected one between {low:g} and {high:g}")
                # the slope was chosen by the sign of a rounded z, so the sign alone does not do
                elif low < high and not (z[a, i] > 0 if slopes[a, i] == high else z[a, i] < 0):
                    raise _NoProof(f"undecided sign: a pre-activation off the kinks, {z[a, i].str(5)}, is not on the side of its slope")


def _quantities(system: _System):
    """Ends of norms, angles and stable ranks of every layer, (K, 2) each."""
    norms, angles, ranks = [], [], []
    for w, p, h in zip(system.weights, system.signals, system.after):
        norm = _norm(w)
        residual = p * h.transpose() + system.decay * w
        sine = _norm(arb_mat([[entry.abs_upper() for entry in row] for row in residual.tolist()])) / (system.decay * norm)
        norms.append(_ends(norm))
        angles.append((0.0, _up(sine.asin()) if sine < 1 else float(np.pi)))
        low, high = _ends(norm * norm / _spectral_square(w))
        ranks.append((max(low, 1.0), high))
    return np.array(norms), np.array(angles), np.array(ranks)


def _spectral_square(w: arb_mat) -> arb:
    """‖W‖₂²: the largest eigenvalue of the smaller Gram matrix G. With any regular V, those of V⁻¹GV are the same and lie in
    its Gershgorin discs; the Rayleigh quotient of any vector is not above the largest."""
    gram = w * w.transpose() if w.nrows() <= w.ncols() else w.transpose() * w
    middle = torch.tensor([[float(entry.mid()) for entry in row] for row in gram.tolist()], dtype=torch.float64)
    vectors = arb_mat(torch.linalg.eigh(middle)[1].tolist())
    top = arb_mat([[row[-1]] for row in vectors.tolist()])
    quotient = (top.transpose() * gram * top)[0, 0] / (top.transpose() * top)[0, 0]
    similar = (vectors.inv() * gram * vectors).tolist()
    discs = [row[j] + sum((abs(entry) for i, entry in enumerate(row) if i != j), arb(0)) for j, row in enumerate(similar)]
    low, high = quotient.lower(), max(disc.upper() for disc in discs)
    return low.union(high)


def _box(values: Tensor, radius: float, where: Tensor | None = None) -> arb_mat:
    """Intervals of half-width `radius` around `values`, only `where` true."""
    wide = torch.ones_like(values, dtype=torch.bool) if where is None else where
    rows = zip(values.tolist(), wide.tolist())
    return arb_mat([[arb(v, radius) if w else arb(v) for v, w in zip(row, flags)] for row, flags in rows])


def _times(first: arb_mat, second: arb_mat) -> arb_mat:
    """Entry by entry."""
    return arb_mat([[a * b for a, b in zip(one, other)] for one, other in zip(first.tolist(), second.tolist())])


def _identity(size: int) -> arb_mat:
    return arb_mat(size, size, [int(i == j) for i in range(size) for j in range(size)])


def _norm(w: arb_mat) -> arb:
    return sum((entry * entry for entry in w.entries()), arb(0)).sqrt()


def _largest_row(matrix: arb_mat) -> float:
    """An upper bound of max_i Σ_j |A_ij|."""
    return max(_up(sum((abs(entry) for entry in row), arb(0))) for row in matrix.tolist())


def _up(value: arb) -> float:
    """A double that is not below any number of the interval."""
    return float(np.nextafter(float(value.upper()), np.inf))


def _ends(value: arb) -> tuple[float, float]:
    return float(np.nextafter(float(value.lower()), -np.inf)), _up(value)
