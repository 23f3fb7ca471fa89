"""What merging will do to outputs, said beforehand, from weights and second moments of inputs: what `bounds.output_change`
and `bounds.altered_share` take, and a prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _require
from ._numbers import EPS
from .networks import ACTIVATIONS, Network, Weights, check_weights, forward, hidden_states


def second_moments(network: Network, weights: Weights, x: Tensor) -> Weights:
    """M_{k−1} = (1/n) Σ_i h_{k−1}(x_i) h_{k−1}(x_i)ᵀ, k = 1 … K, of the layers' inputs h_0 = x, h_k = σ(W_k h_{k−1}).

    K tensors (*E, m_{k−1}, m_{k−1}); M_0 has no members' axes where x has none. It is all that `layer_changes` wants of
    the data. Raises ValueError for no inputs, and for inputs or weights that are not finite.
    """
    x = _require.tensor("x", x)
    if x.ndim > 1 and x.shape[-2] == 0:
        raise ValueError("x: expected at least one input, got none, which have no mean")
    forward(network, weights, x[..., :1, :] if x.ndim > 1 else x)  # says what does not fit
    weights = _finite("weights", weights)
    _, activations = hidden_states(network, weights, x)
    return tuple(h @ h.mT / h.shape[-1] for h in activations)


def layer_changes(network: Network, own: Weights, merged: Weights, moments: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """√tr(Δ_k M_{k−1} Δ_kᵀ), Δ_k = W̄_k − W_k, and ‖W̄_k‖₂, each (*E, K): what `bounds.output_change` takes.

    `own` are the W_k, `merged` the W̄_k, `moments` the own network's `second_moments` on its own inputs, or only the first
    of them, at least M_0: those that lack are bounded by the weights, ‖Δ_k‖₂ s_{k−1} with s_1² = tr(W_1 M_0 W_1ᵀ) and
    s_k = ‖W_k‖₂ s_{k−1}. Both are rounded up by what their computation may have lost. The bound holds for inputs with
    these moments, as they are given; of other inputs it says nothing. Raises ValueError for an activation that is not
    known to be 1-Lipschitz with σ(0) = 0, for moments that are not symmetric and positive semidefinite, and for members
    that do not fit together.
    """
    _require.instance("network", network, Network)
    if network.activation not in _LIPSCHITZ:
        raise ValueError(
            f"network: expected a 1-Lipschitz activation with σ(0) = 0, one of {', '.join(_LIPSCHITZ)}, got "
            f"{network.activation}; for others the bound does not hold"
        )
    moments = _moments(network, moments)
    own, merged = _one_ensemble(network, own, merged, moments)
    if len(moments) > network.depth:
        raise ValueError(f"moments: expected 1 to {network.depth}, those of the layers' inputs, got {len(moments)}")
    changes, size = [], None
    for k, (w, w_merged) in enumerate(zip(own, merged)):
        if k < len(moments):
            changes.append(_root_trace(w_merged - w, moments[k]))
            size = _root_trace(w, moments[k])
        else:
            changes.append(_spectral_norm(w_merged - w) * size)
            size = _spectral_norm(w) * size
    return torch.stack(changes, -1), torch.stack([_spectral_norm(w) for w in merged], -1)


def predicted_change(network: Network, own: Weights, merged: Weights, moment: Tensor) -> Tensor:
    """√E‖f_merged(x) − f(x)‖² if pre-activations were centred Gaussians, (*E,), from M_0 = `moment`: heuristic, no bound.

    Both networks' pre-activations (z, z̄) of a layer have a joint second moment; that of σ(z), σ(z̄) follows as if (z, z̄)
    were Gaussian with it: E[relu(a)relu(b)] = |a||b|(sin φ + (π−φ) cos φ)/2π at angle φ (Cho & Saul 2009), and so on up
    to the outputs. relu, leaky_relu and linear only.
    """
    _require.instance("network", network, Network)
    activation = ACTIVATIONS[network.activation]
    if activation.degree != 1:
        raise ValueError(f"network: expected relu, leaky_relu or linear, got {network.activation}")
    below, above = activation.slopes or (1.0, 1.0)
    moment = _moment("moment", moment, network.widths[0])
    own, merged = _one_ensemble(network, own, merged, [moment])
    both = [torch.cat([w, w_merged], -2) for w, w_merged in zip(own, merged)]
    joint = both[0] @ moment @ both[0].mT
    for w, w_merged in zip(own[1:], merged[1:]):
        positive, opposite = _gaussian_relu(joint, 1), _gaussian_relu(joint, -1)
        hidden = (above**2 + below**2) * positive - 2 * above * below * opposite
        zero = torch.zeros_like(w)
        blocks = torch.cat([torch.cat([w, zero], -1), torch.cat([zero, w_merged], -1)], -2)
        joint = blocks @ hidden @ blocks.mT
    c = network.widths[-1]
    change = joint[..., :c, :c] + joint[..., c:, c:] - joint[..., :c, c:] - joint[..., c:, :c]
    return change.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()


def decision_distance(outputs: Tensor) -> Tensor:
    """Least ‖change of f‖ that can alter the label: |f|, or (f_(1) − f_(2))/√2 for several outputs, (*E, n) from (*E, n, c)."""
    outputs = _require.tensor("outputs", outputs)
    if outputs.ndim < 2 or outputs.shape[-1] == 0:
        raise ValueError(f"outputs: expected (*E, n, c), c = 1 for one output, got {tuple(outputs.shape)}")
    if outputs.shape[-1] == 1:
        return outputs[..., 0].abs()
    top = outputs.topk(2, dim=-1).values
    return (top[..., 0] - top[..., 1]) / 2**0.5


_LIPSCHITZ = ("relu", "leaky_relu", "linear", "tanh")


def _gaussian_relu(moment: Tensor, sign: int) -> Tensor:
    """E[relu(a) relu(±b)] of centred Gaussians with second moment `moment`, (*E, m, m)."""
    size = moment.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = size[..., :, None] * size[..., None, :]
    cosine = (sign * moment / torch.where(scale > 0, scale, 1.0)).clamp(-1, 1)
    return scale * (torch.sqrt(1 - cosine**2) + (torch.pi - torch.acos(cosine)) * cosine) / (2 * torch.pi)


def _root_trace(w: Tensor, moment: Tensor) -> Tensor:
    """√tr(W M Wᵀ), (*E,), rounded up."""
    rows, columns = w.shape[-2:]
    trace = ((w @ moment) * w).sum(-1).sum(-1).clamp_min(0)
    # two sums over columns and one over rows; all terms together are at most ‖W‖_F² tr(M) in size, M being semidefinite
    size = w.square().sum((-2, -1)) * moment.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (trace + (2 * columns + rows + 4) * EPS * size).sqrt() * (1 + 2 * EPS)


def _spectral_norm(w: Tensor) -> Tensor:
    """‖W‖₂, (*E,), rounded up: the root of the largest eigenvalue of the smaller Gram matrix."""
    w = w if w.shape[-2] <= w.shape[-1] else w.mT
    largest = w.abs().amax((-2, -1), keepdim=True)
    w = w / torch.where(largest > 0, largest, 1.0)  # squares do not overflow
    gram = w @ w.mT
    # products: mε‖W‖_F². Eigenvalues: LAPACK's guide promises p(m)ε‖G‖₂ with p growing modestly; 4m and the trace are our allowance for it
    allowance = (w.shape[-1] + 4 * w.shape[-2]) * EPS * gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    return largest[..., 0, 0] * (torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0) + allowance).sqrt() * (1 + 4 * EPS)


def _moments(network: Network, moments: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(moments, Sequence) or not moments:
        raise TypeError("moments: expected a tuple (M_0, …) of at least one matrix, as second_moments() returns")
    return [_moment(f"moments[{k}]", moment, side) for k, (moment, side) in enumerate(zip(moments, network.widths))]


def _moment(name: str, moment: Tensor, side: int) -> Tensor:
    moment = _require.tensor(name, moment)
    if moment.shape[-2:] != (side, side):
        raise ValueError(f"{name}: expected (*E, {side}, {side}), got {tuple(moment.shape)}")
    # so that moments from single precision pass, and −M, or another matrix, does not; M + δI has a Cholesky factor if no
    # eigenvalue is below −δ
    size = moment.abs().amax((-2, -1), keepdim=True)
    unequal = (moment - moment.mT).abs() > 1e-6 * size
    allowed = torch.where(size > 0, 1e-6 * size, 1.0) * torch.eye(side, dtype=torch.float64)
    if unequal.any() or (torch.linalg.cholesky_ex(moment + allowed).info > 0).any():
        raise ValueError(f"{name}: expected a symmetric positive semidefinite matrix, got one that is not; see second_moments()")
    return moment


def _one_ensemble(network: Network, own: Weights, merged: Weights, moments: Sequence[Tensor]) -> tuple[Weights, Weights]:
    """Both weights, finite, of the network, with members' axes that broadcast together and with those of the moments."""
    checked = [_finite(name, check_weights(network, weights)) for name, weights in (("own", own), ("merged", merged))]
    shapes = [weights[0].shape[:-2] for weights in checked] + [moment.shape[:-2] for moment in moments]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        got = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"merged: expected members' axes that broadcast with those of own and of the moments, got {got}") from None
    return checked[0], checked[1]


def _finite(name: str, weights: Weights) -> Weights:
    return tuple(_require.tensor(f"{name}[{k}]", w) for k, w in enumerate(weights))
