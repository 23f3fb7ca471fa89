"""What hidden neurons allow before networks are merged: permutations and rescalings that keep the function, the
permutation that makes one network's weights most like another's, and a centring that does not keep it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from . import _require
from .networks import Weights


def permute_neurons(weights: Weights, permutations: Sequence[Tensor]) -> Weights:
    """P_kW_kP_{k−1}ᵀ, P_0 = P_K = 1: the same function, neuron i of hidden layer k being what was permutations[k−1][…, i].

    K−1 permutations, (*E, m_k) or (m_k,) whole numbers. Raises ValueError for another number of them, or one that is no
    permutation.
    """
    weights, orders = _layers("weights", weights), list(permutations)
    if len(orders) != len(weights) - 1:
        raise ValueError(f"permutations: expected {len(weights) - 1}, one for each hidden layer, got {len(orders)}")
    permuted = list(weights)
    for k, order in enumerate(orders):
        size = weights[k].shape[-2]
        order = torch.as_tensor(order)
        if order.shape[-1:] != (size,) or not bool((order.sort(-1).values == torch.arange(size)).all()):
            raise ValueError(f"permutations[{k}]: expected the numbers 0 to {size - 1} in some order, got shape {tuple(order.shape)}")
        permuted[k] = torch.take_along_dim(permuted[k], order[..., :, None], -2)
        permuted[k + 1] = torch.take_along_dim(permuted[k + 1], order[..., None, :], -1)
    return tuple(permuted)


def random_permutations(weights: Weights, *, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A uniform permutation of each hidden layer, independent for each member: K−1 tensors (*E, m_k)."""
    weights = _layers("weights", weights)
    _require.generator(generator)
    return tuple(torch.rand(w.shape[:-1], generator=generator, dtype=torch.float64).argsort(-1) for w in weights[:-1])


def neuron_matching(reference: Weights, weights: Weights, *, sweeps: int = 50) -> tuple[Tensor, ...]:
    """Permutations that make Σ_k ⟨W_k^A, P_kW_k^BP_{k−1}ᵀ⟩ large, A the reference: K−1 tensors (*E, m_k) for `permute_neurons`.

    One layer at a time is a linear assignment problem, solved exactly; sweeps go on until one changes nothing, or `sweeps`
    are done, once from the last layer down and once from the first up, and the better end is kept. So with one hidden layer
    it is the optimum, with more a local one. Where neurons of the reference cannot be told apart, those matched to them stand
    in the order of their outgoing weights: one order for all networks that are matched to one reference. Weight matching
    after Ainsworth, Hayase & Srinivasa 2023, arXiv 2209.04836; it needs no data. Raises ValueError for networks whose
    shapes differ.
    """
    reference, weights = _layers("reference", reference), _layers("weights", weights)
    _require.integer("sweeps", sweeps, minimum=1)
    if [w.shape for w in reference] != [w.shape for w in weights]:
        raise ValueError(
            f"weights: expected the shapes of reference, {[tuple(w.shape) for w in reference]}, "
            f"got {[tuple(w.shape) for w in weights]}"
        )
    members = weights[0].shape[:-2]
    stacked = [w.reshape(-1, *w.shape[-2:]).numpy() for w in (*reference, *weights)]
    found = [_match(one[: len(weights)], one[len(weights) :], sweeps) for one in zip(*stacked)]
    return tuple(torch.as_tensor(np.stack(layer)).reshape(*members, -1) for layer in zip(*found))


def _match(reference: tuple[np.ndarray, ...], weights: tuple[np.ndarray, ...], sweeps: int) -> list[np.ndarray]:
    """The better of the two ends of the sweeps: where inputs tell neurons apart the first layer is the one to start with,
    where inputs of the networks are orthogonal only the read-out says something."""
    hidden = range(len(weights) - 1)
    orders = max((_swept(reference, weights, sweeps, order) for order in (hidden[::-1], hidden)), key=lambda end: end[0])[1]
    for k in hidden[::-1]:
        orders[k] = _untied(_likeness(reference, weights, orders, k), orders[k], _above(weights, orders, k))
    return orders


def _swept(reference, weights, sweeps: int, layers: Sequence[int]) -> tuple[float, list[np.ndarray]]:
    """(likeness, orders) where sweeps through `layers` end."""
    orders = [np.arange(len(w)) for w in weights[:-1]]
    for _ in range(sweeps):
        before = [order.copy() for order in orders]
        for k in layers:
            alike = _likeness(reference, weights, orders, k)
            order = linear_sum_assignment(alike, maximize=True)[1]
            gain = alike[np.arange(len(order)), order].sum() - alike[np.arange(len(order)), orders[k]].sum()
            if gain > 1e-12 * np.abs(alike).max() * len(order):  # rounding is no reason to go on
                orders[k] = order
        if all((new == old).all() for new, old in zip(orders, before)):
            break
    # each layer of weights is counted by the neurons above it, the read-out by those below
    total = sum((reference[k] * w[orders[k]]).sum() for k, w in enumerate(_columns(weights, orders)[:-1]))
    return total + (reference[-1] * _columns(weights, orders)[-1]).sum(), orders


def _likeness(reference, weights, orders, k: int) -> np.ndarray:
    """What neuron i of layer k in the reference and neuron j of the other have in common, (m_k, m_k)."""
    below = _columns(weights, orders)[k]
    return reference[k] @ below.T + reference[k + 1].T @ _above(weights, orders, k)


def _untied(alike: np.ndarray, order: np.ndarray, above: np.ndarray) -> np.ndarray:
    """`order`, equally good, with the neurons matched to equal rows of `alike` sorted by their outgoing weights."""
    twins = np.unique(alike + 0.0, axis=0, return_inverse=True)[1].ravel()  # + 0.0: no negative zeros
    untied = np.empty_like(order)
    untied[np.argsort(twins, kind="stable")] = order[np.lexsort((*above[::-1, order], twins))]
    return untied


def _above(weights, orders, k: int) -> np.ndarray:
    """P_{k+2}W_{k+2}, the weights that read hidden layer k + 1, as numbered from 1."""
    return weights[k + 1] if k + 1 == len(orders) else weights[k + 1][orders[k + 1]]


def _columns(weights, orders) -> list[np.ndarray]:
    """W_kP_{k−1}ᵀ for every layer."""
    return [weights[0], *(w[:, order] for w, order in zip(weights[1:], orders))]


def match_neurons(reference: Weights, weights: Weights) -> Weights:
    """`weights` with its hidden neurons in the order of `neuron_matching`: the same function, ready to be merged."""
    return permute_neurons(weights, neuron_matching(reference, weights))


def balance_readout(weights: Weights) -> Weights:
    """W_K D, D^{−1}W_{K−1} with D = √(N/P) on neurons read with a positive sign and √(P/N) on the others, P = Σ_{a>0} a and
    N = Σ_{a<0} |a| over the read-out a = W_K: the same function for σ of degree one, and a read-out that sums to 0.

    One output and at least two layers, ValueError otherwise, and for a read-out without one of the signs.
    """
    weights = _layers("weights", weights)
    readout = _one_output(weights)
    positive, negative = readout.clamp_min(0.0).sum(-1, keepdim=True), (-readout).clamp_min(0.0).sum(-1, keepdim=True)
    if not bool(((positive > 0) & (negative > 0)).all()):
        raise ValueError("weights: expected a read-out with entries of both signs, got one sign only; it cannot sum to 0")
    scale = torch.where(readout > 0, (negative / positive).sqrt(), (positive / negative).sqrt())
    return (*weights[:-2], weights[-2] / scale.mT, readout * scale)


def centre_readout(weights: Weights) -> Weights:
    """W_K − mean(W_K): the read-out without what all neurons share. This changes the function. One output."""
    weights = _layers("weights", weights)
    readout = _one_output(weights)
    return (*weights[:-1], readout - readout.mean(-1, keepdim=True))


def _one_output(weights: Weights) -> Tensor:
    if len(weights) < 2 or weights[-1].shape[-2] != 1:
        raise ValueError(
            f"weights: expected two or more layers and one output, got {len(weights)} with {weights[-1].shape[-2]} outputs"
        )
    return weights[-1]


def _layers(name: str, weights: Weights) -> Weights:
    weights = tuple(_require.tensor(f"{name}[{k}]", w) for k, w in enumerate(weights))
    for k, (below, above) in enumerate(zip(weights, weights[1:])):
        if below.ndim < 2 or above.shape != (*below.shape[:-2], above.shape[-2], below.shape[-2]):
            raise ValueError(f"{name}[{k + 1}]: expected (…, {below.shape[-2]}) with the members of {name}[0], got {tuple(above.shape)}")
    return weights
